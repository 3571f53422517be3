"""Paths with parameters: `/items/{id}`, `/files/{rest:path}`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .route import Route

_PART = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


class Template:
    """A route whose path holds parameters. One segment each, or all that is left with `:path`; nothing backtracks."""

    def __init__(self, route: Route):
        self.route = route
        pieces, at = [], 0
        for match in _PART.finditer(route.path):
            pieces.append(re.escape(route.path[at : match.start()]))
            pieces.append(f"(?P<{match[1]}>{'.*' if match[2] else '[^/]+'})")
            at = match.end()
        pieces.append(re.escape(route.path[at:]))
        self.pattern = re.compile("".join(pieces) + r"\Z", re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        found = self.pattern.match(path)
        return found.groupdict() if found else None
