"""Reads YAML written by people: plain data and the line of each key. No tags, no aliases, no deep nesting, no key twice.

Scalars follow YAML 1.2: `on` and `no` are words, `1e-3` is a number, `2024-01-01` and `1:30` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from .errors import InvalidInput, NotFound

KeyPath = tuple[str | int, ...]
MAX_BYTES, MAX_DEPTH = 256 * 1024, 50

_TAG = "tag:yaml.org,2002:"
_SCALARS = (  # tag, pattern, first characters, value
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), "tTfF", lambda text: text.lower() == "true"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""], lambda text: None),
    (
        "int",
        re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|[0-9]+)\Z"),
        "-+0123456789",
        lambda text: int(text, 16) if "x" in text else int(text),
    ),
    (
        "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        "-+.0123456789",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _name, _pattern, _first, _value in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, list(_first))
_VALUES = {_TAG + name: value for name, _, _, value in _SCALARS} | {_TAG + "str": str}


@dataclass(frozen=True)
class Document:
    """`data`: dict, list or scalar. `lines[path]`: the line (from 1) of the key or item at `path`."""

    data: Any
    lines: dict[KeyPath, int]
    source: str

    def line(self, path: KeyPath) -> int | None:
        """The line of `path`, or of the nearest parent that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def read_yaml(path: Path) -> Document:
    """Raises NotFound or InvalidInput, which names the file and the line."""
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"there is no file {path}", fix="Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            f"{path.name} is too large for YAML",
            received=f"{path.stat().st_size} bytes",
            expected=f"at most {MAX_BYTES}",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path.name} is not UTF-8 text", received=f"byte {error.start}", fix="Save the file as UTF-8."
        ) from error
    return parse_yaml(text, path.name)


def parse_yaml(text: str, source: str = "YAML") -> Document:
    """The one document in `text`. Raises InvalidInput; nothing in the text can run code or fill the memory."""
    if len(text.encode()) > MAX_BYTES:
        raise InvalidInput(
            f"{source} is too large", received=f"{len(text.encode())} bytes", expected=f"at most {MAX_BYTES}"
        )
    try:
        _check_events(text, source)
        node = _Loader(text).get_single_node()
        lines: dict[KeyPath, int] = {}
        data = _construct(node, (), lines, source) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise InvalidInput(
            f"{source} is not valid YAML{where}: {error.problem or error.context}", fix="Correct that line."
        ) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    return Document(data, lines, source)


def _check_events(text: str, source: str) -> None:
    """Refuse aliases and depth while parsing, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InvalidInput(f"{source} uses an anchor or alias in line {line}", fix="Write the value out.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InvalidInput(f"{source} is nested too deeply in line {line}", expected=f"at most {MAX_DEPTH} levels")


def _construct(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], source: str) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return dict(_pairs(node, path, lines, source))
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        items = []
        for index, child in enumerate(node.value):
            lines[(*path, index)] = child.start_mark.line + 1
            items.append(_construct(child, (*path, index), lines, source))
        return items
    if isinstance(node, yaml.ScalarNode) and node.tag in _VALUES:
        try:
            return _VALUES[node.tag](node.value)
        except (ValueError, OverflowError) as error:
            raise InvalidInput(
                f"{source} has a number in line {node.start_mark.line + 1} that cannot be read", received=node.value
            ) from error
    raise InvalidInput(
        f"{source} uses the tag {node.tag} in line {node.start_mark.line + 1}",
        fix="Remove the tag: only plain data is read.",
    )


def _pairs(node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int], source: str) -> Iterator[tuple[str, Any]]:
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise InvalidInput(f"{source} has a key in line {line} that is not a word")
        key = key_node.value
        if (*path, key) in lines:
            raise InvalidInput(
                f"`{key}` in line {line} of {source} is there twice, first in line {lines[(*path, key)]}",
                fix="Keep one.",
            )
        lines[(*path, key)] = line
        yield key, _construct(value_node, (*path, key), lines, source)
