"""A Python function as a tool that a language model can call, in OpenAI's form."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any


def get_tools_spec(function: Callable) -> dict[str, Any]:
    """`{"type": "function", "function": {"name", "description", "parameters"}}`; `Annotated[int, "text"]` describes a parameter."""
    import pydantic

    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise TypeError(f"{function.__name__}: a tool's parameters have names, not *{parameter.name}")
        kind = hints.get(parameter.name, Any)
        texts = [one for one in getattr(kind, "__metadata__", ()) if isinstance(one, str)]
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (kind, pydantic.Field(default, description=texts[0] if texts else None))
    schema = pydantic.create_model(function.__name__, **fields).model_json_schema()
    for one in (schema, *schema.get("properties", {}).values()):
        one.pop("title", None)
    return {
        "type": "function",
        "function": {"name": function.__name__, "description": inspect.getdoc(function) or "", "parameters": {**schema, "required": schema.get("required", [])}},
    }  # fmt: skip
