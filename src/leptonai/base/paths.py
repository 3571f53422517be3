"""The one resolver of names and paths that come from outside: a name is a name, and a path stays in its folder."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import InvalidInput, Refused

# A name becomes a folder, a URL part and a column value, so it has no dot-only, no slash and no leading dash.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}\Z")
_REF = re.compile(r"(?P<name>[^@]+)(?:@(?P<version>[^@]+))?\Z")


def check_name(name: str, kind: str) -> str:
    """Return `name` if it may name a `kind` (dataset, model, run, …); raise InvalidInput otherwise."""
    if not isinstance(name, str) or not _NAME.match(name) or ".." in name:
        raise InvalidInput(
            f"this cannot be the name of a {kind}",
            received=name,
            expected="1 to 96 letters, digits, '.', '_' or '-', beginning with a letter or digit",
            fix=f"Choose another name for the {kind}.",
        )
    return name


def parse_ref(ref: str, kind: str) -> tuple[str, str | None]:
    """Split `name[@version-or-tag]`; `mnist@3` → ("mnist", "3"), `mnist` → ("mnist", None)."""
    match = _REF.match(ref or "")
    if not match:
        raise InvalidInput(f"this does not name a {kind}", received=ref, expected=f"{kind}[@version]")
    version = match["version"]
    return check_name(match["name"], kind), check_name(version, "version") if version else None


def resolve_within(root: Path, *parts: str) -> Path:
    """The path `root/parts…`, resolved, and inside `root` after every link is followed; raise Refused otherwise."""
    root = root.resolve()
    if any("\0" in part for part in parts):
        raise Refused("a path may not hold a NUL byte", received=parts)
    path = root.joinpath(*parts).resolve()
    if not path.is_relative_to(root):
        raise Refused(
            "this path leads out of its folder", received="/".join(parts), expected=f"a path inside {root.name}/"
        )
    return path
