"""/v1/completions: prompts as text, list of texts, tokens or list of token lists; echo, n, best_of, logprobs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from .errors import ApiError
from .generation import Finished, Generation, Piece, Usage, collect, merged, new_id
from .http import DONE, event
from .logprobs import completion_logprobs
from .models import Served
from .sampling import grammar_of, sampling_params
from .schema import CompletionRequest

MAX_PROMPTS = 256
MAX_CHOICES = 512
"""Of all prompts of one request together."""


@dataclass
class Plan:
    generations: list[Generation]
    texts: list[str]
    """The prompts as text, where echo asks for them."""
    id: str
    created: int
    model: str
    request: CompletionRequest
    empty: bool
    """max_tokens was 0: only the prompt is wanted."""

    def usage(self) -> dict:
        each = [generation.usage for generation in self.generations]
        completion = 0 if self.empty else sum(one.completion for one in each)
        return Usage(sum(one.prompt for one in each), completion, sum(one.cached for one in each)).to_dict()


def prompts(
    given: str | list, served: Served, param: str = "prompt", *, add_special_tokens: bool = True
) -> list[list[int]]:
    """The four forms of a prompt as lists of token ids."""
    if isinstance(given, str):
        given = [given]
    elif len({type(one) for one in given}) > 1:
        raise ApiError(
            400,
            f"{param} must be all texts, all token ids, or all lists of token ids.",
            param=param,
            code="invalid_type",
        )
    elif given and isinstance(given[0], int):
        given = [given]
    if not given or len(given) > MAX_PROMPTS:
        raise ApiError(
            400, f"{param} must hold 1 to {MAX_PROMPTS} prompts, got {len(given)}.", param=param, code="invalid_value"
        )
    vocabulary = served.backend.info.vocab_size
    tokens = []
    for one in given:
        if isinstance(one, str):
            ids = served.encode(one, add_special_tokens=add_special_tokens, param=param)
        else:
            ids = one
            if any(not 0 <= token < vocabulary for token in ids):
                raise ApiError(
                    400,
                    f"{param} has a token that is not in the vocabulary of {vocabulary}.",
                    param=param,
                    code="invalid_value",
                )
        if not ids:
            raise ApiError(400, f"{param} must not be empty.", param=param, code="invalid_value")
        tokens.append(ids)
    return tokens


def plan(request: CompletionRequest, served: Served, tenant: str) -> Plan:
    """Raises ApiError."""
    adapter = served.adapter(request.model)
    if request.suffix:
        raise ApiError(
            400,
            "This model does not fill in the middle: suffix cannot be used.",
            param="suffix",
            code="unsupported_parameter",
        )
    n, best_of = request.n or 1, request.best_of or request.n or 1
    if best_of < n:
        raise ApiError(400, f"best_of must be at least n ({n}), got {best_of}.", param="best_of", code="invalid_value")
    if best_of > n and request.stream:
        raise ApiError(400, "best_of cannot be streamed.", param="best_of", code="invalid_value")
    grammar = grammar_of(request)
    if grammar is not None:
        served.need("grammar", "structured output", "response_format")
    if request.logprobs is not None or best_of > n:
        served.need("logprobs", "logprobs", "logprobs")
    tokens = prompts(request.prompt, served, add_special_tokens=request.add_special_tokens is not False)
    if len(tokens) * best_of > MAX_CHOICES:
        raise ApiError(
            400,
            f"{len(tokens)} prompts of {best_of} choices are more than {MAX_CHOICES}.",
            param="n",
            code="invalid_value",
        )
    empty = request.max_tokens == 0 and bool(request.echo)
    logprobs = request.logprobs if best_of == n else max(request.logprobs or 0, 0)
    generations = []
    for position, ids in enumerate(tokens):
        limit = 1 if empty else request.max_tokens
        params = sampling_params(
            request,
            max_tokens=limit,
            logprobs=logprobs,
            prompt_tokens=len(ids),
            info=served.backend.info,
            grammar=grammar,
        )
        params = params.replace(n=1 if empty and not request.logprobs else best_of)
        if request.echo and request.logprobs is not None:
            params = params.replace(prompt_logprobs=request.logprobs)
        generations.append(
            Generation(
                served.backend,
                served.tokenizer,
                ids,
                params,
                tenant,
                request.priority or 0,
                adapter,
                first_index=position * best_of,
            )
        )
    texts = (
        [prompt_text(request.prompt, position, ids, served) for position, ids in enumerate(tokens)]
        if request.echo
        else []
    )
    return Plan(generations, texts, new_id("cmpl"), int(time.time()), request.model or served.name, request, empty)


def prompt_text(given: str | list, position: int, ids: list[int], served: Served) -> str:
    one = given if isinstance(given, str) else given[position]
    return one if isinstance(one, str) else served.tokenizer.decode(ids, skip_special_tokens=False)


def best(choices: list[Finished], count: int) -> list[Finished]:
    """The `count` choices whose tokens are the likeliest on average."""
    if len(choices) == count:
        return choices
    return sorted(choices, key=lambda one: -sum(p.logprob for p in one.logprobs) / max(1, len(one.logprobs)))[:count]


async def answer(plan: Plan) -> dict:
    request, n = plan.request, plan.request.n or 1
    choices: list[dict] = []
    for position, done in enumerate(await asyncio.gather(*(collect(one) for one in plan.generations))):
        generation = plan.generations[position]
        for choice in best(done, min(n, len(done))):
            prefix = plan.texts[position] if request.echo else ""
            text = prefix + ("" if plan.empty else choice.text)
            value: dict = {
                "index": len(choices),
                "text": text,
                "logprobs": None,
                "finish_reason": "length" if plan.empty else choice.finish,
            }
            value["stop_reason"] = choice.stop_reason
            if request.logprobs is not None:
                ids = [] if plan.empty else choice.token_ids
                given: list = [] if plan.empty else choice.logprobs
                if request.echo:
                    ids, given = (
                        generation.prompt_token_ids + ids,
                        (choice.prompt_logprobs or [None] * len(generation.prompt_token_ids)) + given,
                    )
                value["logprobs"] = completion_logprobs(generation.tokenizer, ids, given, request.logprobs, 0)
            if request.return_token_ids:
                value["token_ids"], value["prompt_token_ids"] = choice.token_ids, generation.prompt_token_ids
            choices.append(value)
    return {
        "id": plan.id, "object": "text_completion", "created": plan.created, "model": plan.model, "choices": choices,
        "usage": plan.usage(), "system_fingerprint": None,
    }  # fmt: skip


async def frames(plan: Plan, *, include_usage: bool) -> AsyncIterator[bytes]:
    request = plan.request
    shared = {"id": plan.id, "object": "text_completion", "created": plan.created, "model": plan.model}
    usage = {"usage": None} if include_usage else {}
    offsets: dict[int, int] = {}
    pieces: AsyncIterator[Piece]
    pieces = (
        plan.generations[0].pieces()
        if len(plan.generations) == 1
        else merged([one.pieces() for one in plan.generations])
    )
    per_prompt = plan.generations[0].params.n
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            text, finish, logprobs = ("", "length", None) if plan.empty else (piece.text, piece.finish, None)
            generation = plan.generations[piece.index // per_prompt]
            ids: list[int] = [] if plan.empty else piece.token_ids
            given: list = [] if plan.empty else list(piece.logprobs or ())
            first = piece.index not in offsets
            start = offsets.get(piece.index, 0)
            if request.echo and first:
                text = plan.texts[piece.index // per_prompt] + text
                ids = generation.prompt_token_ids + ids
                given = (piece.prompt_logprobs or [None] * len(generation.prompt_token_ids)) + given
            offsets[piece.index] = start + len(text)
            if request.logprobs is not None:
                logprobs = completion_logprobs(generation.tokenizer, ids, given, request.logprobs, start)
            if text or finish or logprobs:
                choice = {"index": piece.index, "text": text, "logprobs": logprobs, "finish_reason": finish}
                yield event({**shared, "choices": [choice], **usage})
    yield (event({**shared, "choices": [], "usage": plan.usage()}) if include_usage else b"") + DONE
