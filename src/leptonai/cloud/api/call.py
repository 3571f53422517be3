"""One call of the API as its handler sees it, and what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ...base.errors import InvalidInput, shorten
from ..plane import Plane
from ..store import Actor, Transaction
from .merge import check_json

MAX_PAGE_SIZE = 10_000


@dataclass
class Answer:
    """`value` becomes JSON, `content` is sent as it is; `file` and `lines` are streamed."""

    value: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    content: bytes | None = None
    lines: Iterator[str] | AsyncIterator[str] | None = None


@dataclass
class Call:
    """`tx` is open while the handler runs and is committed after it. `upload`: the part `file` (or `value`) of a form, already on disk."""

    plane: Plane
    actor: Actor
    workspace: str
    path: dict[str, str]
    query: list[tuple[str, str]]
    body: bytes
    request_id: str
    tx: Transaction
    method: str = "GET"
    upload: Path | None = None
    upload_name: str = ""

    def json(self, type: type | None = None) -> Any:
        """The body. Raises InvalidInput; an empty body is an empty object."""
        try:
            value = msgspec.json.decode(self.body) if self.body.strip() else {}
        except RecursionError:
            raise InvalidInput("the JSON is nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the body is not JSON: {shorten(str(error), 120)}") from None
        check_json(value)
        if type is not None and not isinstance(value, type):
            raise InvalidInput(
                "the body has another form", received=value, expected="a list" if type is list else "an object"
            )
        return value

    def object(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(metadata, spec) of a body that describes a resource; `status` is ours and ignored."""
        body = self.json(dict)
        unknown = set(body) - {
            "metadata",
            "spec",
            "status",
            "api_version",
            "kind",
            "expected_cname_target",
            "expected_dns01_channelge_target",
        }
        if unknown:
            raise InvalidInput(
                "the body has a field that is not known", received=min(unknown), expected="metadata and spec"
            )
        parts = body.get("metadata") or {}, body.get("spec") or {}
        for part in parts:
            if not isinstance(part, dict):
                raise InvalidInput("metadata and spec are objects", received=part)
        return parts

    def one(self, name: str) -> str | None:
        return next((value for key, value in self.query if key == name), None)

    def many(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def number(self, name: str, default: int, most: int = MAX_PAGE_SIZE, least: int = 0) -> int:
        text = self.one(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 19 or not least <= int(text) <= most:
            raise InvalidInput(f"the parameter {name} is out of bounds", received=text, expected=f"{least} to {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        return (self.one(name) or "").lower() in ("1", "true", "yes")
