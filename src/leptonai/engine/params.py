"""How one request wants its tokens chosen: `SamplingParams`, with vLLM's names, validated when made. Crosses processes as msgpack."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from ..base.errors import InvalidInput

GrammarKind = Literal["json_schema", "json_object", "regex", "lark", "gbnf", "choice", "structural_tag"]
MAX_N = 128
MAX_LOGPROBS = 20
MAX_TOP_K = 1024


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What the text must be. `value`: JSON schema, regex, grammar; for `choice` a JSON list of strings; for `json_object` empty."""

    kind: GrammarKind
    value: str = ""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Raises InvalidInput for a value that cannot be meant. `temperature=0` is greedy; `top_k` 0 or -1 and `top_p` 1 truncate nothing.

    logprobs: that many alternatives beside the chosen token, of the model's own distribution (before temperature and penalties).
    stop strings end the text (and are left out unless `include_stop_str_in_output`); they are found by `detokenize`, not by the engine.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] = {}
    bad_words: list[str] = []
    bad_words_token_ids: list[list[int]] = []
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            msgspec.structs.force_setattr(self, "stop", [self.stop])
        for name, low, high in RANGES:
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            number = whole or (name in REAL and isinstance(value, float) and math.isfinite(value))
            if not number or not low <= value <= high:
                kind = "a number" if name in REAL else "a whole number"
                raise InvalidInput(
                    f"{name} cannot be that", received=value, expected=f"{kind} from {low:g} to {high:g}"
                )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidInput(
                "min_tokens is above max_tokens", received=self.min_tokens, expected=f"at most {self.max_tokens}"
            )
        if len(self.stop) > 64 or any(not isinstance(text, str) or not text for text in self.stop):
            raise InvalidInput(
                "stop cannot be that", received=self.stop, expected="up to 64 strings, none of them empty"
            )
        for token, bias in self.logit_bias.items():
            if not isinstance(bias, int | float) or not -100 <= bias <= 100:
                raise InvalidInput(
                    f"logit_bias of token {token} cannot be that", received=bias, expected="a number from -100 to 100"
                )

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def depends_on_history(self) -> bool:
        """True if the distribution of a token depends on the tokens before it in other ways than through the model."""
        penalties = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1
        return bool(penalties or self.bad_words_token_ids or self.grammar or self.min_tokens)

    def replace(self, **changes: Any) -> SamplingParams:
        return msgspec.structs.replace(self, **changes)

    def split(self) -> list[SamplingParams]:
        """`n` parameters with n = 1; seeds follow each other, so the first choice is what n = 1 would give."""
        if self.n == 1:
            return [self]
        return [self.replace(n=1, seed=None if self.seed is None else self.seed + i) for i in range(self.n)]


INF = float("inf")
RANGES = [
    ("n", 1, MAX_N),
    ("temperature", 0, 100),
    ("top_p", 1e-9, 1),
    ("top_k", -1, 1 << 31),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("repetition_penalty", 1e-3, 100),
    ("seed", -(1 << 63), (1 << 64) - 1),
    ("max_tokens", 1, 1 << 31),
    ("min_tokens", 0, 1 << 31),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
]
REAL = {"temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"}
OPTIONAL = {"seed", "max_tokens", "logprobs", "prompt_logprobs"}
