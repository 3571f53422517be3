"""The OpenAPI document of a photon, from its handlers' signatures. Keeps nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .route import Route

if TYPE_CHECKING:
    from .photon import Photon

_ERRORS = {
    "ValidationError": {
        "type": "object",
        "required": ["loc", "msg", "type"],
        "properties": {
            "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            "msg": {"type": "string"},
            "type": {"type": "string"},
        },
    },
    "HTTPValidationError": {
        "type": "object",
        "properties": {"detail": {"type": "array", "items": {"$ref": "#/components/schemas/ValidationError"}}},
    },
}


def document(photon: Photon, routes: list[Route]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = dict(_ERRORS)
    for route in routes:
        if route.options.include_in_schema:
            paths.setdefault(route.path.replace(":path}", "}"), {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": photon._photon_name, "version": "0.1.0", "description": (type(photon).__doc__ or "").strip()},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = route.arguments.schema()
    schemas.update(schema.pop("$defs", {}))
    operation: dict[str, Any] = {
        "operationId": f"{route.name}_{route.method.lower()}",
        "summary": route.name.replace("_", " ").strip().title(),
        "responses": {"200": _success(route, schemas), "422": _content({"$ref": "#/components/schemas/HTTPValidationError"}, "Arguments that do not fit")},
    }  # fmt: skip
    if route.doc:
        operation["description"] = route.doc
    required = schema.get("required", [])
    if route.method == "GET" or "{" in route.path:
        operation["parameters"] = [
            {"name": name, "in": where, "required": name in required or where == "path", "schema": one}
            for name, one in schema.get("properties", {}).items()
            for where in ("path" if f"{{{name}" in route.path else "query",)
            if route.method == "GET" or where == "path"
        ]
    if route.method == "POST":
        name = f"{route.name}_input"
        schemas[name] = {**schema, "title": name}
        media: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        if route.options.example is not None:
            media["example"] = route.options.example
        if route.options.examples is not None:
            given = route.options.examples
            named = (
                given.items()
                if isinstance(given, dict)
                else ((f"example {n}", {"value": one}) for n, one in enumerate(given, 1))
            )
            media["examples"] = {
                key: one if isinstance(one, dict) and "value" in one else {"value": one} for key, one in named
            }
        operation["requestBody"] = {"required": bool(required), "content": {"application/json": media}}
    return operation


def _success(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.response_class is not None:
        kind = getattr(route.response_class, "media_type", None) or "application/octet-stream"
        return {"description": "Success", "content": {kind: {"schema": {"type": "string"}}}}
    kind = route.arguments.result
    if route.options.batched and getattr(kind, "__args__", None):
        kind = kind.__args__[0]
    return _content(_schema_of(kind, schemas), "Success")


def _schema_of(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    import pydantic

    try:
        schema = pydantic.TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
    except Exception:  # an annotation that has no schema says nothing about the answer
        return {}
    schemas.update(schema.pop("$defs", {}))
    return schema


def _content(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
