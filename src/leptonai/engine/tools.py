"""Tool calls in the text of a model: which format it speaks, what grammar forces a call, and an incremental parser.

Formats: hermes (also Qwen: `<tool_call>{…}</tool_call>`), llama3 (the whole answer is `{"name", "parameters"}`, several joined by `;`),
mistral (`[TOOL_CALLS][{…}]` or `[TOOL_CALLS]name{…}`), forced (a JSON list, where the grammar demanded calls).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["hermes", "llama3", "mistral", "forced"]
START = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama3": "<|python_tag|>"}


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    """JSON text, as the model wrote it where that was an object."""


def detect_format(chat_template: str | None) -> Format:
    template = chat_template or ""
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template:
        return "hermes"
    if "<|python_tag|>" in template or ('"parameters"' in template and "<|eot_id|>" in template):
        return "llama3"
    return "hermes"


def shows_special_tokens(format: Format) -> bool:
    """Whether the marks of the format are special tokens, which text hides otherwise."""
    return format in ("mistral", "llama3", "hermes")


def call_schema(tools: list[dict[str, Any]], *, only: str | None, parallel: bool) -> dict:
    """JSON schema of the list of calls that must come: one or more, of `only` if given. tools: OpenAI's `function` objects."""
    items = []
    for tool in tools:
        if only is None or tool["name"] == only:
            arguments = tool.get("parameters") or {"type": "object"}
            arguments = {key: value for key, value in arguments.items() if key not in ("$defs", "definitions")}
            if "properties" in arguments:  # a caller lists what it takes: the model may not invent more
                arguments.setdefault("additionalProperties", False)
            shape = {"name": {"const": tool["name"]}, "arguments": arguments}
            items.append(
                {
                    "type": "object",
                    "properties": shape,
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
            )
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": items[0] if len(items) == 1 else {"anyOf": items},
    }
    if only is not None or not parallel:
        schema["maxItems"] = 1
    # "#/$defs/…" inside a tool's parameters points at the root, which is ours now
    for key in ("$defs", "definitions"):
        shared = {
            name: value for tool in tools for name, value in ((tool.get("parameters") or {}).get(key) or {}).items()
        }
        if shared:
            schema[key] = shared
    return schema


class ToolParser:
    """Feed text with `push`; it returns (text for the reader, calls that are complete). `finish()` gives what was held back.

    Text that might be the beginning of a mark is held until it is known. What looks like a call and is none is text.
    """

    def __init__(self, format: Format, names: set[str]):
        self.format, self.names = format, names
        self._buffer = ""
        self._inside = format == "forced"
        self._decided = format != "llama3"
        self.calls = 0

    def push(self, text: str) -> tuple[str, list[Call]]:
        self._buffer += text
        if not self._decided:
            head = self._buffer.lstrip()
            if not head:
                return "", []
            mark = START["llama3"]
            if head.startswith(mark) or head.startswith("{"):
                self._inside, self._decided = True, True
                self._buffer = head.removeprefix(mark)
            elif mark.startswith(head):
                return "", []
            else:
                self._decided = True
        shown, calls = [], []
        while True:
            progress = self._inside_step(calls) if self._inside else self._outside_step(shown)
            if not progress:
                break
        self.calls += len(calls)
        return "".join(shown), calls

    def _outside_step(self, shown: list[str]) -> bool:
        """Text before a mark goes to the reader; True when a mark was found."""
        mark = START[self.format]
        at = self._buffer.find(mark)
        # Space before a mark is no answer, so space at the end waits until it is known what follows.
        text = (
            self._buffer[: len(self._buffer) - overlap(self._buffer, mark)] if at < 0 else self._buffer[:at]
        ).rstrip()
        if text:
            shown.append(text)
        if at < 0:
            self._buffer = self._buffer[len(text) :]
            return False
        self._buffer = self._buffer[at + len(mark) :]
        self._inside = True
        return True

    def _inside_step(self, calls: list[Call]) -> bool:
        """Take one complete call from the buffer; True if there may be more to do."""
        body = self._buffer.lstrip(" \n\r\t,;")
        if self.format == "hermes":
            end = body.find("</tool_call>")
            found, rest = body[:end], body[end + len("</tool_call>") :]
            if end < 0:
                return False
            parsed, _ = parse_call(found)
            if parsed is None:
                self._buffer, self._inside = rest, False
                return True
            calls.append(parsed)
            self._buffer, self._inside = rest, False
            return True
        body = body.removeprefix("[") if not body.startswith("[TOOL_CALLS]") else body.removeprefix("[TOOL_CALLS]")
        body = body.lstrip(" \n\r\t,;").lstrip("]").removeprefix(START["llama3"]).lstrip()
        if not body:
            return False
        parsed, used = parse_call(body) if body.startswith("{") else parse_named(body, self.names)
        if parsed is None:
            return False
        calls.append(parsed)
        self._buffer = body[used:]
        return bool(self._buffer.strip())

    def finish(self) -> tuple[str, list[Call]]:
        """The rest: text that was held back, and a call whose closing mark never came."""
        rest, self._buffer = self._buffer, ""
        if not self._inside:
            return (rest if rest.strip() or not self.calls else ""), []
        parsed, _ = parse_call(rest.strip()) if rest.strip() else (None, 0)
        if parsed is not None:
            self.calls += 1
            return "", [parsed]
        if self.calls or self.format == "forced" or not rest.strip():
            return "", []
        return ("<tool_call>" if self.format == "hermes" else "") + rest, []


def parse_call(text: str) -> tuple[Call | None, int]:
    """A call at the beginning of `text` and its length; (None, 0) if it is not complete or none."""
    stripped = text.lstrip()
    try:
        value, used = json.JSONDecoder().raw_decode(stripped)
    except (ValueError, RecursionError):
        return None, 0
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None, 0
    arguments = value.get("arguments", value.get("parameters", {}))
    text_of = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(value["name"], text_of), used + len(text) - len(stripped)


def parse_named(text: str, names: set[str]) -> tuple[Call | None, int]:
    """Mistral's newer form: `name{…}` or `name[ARGS]{…}`."""
    at = text.find("{")
    if at <= 0:
        return None, 0
    name = text[:at].replace("[ARGS]", "").partition("[CALL_ID]")[0].strip()
    if names and name not in names:
        return None, 0
    try:
        value, used = json.JSONDecoder().raw_decode(text[at:])
    except (ValueError, RecursionError):
        return None, 0
    return Call(name, json.dumps(value, ensure_ascii=False)), at + used


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-size:]):
            return size
    return 0
