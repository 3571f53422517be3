"""JSON from outside: bounds, and merge patches (RFC 7386)."""

from __future__ import annotations

import re
from typing import Any

from ...base.errors import InvalidInput

MAX_DEPTH = 50
_BAD = re.compile("[\0\ud800-\udfff]")


def check_json(value: Any) -> None:
    """Raises InvalidInput for nesting beyond MAX_DEPTH, and for text that no database takes (NUL)."""
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidInput("the JSON is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        if isinstance(value, dict):
            waiting += ((child, depth + 1) for pair in value.items() for child in pair)
        elif isinstance(value, list):
            waiting += ((child, depth + 1) for child in value)
        elif isinstance(value, str) and _BAD.search(value):
            raise InvalidInput("text may not hold a NUL byte", received=value.replace("\0", "\\0"))
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidInput("a number is too large", received=value)


def merge(target: Any, patch: Any) -> Any:
    """`patch` applied to `target`, neither changed: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def prune(value: dict[str, Any]) -> dict[str, Any]:
    """Without what is absent (None)."""
    return {key: item for key, item in value.items() if item is not None}
