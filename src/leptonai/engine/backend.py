"""What every engine looks like from outside: token ids go in, deltas of token ids come out. All structs cross processes as msgpack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec

from .params import SamplingParams

Feature = Literal["lora", "grammar", "logprobs", "prefix_cache", "embeddings"]
FinishReason = Literal["stop", "length", "abort", "error"]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`max_model_len`: tokens of prompt and answer together. `features`: what this backend can do beyond plain sampling."""

    name: str
    vocab_size: int
    max_model_len: int
    eos_token_ids: list[int]
    dtype: str
    features: frozenset[Feature] = frozenset()


class GenRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One sequence to be continued (`params.n` must be 1: callers use `params.split()`).

    priority: smaller is earlier. tenant: fair share is by tenant, and no two tenants share cached prefixes. adapter: a loaded LoRA.
    task `embed`: one delta with `embedding`, nothing is generated.
    """

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams = SamplingParams()
    priority: int = 0
    tenant: str = ""
    adapter: str | None = None
    arrival_s: float = 0.0
    task: Literal["generate", "embed"] = "generate"


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Of one token: its own logprob, and the most likely tokens, best first: [(token id, logprob), …]."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = []


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one step adds to a request. The last one has a `finish_reason`; nothing follows it.

    stop_reason: the stop token id that ended it (None for the model's own end). The end token itself is in `token_ids`.
    logprobs: one for each token of `token_ids`, where asked. prompt_logprobs: once, with the first token; None for the first position.
    cached_tokens: prompt tokens that came from the prefix cache (with the first delta).
    """

    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cached_tokens: int = 0
    embedding: list[float] | None = None
    error: str | None = None


class Stats(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Counts since the start, and what is now. kv_*: blocks. prefix_*: prompt tokens. accepted/drafted: tokens of speculation."""

    waiting: int = 0
    running: int = 0
    kv_used: int = 0
    kv_total: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    tokens_per_s: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    adapters: list[str] = []


class LLMBackend(Protocol):
    """The engine in this process, in another one, or somebody else's engine."""

    info: ModelInfo

    def submit(self, request: GenRequest) -> AsyncIterator[Delta]:
        """Deltas until one has a finish reason. Raises InvalidInput (too long, unknown adapter) or TooMany (queue full) at the first."""
        ...

    async def abort(self, request_id: str) -> None:
        """End a request at once and free what it held; unknown ids are fine."""
        ...

    def stats(self) -> Stats: ...
