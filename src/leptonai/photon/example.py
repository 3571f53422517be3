"""An example value for a JSON Schema: what OpenAPI and the page show, and what a new model is checked with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def example_of(schema: Mapping[str, Any]) -> Any:
    """The schema's own example if it has one; else the simplest value that it allows."""
    for key in ("const", "example", "default"):
        if key in schema:
            return schema[key]
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("oneOf", "anyOf"):
        if schema.get(key):
            return example_of(schema[key][0])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        return {name: example_of(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema.get("items", {}))] * max(schema.get("minItems", 1), 1)
    if kind in ("number", "integer"):
        return schema.get("minimum", min(0, schema.get("maximum", 0)))
    if kind == "boolean":
        return False
    if kind == "string":
        return "2026-01-31T12:00:00Z" if schema.get("format") == "date-time" else "text"
    return None
