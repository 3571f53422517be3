"""The OpenAPI document is valid, equals the router, and its examples are what the service takes and gives."""

import pytest

from leptonai.photon import openapi

from .conftest import ROW, call

KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum", "const", "anyOf", "oneOf",
    "minimum", "maximum", "minLength", "maxLength", "minProperties", "description", "default", "example", "examples", "format",
    "contentEncoding", "contentMediaType", "$ref", "title",
}  # fmt: skip


def conforms(value, schema, root) -> bool:
    """The part of JSON Schema 2020-12 that our schemas use; an unknown keyword fails, so nothing is passed over."""
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    if "$ref" in schema:
        return conforms(value, root["components"]["schemas"][schema["$ref"].rpartition("/")[2]], root)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "number": (int, float),
        "integer": int,
    }
    checks = [
        not types
        or any(isinstance(value, kinds[one]) and (one == "boolean" or not isinstance(value, bool)) for one in types),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        "anyOf" not in schema or any(conforms(value, part, root) for part in schema["anyOf"]),
        "oneOf" not in schema or sum(conforms(value, part, root) for part in schema["oneOf"]) == 1,
    ]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties", True)
        checks += [name in value for name in schema.get("required", [])]
        checks += [conforms(item, known[name], root) for name, item in value.items() if name in known]
        others = [item for name, item in value.items() if name not in known]
        checks += [more is True or (more is not False and conforms(item, more, root)) for item in others]
    if isinstance(value, list):
        checks += [conforms(item, schema.get("items", {}), root) for item in value]
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        checks += [schema.get("minimum", value) <= value <= schema.get("maximum", value)]
    return all(checks)


@pytest.fixture(scope="module")
def document(served):
    status, document, _ = call(served, "GET", "/openapi.json")
    assert status == 200
    return document


def test_it_names_every_route_and_no_other(document):
    found = {path: tuple(method.upper() for method in operations) for path, operations in document["paths"].items()}
    assert found == openapi.ROUTES


def test_it_is_openapi_3_1(document):
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert status == "default" or 100 <= int(status) <= 599
                assert response["description"]


def test_every_reference_leads_somewhere(document):
    def references(part):
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for item in part.values():
                yield from references(item)
        elif isinstance(part, list):
            for item in part:
                yield from references(item)

    found = set(references(document))
    assert found == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def test_examples_conform_and_the_service_takes_them(served, document):
    for path, method in (("/predict", "post"), ("/feedback", "post"), ("/model", "put")):
        media = document["paths"][path][method]["requestBody"]["content"]["application/json"]
        for example in media["examples"].values():
            assert conforms(example["value"], media["schema"], document), example
    rows = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in rows.values():
        assert call(served, "POST", "/predict", example["value"])[0] == 200


def test_answers_conform(served, document):
    schemas = document["components"]["schemas"]
    for body in (ROW, {"rows": [ROW, ROW]}):
        answer = call(served, "POST", "/predict", body)[1]
        assert conforms(answer, schemas["Prediction"], document)
        assert not conforms({**answer, "more": 1}, schemas["Prediction"], document), "the check has teeth"
        stored = call(served, "POST", "/feedback", {"request_id": answer["request_id"], "label": 3})[1]
        assert conforms(stored, schemas["FeedbackStored"], document)
    assert conforms(call(served, "POST", "/predict", b"{")[1], schemas["Error"], document)


def test_a_token_is_told(home):
    from leptonai.photon.served import Served

    document = openapi.document("digits", Served.load("digits@1", home), token=True)

    assert document["security"] == [{"token": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
