"""From a request to a function's arguments. Owns what a signature means on the wire; all of it is worked out once, at start.

Two readers, one judge: msgspec reads what the plain types allow at once; whatever it refuses, or cannot describe, pydantic
decides and words. So a body means what it means to FastAPI, and the common case costs microseconds.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_PLAIN = (int, float, str, bool, type(None), Any)
_CONTAINERS = (list, dict, tuple, set)


class Invalid(Exception):
    """`detail`: the list that FastAPI would answer 422 with."""

    def __init__(self, detail: list[dict[str, Any]]):
        super().__init__("invalid arguments")
        self.detail = detail


class Arguments:
    """The parameters of one handler. `batched`: the function takes a list per argument, so each request gives one element."""

    def __init__(self, function: Callable, *, batched: bool = False):
        signature = inspect.signature(function)
        hints = _hints(function)
        self.extra = False
        self.fields: dict[str, tuple[Any, Any]] = {}
        for parameter in list(signature.parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                self.extra = True
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"{function.__qualname__}: a handler takes its arguments by name, not *{parameter.name}"
                )
            else:
                kind = hints.get(parameter.name, Any)
                default = parameter.default if parameter.default is not parameter.empty else ...
                self.fields[parameter.name] = (_element(kind) if batched else kind, default)
        self.result = hints.get("return", Any)
        self.name = function.__name__
        self._decoder = self._fast_decoder()
        self._names = tuple(self.fields)
        self._model: Any = None

    def _fast_decoder(self) -> msgspec.json.Decoder | None:
        if self.extra or not all(_is_plain(kind) for kind, _ in self.fields.values()):
            return None
        ordered = sorted(self.fields.items(), key=lambda item: item[1][1] is not ...)  # required first
        fields = [
            (name, kind) if default is ... else (name, kind, msgspec.field(default_factory=lambda d=default: d))
            for name, (kind, default) in ordered
        ]
        try:
            return msgspec.json.Decoder(msgspec.defstruct(f"{self.name}_arguments", fields, gc=False))
        except (TypeError, ValueError, NameError):
            return None

    @property
    def model(self) -> Any:
        """The pydantic model of the arguments."""
        if self._model is None:
            import pydantic

            config = pydantic.ConfigDict(
                extra="allow" if self.extra else "ignore", arbitrary_types_allowed=True, protected_namespaces=()
            )
            # A field may not begin with an underscore or shadow a method of BaseModel: the name on the wire is an alias.
            fields = {
                f"a{number}_": (kind, pydantic.Field(default, alias=name))
                for number, (name, (kind, default)) in enumerate(self.fields.items())
            }
            self._model = pydantic.create_model(f"{self.name}_arguments", __config__=config, **fields)
        return self._model

    def from_json(self, body: bytes) -> dict[str, Any]:
        """Keyword arguments for the function; raises Invalid."""
        if self._decoder is not None:
            try:
                found = self._decoder.decode(body or b"{}")
                return {name: getattr(found, name) for name in self._names}
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass
        return self._judge(body)

    def _judge(self, body: bytes) -> dict[str, Any]:
        if not body.strip():
            if any(default is ... for _, default in self.fields.values()):
                raise Invalid([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
            body = b"{}"
        try:
            value = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(
                [{"type": "json_invalid", "loc": ["body"], "msg": f"JSON decode error: {error}", "input": {}}]
            ) from None
        return self.from_values(value, "body")

    def from_values(self, value: Any, where: str) -> dict[str, Any]:
        """`value`: what came, still plain data; `where`: "body", "query" or "path", for the detail of an Invalid."""
        import pydantic

        try:
            model = self.model.model_validate(value)
        except pydantic.ValidationError as error:
            detail = [
                {key: printable(part) for key, part in one.items() if key in ("type", "loc", "msg", "input")}
                for one in error.errors(include_url=False, include_context=False)
            ]
            raise Invalid([{**one, "loc": [where, *one["loc"]]} for one in detail]) from None
        except RecursionError:
            raise Invalid([{"type": "recursion", "loc": [where], "msg": "nested too deeply", "input": None}]) from None
        found = {name: getattr(model, f"a{number}_") for number, name in enumerate(self.fields)}
        return found | (model.__pydantic_extra__ or {})

    def from_query(self, pairs: Mapping[str, list[str]], path: Mapping[str, str]) -> dict[str, Any]:
        """Arguments of a GET: a list-like parameter takes every value of its name, any other the last one."""
        given: dict[str, Any] = dict(path)
        for name, values in pairs.items():
            if name in given:
                continue
            several = name in self.fields and _is_list(self.fields[name][0])
            given[name] = values if several else values[-1]
        return self.from_values(given, "query")

    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, definitions under `$defs`."""
        return self.model.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # names that only a type checker sees: such a parameter takes anything
        return {
            name: kind for name, kind in getattr(function, "__annotations__", {}).items() if not isinstance(kind, str)
        }


def _element(kind: Any) -> Any:
    """`List[str]` → str; what is no list stays as it is."""
    if typing.get_origin(kind) in (list, tuple) and typing.get_args(kind):
        return typing.get_args(kind)[0]
    return Any if kind in (list, typing.List) else kind  # noqa: UP006


def _is_list(kind: Any) -> bool:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_is_list(one) for one in arguments)
    return kind in (list, set, tuple) or typing.get_origin(kind) in (list, set, tuple)


def _is_plain(kind: Any) -> bool:
    """Whether msgspec reads it as pydantic would."""
    if kind in _PLAIN or kind in _CONTAINERS:
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return True
    if origin in (*_CONTAINERS, typing.Union, types.UnionType):
        return all(_is_plain(one) or one is ... for one in arguments)
    return False


def printable(value: Any) -> Any:
    try:
        msgspec.json.encode(value)
    except (TypeError, NotImplementedError, msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return repr(value)[:200]
    return list(value) if isinstance(value, tuple) else value
