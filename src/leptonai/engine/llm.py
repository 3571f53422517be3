"""`la.LLM`: a language model in this process. Text, chats or token ids in; text, tokens, logprobs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from ..base.errors import InvalidInput, LeptonError
from .backend import Delta, FinishReason, GenRequest, Stats, TokenLogprobs
from .detokenize import Detokenizer
from .params import SamplingParams

Prompt = str | Sequence[int] | Sequence[dict[str, Any]]


@dataclass
class Completion:
    """One answer. finish_reason: stop or length; stop_reason: the stop string or token that ended it, None for the model's own end."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass
class Output:
    """A prompt and its `n` answers, likewise the first of them as `.text`, `.token_ids`, `.finish_reason`, `.logprobs`."""

    prompt_token_ids: list[int]
    outputs: list[Completion]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    cached_tokens: int = 0
    embedding: list[float] | None = None

    @property
    def text(self) -> str:
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        return self.outputs[0].logprobs


@dataclass(frozen=True)
class Piece:
    """What a stream gives: new text and tokens, and at the end why it ended."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None


class LLM:
    """Load `path` (a folder, a .gguf file, or OWNER/NAME of the Hub) and generate. Not for two threads at once.

    quantization: int8 or int4 at load. kv_cache_dtype: bf16, fp32 or int8. max_num_batched_tokens, max_num_seqs, num_speculative_tokens,
    enable_prefix_caching: see `engine.EngineConfig`. ops: `ref` runs on torch alone.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        quantization: Literal["int8", "int4"] | None = None,
        dtype: str = "auto",
        kv_cache_dtype: str = "auto",
        max_model_len: int | None = None,
        kv_cache_bytes: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 256,
        num_speculative_tokens: int = 0,
        enable_prefix_caching: bool = True,
        ops: str | None = None,
    ):
        from .engine import Engine, EngineConfig
        from .models import load_model, resolve_model
        from .tokenizer import load_tokenizer

        config = EngineConfig(
            max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs, enable_prefix_caching=enable_prefix_caching,
            num_speculative_tokens=num_speculative_tokens, max_waiting=1 << 30,
        )  # fmt: skip
        path = resolve_model(path)
        self.tokenizer = load_tokenizer(path)
        runner = load_model(
            path, quantization=quantization, dtype=dtype, kv_cache_dtype=kv_cache_dtype, max_model_len=max_model_len,
            kv_cache_bytes=kv_cache_bytes, max_num_seqs=max_num_seqs, ops=ops,
        )  # fmt: skip
        self.engine = Engine(runner, config, grammar=self.compile_grammar)
        self.info = self.engine.info
        self.ids = count()
        self.grammars: Any = None

    def compile_grammar(self, grammar: Any) -> Any:
        from .grammar import GrammarCompiler

        if self.grammars is None:
            self.grammars = GrammarCompiler(
                self.tokenizer.backend.to_str(), self.info.vocab_size, self.info.eos_token_ids
            )
        return self.grammars(grammar)

    def encode(self, prompt: Prompt) -> list[int]:
        """Tokens of a text, of a chat (messages with role and content), or of token ids (as they are)."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        items = list(prompt)
        if items and all(isinstance(item, dict) for item in items):
            return self.tokenizer.encode(self.tokenizer.apply_chat_template(items), add_special_tokens=False)
        if items and all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            return items
        raise InvalidInput(
            "this is no prompt", received=prompt, expected="a text, a list of messages or a list of token ids"
        )

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None, *,
        adapter: str | None = None, priority: int = 0,
    ) -> list[Output]:  # fmt: skip
        """Answers to one prompt or many (in their order), all computed together; `params` is one for all, or one each."""
        many = as_many(prompts)
        each = (
            [params or SamplingParams()] * len(many)
            if params is None or isinstance(params, SamplingParams)
            else list(params)
        )
        if len(each) != len(many):
            raise InvalidInput("there are not as many params as prompts", received=len(each), expected=str(len(many)))
        tokens = [self.encode(prompt) for prompt in many]
        outputs = [Output(prompt, []) for prompt in tokens]
        with self.requests() as running:
            for output, wanted in zip(outputs, each, strict=True):
                for choice in self.tokenizer.resolve(wanted).split():
                    answer = Answer(self.tokenizer, choice, output)
                    output.outputs.append(answer.completion)
                    request = GenRequest(
                        id=f"llm-{next(self.ids)}", prompt_token_ids=output.prompt_token_ids, params=choice
                    )
                    request.adapter, request.priority = adapter, priority
                    self.engine.add_request(request)
                    running[request.id] = answer
            while running:
                for request_id, delta in self.engine.step():
                    if running[request_id].push(delta):
                        del running[request_id]
                        self.engine.abort(request_id)  # of a stop string; else it is over already
        return outputs

    def chat(
        self, messages: Sequence[dict[str, Any]] | Sequence[Sequence[dict[str, Any]]], params: SamplingParams | None = None, *,
        adapter: str | None = None, **variables: Any,
    ) -> list[Output]:  # fmt: skip
        """Answers to one chat or many. `variables` go to the model's chat template (tools, add_generation_prompt, enable_thinking, …)."""
        chats = [messages] if messages and isinstance(messages[0], dict) else list(messages)
        texts = [self.tokenizer.apply_chat_template(chat, **variables) for chat in chats]  # type: ignore[arg-type]
        return self.generate(
            [self.tokenizer.encode(text, add_special_tokens=False) for text in texts], params, adapter=adapter
        )

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Piece]:
        """The answer to one prompt, piece by piece. Leaving the loop ends the request."""
        params = self.tokenizer.resolve(params or SamplingParams())
        output = Output(self.encode(prompt), [])
        answer = Answer(self.tokenizer, params, output)
        request = GenRequest(
            id=f"llm-{next(self.ids)}", prompt_token_ids=output.prompt_token_ids, params=params, adapter=adapter
        )
        with self.requests() as running:
            self.engine.add_request(request)
            running[request.id] = answer
            while running:
                for _, delta in self.engine.step():
                    before = len(answer.completion.text)
                    if answer.push(delta):
                        running.clear()
                        self.engine.abort(request.id)
                    text = answer.completion.text[before:]
                    if text or answer.completion.finish_reason:
                        yield Piece(text, delta.token_ids, answer.completion.finish_reason)

    def embed(self, prompts: Prompt | Sequence[Prompt], *, adapter: str | None = None) -> list[Output]:
        """Unit vectors: the state of the last token, normed."""
        outputs = [Output(self.encode(prompt), []) for prompt in as_many(prompts)]
        with self.requests() as running:
            for output in outputs:
                request = GenRequest(
                    id=f"llm-{next(self.ids)}", prompt_token_ids=output.prompt_token_ids, task="embed", adapter=adapter
                )
                self.engine.add_request(request)
                running[request.id] = output
            while running:
                for request_id, delta in self.engine.step():
                    raise_error(delta)
                    running.pop(request_id).embedding = delta.embedding
        return outputs

    def stats(self) -> Stats:
        return self.engine.stats()

    @contextmanager
    def requests(self) -> Iterator[dict[str, Any]]:
        """Requests of one call, by id; what is left when it ends (an error, Ctrl-C, a closed stream) is aborted."""
        running: dict[str, Any] = {}
        try:
            yield running
        finally:
            for request_id in running:
                self.engine.abort(request_id)


class Answer:
    """Collects the deltas of one choice into its completion."""

    def __init__(self, tokenizer: Any, params: SamplingParams, output: Output):
        self.completion, self.output = Completion(), output
        self.detokenizer = Detokenizer(tokenizer, params, output.prompt_token_ids)

    def push(self, delta: Delta) -> bool:
        """True when the answer is over."""
        raise_error(delta)
        done = self.completion
        done.token_ids += delta.token_ids
        if delta.logprobs:
            done.logprobs = (done.logprobs or []) + delta.logprobs
        if delta.prompt_logprobs is not None:
            self.output.prompt_logprobs = delta.prompt_logprobs
        self.output.cached_tokens = max(self.output.cached_tokens, delta.cached_tokens)
        text, stop = self.detokenizer.push(delta.token_ids, delta.finish_reason is not None)
        done.text += text
        done.finish_reason, done.stop_reason = (
            ("stop", stop) if stop is not None else (delta.finish_reason, delta.stop_reason)
        )
        return done.finish_reason is not None


def raise_error(delta: Delta) -> None:
    if delta.error:
        raise LeptonError("the request failed", received=delta.error)


def as_many(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A text, a chat and a list of token ids are one prompt; other lists are several."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int | dict)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
