"""Types of a recipe's fields: times, counts, shares, names, and the strict base of its parts. Each says what it expects."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from ..base.errors import InvalidInput
from ..base.paths import check_name, parse_ref

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*(ms|s|m|min|h)?\s*\Z")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, None: 1}


def parse_duration(value: Any) -> Any:
    """`90`, `90s`, `1.5m`, `2h` → seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value)
        if not match:
            raise ValueError("a time such as 90s, 5m or 2h")
        value = float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("a time above 0 such as 90s, 5m or 2h")
    return float(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read `true` as 1
        raise ValueError("a number")
    return value


Seconds = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(lambda s: f"{s!r}s".replace(".0s", "s"), return_type=str)
]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**63)]


def _checked(check: Callable[[str], Any], expected: str) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            check(text)
        except InvalidInput:
            raise ValueError(expected) from None
        return text

    return AfterValidator(validate)


_WORD = "letters, digits, '.', '_' or '-', beginning with a letter or digit"
Name = Annotated[str, _checked(lambda text: check_name(text, "model"), _WORD)]
Ref = Annotated[str, _checked(lambda text: parse_ref(text, "object"), f"name or name@version: {_WORD}")]
OptimizerName = Literal["adamw", "sgd", "muon"]
ScheduleName = Literal["constant", "linear", "cosine", "onecycle", "step"]
Precision = Literal["fp32", "bf16", "fp16"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)
