"""Chat templates: a model's Jinja source rendered without giving it anything to reach for.

The sandbox is immutable and without loaders. Every loop and every call looks at the clock, and whatever could make a large value out of small ones
(products, `~`, `replace`, `join`, padding, JSON of nested lists) is measured before. A template comes with the model, never from a request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from ..base.errors import InvalidInput, Missing

MAX_SOURCE = 1 << 18
MAX_TEXT = 1 << 22  # characters, and values of a list
MAX_RANGE = 100_000
MAX_S = 2.0
deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))

WIDENING = {
    "center",
    "ljust",
    "rjust",
    "zfill",
    "expandtabs",
    "format",
    "format_map",
    "translate",
    "encode",
}  # methods of str
UNUSED_FILTERS = (
    "center",
    "wordwrap",
    "format",
    "random",
    "pprint",
    "xmlattr",
    "urlize",
    "batch",
    "slice",
    "sum",
    "indent",
)


class LimitReached(Exception):
    """The template would take more than it may, or refuses its input."""


class ChatTemplate:
    """`variables`: bos_token, eos_token and the like. Raises InvalidInput where the source is no template."""

    def __init__(self, source: str, variables: dict[str, Any] | None = None):
        if len(source) > MAX_SOURCE:
            raise InvalidInput(
                "the chat template is too long", received=f"{len(source)} characters", expected=f"at most {MAX_SOURCE}"
            )
        self.source, self.variables = source, dict(variables or {})
        environment = sandbox()
        try:
            self.template = environment.from_string(source)
        except Exception as error:  # jinja2 has many; a deep source may exhaust the recursion limit too
            raise InvalidInput("the chat template cannot be compiled", received=str(error)) from error

    def render(
        self, messages: Sequence[dict[str, Any]], *, tools: Sequence[dict[str, Any]] | None = None, add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:  # fmt: skip
        """The prompt of a chat. Raises InvalidInput where the template refuses the messages or goes beyond its limits."""
        values = {**self.variables, **variables, "messages": list(messages), "tools": list(tools) if tools else None}
        values["add_generation_prompt"] = add_generation_prompt
        pieces, length, token = [], 0, deadline.set(time.monotonic() + MAX_S)
        try:
            for piece in self.template.generate(values):
                length += len(piece)
                check(length)
                pieces.append(piece)
        except Exception as error:
            raise InvalidInput(
                "the chat template does not take these messages", received=str(error) or type(error).__name__
            ) from error
        finally:
            deadline.reset(token)
        return "".join(pieces)


def check(size: int = 0) -> None:
    """Raise LimitReached if that is too large, or it is too late."""
    if size > MAX_TEXT:
        raise LimitReached(f"it makes more than {MAX_TEXT} characters")
    if time.monotonic() > deadline.get():
        raise LimitReached(f"it takes longer than {MAX_S:g} s")


def measured(value: Any) -> Any:
    """The value, if writing it out stays within the limits: nested lists may be small in memory and endless on paper."""
    size, todo = 0, [value]
    while todo:
        item = todo.pop()
        size += len(item) if isinstance(item, str) else 1
        if isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            todo += item
        check(size + len(todo))
    return value


def looped(items: Any) -> Iterator[Any]:
    """What a `for` goes through; looks at the clock at each turn."""
    for item in items:
        check()
        yield item


def joined(*parts: Any) -> str:
    """The `~` of templates."""
    check(sum(len(part) if isinstance(part, str) else len(str(measured(part))) for part in parts))
    return "".join(map(str, parts))


def sandbox() -> Any:
    """The Jinja environment of Hugging Face's templates: trimmed blocks, loop controls, `raise_exception`, `strftime_now`, `tojson`."""
    try:
        from jinja2 import nodes
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from jinja2.visitor import NodeTransformer
    except ImportError as error:
        raise Missing("jinja2", "llm") from error

    class Bounded(NodeTransformer):
        """Puts `looped` round what loops go through and `joined` in the place of `~`."""

        def visit_For(self, node: Any) -> Any:
            if node.recursive:
                raise LimitReached("recursive loops are not taken")
            node = self.generic_visit(node)
            node.iter = self.call("looped", [node.iter], node)
            return node

        def visit_Concat(self, node: Any) -> Any:
            node = self.generic_visit(node)
            return self.call("joined", node.nodes, node)

        @staticmethod
        def call(name: str, arguments: list[Any], at: Any) -> Any:
            function = nodes.Name(f"lepton_{name}", "load", lineno=at.lineno)
            return nodes.Call(function, arguments, [], None, None, lineno=at.lineno)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "+", "**", "%"])

        def _generate(self, source: Any, *arguments: Any, **options: Any) -> str:
            tree = Bounded().visit(source)
            tree.set_environment(self)
            return super()._generate(tree, *arguments, **options)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def wrap_str_format(self, value: Any) -> Any:
            """Jinja replaces str.format by its own before `call` sees it; a width is chosen by the template all the same."""
            if isinstance(getattr(value, "__self__", None), str) and getattr(value, "__name__", "") in (
                "format",
                "format_map",
            ):
                return refuse_format
            return None

        def call(self, context: Any, function: Any, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
            check()
            check_method(function, arguments)
            return super().call(context, function, *arguments, **options)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], finalize=measured)
    for name in UNUSED_FILTERS:
        environment.filters.pop(name, None)
    join, replace, string = (environment.filters[name] for name in ("join", "replace", "string"))
    environment.filters |= {"tojson": to_json, "string": lambda value: string(measured(value)), "indent": indent}
    environment.filters["replace"] = bounded_filter(
        replace, lambda text, old, new, *_: replaced_size(str(text), str(old), str(new))
    )
    environment.filters["join"] = bounded_filter(join, joined_size)
    environment.globals = {
        "namespace": environment.globals["namespace"], "raise_exception": raise_exception, "range": bounded_range, "dict": dict,
        "strftime_now": lambda form: datetime.now().strftime(form[:200]), "lepton_looped": looped, "lepton_joined": joined,
    }  # fmt: skip
    return environment


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Products, sums and powers may make in one step what no loop would."""
    texts = [isinstance(value, str | list | tuple) for value in (left, right)]
    if operator == "**" or (operator == "%" and texts[0]):
        raise LimitReached(f"it may not use {operator} here")
    if operator == "*":
        sizes = [len(value) if text else value for value, text in zip((left, right), texts, strict=True)]
        if any(texts):
            check(max(0, sizes[0]) * max(0, sizes[1]))
        elif any(isinstance(value, int) and abs(value) > 1 << 64 for value in sizes):
            raise LimitReached("its numbers grow too large")
    elif operator == "+" and all(texts):
        check(len(left) + len(right))


def check_method(function: Any, arguments: tuple[Any, ...]) -> None:
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if not isinstance(owner, str):
        return
    if name in WIDENING:
        raise LimitReached(f"it may not use {name}()")
    if name == "replace" and len(arguments) > 1:
        check(replaced_size(owner, *map(str, arguments[:2])))
    if name == "join" and arguments:
        check(joined_size(arguments[0], owner))


def replaced_size(text: str, old: str, new: str) -> int:
    return len(text) + text.count(old) * len(new)


def joined_size(values: Any, separator: Any = "", *_: Any) -> int:
    values = values if isinstance(values, list | tuple | str | dict) else []
    return sum(len(str(measured(value))) + len(str(separator)) for value in values)


def bounded_filter(function: Any, size: Any) -> Any:
    """A filter that measures its result before it makes it. It keeps what Jinja wrote on the function (it may want the context)."""
    import functools

    passes = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*arguments: Any, **options: Any) -> Any:
        values = list(arguments[passes:])
        if size is joined_size and values and not isinstance(values[0], list | tuple | str | dict):
            values[0] = list(values[0])
            arguments = (*arguments[:passes], *values)
        check(size(*values, *([""] if len(values) < 2 else [])) if size is joined_size else size(*values))
        return function(*arguments, **options)

    return bounded


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    pad = width[:64] if isinstance(width, str) else " " * min(int(width), 64)
    check(len(text) + len(pad) * (text.count("\n") + 1))
    lines = text.splitlines(keepends=True)
    return "".join(pad + line if (i or first) and (line.strip() or blank) else line for i, line in enumerate(lines))


def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    measured(value)
    indent = min(indent, 8) if isinstance(indent, int) else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def refuse_format(*_: Any, **__: Any) -> None:
    raise LimitReached("it may not use format()")


def raise_exception(message: str) -> None:
    raise LimitReached(message)


def bounded_range(*arguments: int) -> range:
    found = range(*arguments)
    if len(found) > MAX_RANGE:
        raise LimitReached(f"range of {len(found)}")
    return found
