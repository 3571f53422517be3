"""Tokens to text, for the n choices of one request: what each step adds to each choice, stop strings applied, usage counted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ...base.errors import LeptonError
from ..backend import GenRequest, LLMBackend, TokenLogprobs
from ..detokenize import Detokenizer
from ..params import SamplingParams

CONTEXT = 5
"""Tokens of the prompt that are decoded with the first of the answer."""

_salt = os.urandom(4).hex()
_ids = itertools.count(1)


def new_id(prefix: str) -> str:
    """Unique in this process and, by the salt, between processes: no uuid on the hot path."""
    return f"{prefix}-{_salt}{next(_ids):012x}"


@dataclass(slots=True)
class Piece:
    """What one step added to choice `index`. `finish`: "stop", "length" or None while it goes on."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None


@dataclass(slots=True)
class Usage:
    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def to_dict(self) -> dict:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass
class Generation:
    """One prompt and its choices. Iterate `pieces()` once; leaving it early frees everything."""

    backend: LLMBackend
    tokenizer: object
    prompt_token_ids: list[int]
    params: SamplingParams
    tenant: str = ""
    priority: int = 0
    adapter: str | None = None
    first_index: int = 0
    hide_end: bool = False
    """Leave the end token out of the text also where special tokens are shown (tool parsers want to see the others)."""
    usage: Usage = field(default_factory=Usage)

    def pieces(self) -> AsyncIterator[Piece]:
        self.usage.prompt = len(self.prompt_token_ids)
        each = self.params.split()
        if len(each) == 1:
            return self._choice(self.first_index, each[0])
        return merged([self._choice(self.first_index + i, params) for i, params in enumerate(each)])

    async def _choice(self, index: int, params: SamplingParams) -> AsyncIterator[Piece]:
        request = GenRequest(
            id=new_id("gen"),
            prompt_token_ids=self.prompt_token_ids,
            params=params,
            priority=self.priority,
            tenant=self.tenant,
            adapter=self.adapter,
        )
        detokenizer = Detokenizer(self.tokenizer, params)
        # The end of the prompt is context that is known already: a first token keeps the space before it.
        detokenizer.tokens = self.prompt_token_ids[-CONTEXT:]
        detokenizer.read = len(detokenizer.tokens)
        ends = set(self.backend.info.eos_token_ids) if self.hide_end else ()
        usage = self.usage
        async with contextlib.aclosing(self.backend.submit(request)) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "error":
                    raise LeptonError(f"the engine could not go on with this request: {delta.error}")
                usage.completion += len(delta.token_ids)
                usage.cached = max(usage.cached, delta.cached_tokens)
                finished = delta.finish_reason is not None
                shown = delta.token_ids
                if ends and finished and shown and shown[-1] in ends:
                    shown = shown[:-1]
                text, stop = detokenizer.push(shown, finished)
                finish = "stop" if stop is not None else delta.finish_reason
                reason = stop if stop is not None else delta.stop_reason
                yield Piece(index, text, delta.token_ids, delta.logprobs, finish, reason, delta.prompt_logprobs)
                if finish is not None:
                    return


async def merged(sources: list[AsyncIterator[Piece]]) -> AsyncIterator[Piece]:
    """What the sources yield, as it comes; an error of one ends all."""
    queue: asyncio.Queue = asyncio.Queue()

    async def pump(source: AsyncIterator[Piece]) -> None:
        try:
            async with contextlib.aclosing(source):
                async for piece in source:
                    queue.put_nowait(piece)
            queue.put_nowait(None)
        except LeptonError as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, LeptonError):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Finished:
    """A choice, whole."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: str = "stop"
    stop_reason: int | str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None


async def collect(generation: Generation) -> list[Finished]:
    """All choices, whole, in order."""
    count = generation.params.n
    parts: list[list[str]] = [[] for _ in range(count)]
    choices = [Finished() for _ in range(count)]
    async with contextlib.aclosing(generation.pieces()) as pieces:
        async for piece in pieces:
            at = piece.index - generation.first_index
            choice = choices[at]
            parts[at].append(piece.text)
            choice.token_ids += piece.token_ids
            choice.logprobs += piece.logprobs or ()
            choice.prompt_logprobs = choice.prompt_logprobs or piece.prompt_logprobs
            if piece.finish is not None:
                choice.finish, choice.stop_reason = piece.finish, piece.stop_reason
    for choice, texts in zip(choices, parts, strict=True):
        choice.text = "".join(texts)
    return choices
