"""A request inside the engine: its tokens, how many of them are computed, and the blocks that hold their keys and values."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from .backend import Delta, GenRequest, TokenLogprobs
from .kvcache import BLOCK, chain, root

if TYPE_CHECKING:
    import torch


class Matcher(Protocol):
    """A grammar following one sequence. See docs/engine.md."""

    finished: bool

    def fill(self, mask: torch.Tensor) -> None: ...
    def accept(self, token_id: int) -> None: ...


@dataclass(eq=False)
class Sequence:
    """tokens[:computed] are in the cache (blocks of `table`); tokens[prompt_length:] were generated here.

    keys: hash chain of the full blocks of `tokens`, as far as it was needed. published: blocks that others may find.
    """

    request: GenRequest
    tokens: list[int]
    prompt_length: int
    limit: int  # tokens it may reach, prompt included
    order: int  # of arrival
    seed: int
    matcher: Matcher | None = None
    table: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    computed: int = 0
    published: int = 0
    cached_tokens: int = 0
    draft: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    said_first: bool = False
    embedding_only: bool = False

    @classmethod
    def of(cls, request: GenRequest, limit: int, order: int, matcher: Matcher | None = None) -> Sequence:
        params = request.params
        seed = random.SystemRandom().getrandbits(63) if params.seed is None else params.seed
        embedding = request.task == "embed"
        tokens = list(request.prompt_token_ids)
        return cls(request, tokens, len(tokens), limit, order, seed, matcher, embedding_only=embedding)

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def remaining(self) -> int:
        """Tokens that are known and not computed: 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        return self.remaining == 1 and len(self.tokens) > self.prompt_length

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first; the largest is preempted first."""
        return self.request.priority, self.order

    @property
    def wants_all_logits(self) -> bool:
        """Logprobs of the prompt were asked and are not complete."""
        return self.request.params.prompt_logprobs is not None and len(self.prompt_logprobs) < self.prompt_length

    def block_keys(self, count: int) -> list[bytes]:
        """Keys of the first `count` full blocks of `tokens`."""
        while len(self.keys) < count:
            start = len(self.keys) * BLOCK
            parent = self.keys[-1] if self.keys else root(self.request.tenant, self.request.adapter)
            self.keys.append(chain(parent, self.tokens[start : start + BLOCK]))
        return self.keys[:count]

    def first_delta(self, delta: Delta) -> Delta:
        """Add what is said once."""
        if not self.said_first:
            self.said_first = True
            delta.cached_tokens = self.cached_tokens
            if self.request.params.prompt_logprobs is not None:
                delta.prompt_logprobs = self.prompt_logprobs
        return delta
