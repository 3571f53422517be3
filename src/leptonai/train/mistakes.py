"""What pydantic found wrong, as one sentence a person can act on: the key, its line, what is expected, the nearest name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..base.errors import InvalidInput, nearest, shorten
from ..base.yaml import Document


def first_mistake(error: ValidationError, document: Document, root: type[BaseModel]) -> InvalidInput:
    """The mistake that stands first in the file, as a sentence."""
    found = []
    for number, problem in enumerate(error.errors(include_url=False)):
        path = tuple(part for part in problem["loc"])
        line = document.lines.get(path)
        shown = line if line is not None else document.line(path)
        # A mistyped key also leaves the right one missing: the typing mistake is the one to name.
        found.append((problem["type"] == "missing", shown or 0, number, path, line, problem))
    *_, path, line, problem = min(found, key=lambda item: item[:3])
    where = f" in line {line}" if line else ""
    key, name = (str(path[-1]) if path else ""), ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        known = _keys_of(root, path[:-1])
        close = nearest(key, known)
        hint = f"did you mean `{close}`?" if close else f"there is: {', '.join(known)}"
        return InvalidInput(f"`{key}`{where}: unknown; {hint}")
    if problem["type"] == "missing":
        parent = document.line(path[:-1])
        where = f" in line {parent}" if parent else ""
        return InvalidInput(f"`{name}` is missing{where} of {document.source}", fix=f"Add `{key}:` to it.")
    own = problem.get("ctx", {}).get("error")
    if not path:
        return InvalidInput(f"{document.source}: {own or problem['msg']}")
    if isinstance(problem["input"], str) and problem["type"] == "literal_error":
        close = nearest(problem["input"], _literals_of(root, path))
        fix = f"Did you mean `{close}`?" if close else None
    else:
        fix = None
    expected = str(own) if own else _expected(problem["msg"])
    return InvalidInput(f"`{name}`{where}", received=problem["input"], expected=expected, fix=fix)


def _expected(message: str) -> str:
    """pydantic's `Input should be a valid integer, unable to parse string as an integer` → `a valid integer`."""
    text = re.sub(r"\AInput should be (an instance of )?", "", message).split(", unable")[0]
    text = text.replace("a valid integer", "a whole number").replace("a valid boolean", "true or false")
    text = re.sub(r"a valid dictionary.*", "keys", text).replace("a valid tuple", "a list")
    text = (
        text.replace("greater than or equal to", "at least")
        .replace("greater than", "above")
        .replace("less than", "below")
    )
    return shorten(text.replace("a valid ", "a "), 160)


def _part_at(root: type[BaseModel], path: Sequence[Any]) -> type[BaseModel] | None:
    part = root
    for name in path:
        field = next((f for k, f in part.model_fields.items() if name in (k, f.alias)), None)
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if _is_part(t)] if field else []
        if not inner:
            return None
        part = inner[0]
    return part


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys_of(root: type[BaseModel], path: Sequence[Any]) -> list[str]:
    part = _part_at(root, path)
    return [field.alias or name for name, field in part.model_fields.items()] if part else []


def _literals_of(root: type[BaseModel], path: Sequence[Any]) -> list[str]:
    part = _part_at(root, path[:-1])
    field = part.model_fields.get(str(path[-1])) if part else None
    options = [field.annotation, *get_args(field.annotation)] if field else []
    return [value for option in options for value in get_args(option) if isinstance(value, str)]
