"""The service's OpenAPI 3.1 document, from the task's schemas. What is here is what the router has, and nothing else."""

from __future__ import annotations

from typing import Any

from .. import __version__
from .example import example_of
from .served import Served

ROUTES = {
    "/": ("GET",),
    "/predict": ("POST",),
    "/feedback": ("POST",),
    "/model": ("GET", "PUT"),
    "/healthz": ("GET",),
    "/metrics": ("GET",),
    "/openapi.json": ("GET",),
}
"""Every route of the server. HEAD goes where GET goes."""

MAX_ROWS = 10_000
_EXAMPLE_ID = "0198c0de5eed0123456789abcdef0123"


def document(service: str, served: Served, *, token: bool) -> dict[str, Any]:
    codec = served.codec
    row, prediction = dict(codec.request_schema), dict(codec.response_schema)
    for schema in (row, prediction):
        schema.pop("$schema", None)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": service,
            "version": served.ref.partition("@")[2] or "1",
            "description": f"Predictions of model {served.ref} ({codec.name}), with feedback. Served by Lepton {__version__}.",
        },
        "paths": _paths(example_of(row), example_of(prediction), served.ref),
        "components": {"schemas": _schemas(row, prediction, codec.described["classes"])},
    }
    if token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
        described["paths"]["/healthz"]["get"]["security"] = []
    return described


def _paths(row: Any, prediction: Any, ref: str) -> dict[str, Any]:
    head = {"request_id": _EXAMPLE_ID, "model": ref}
    predict = _operation(
        "predict",
        "Predict one row, or several as one request",
        {"200": _content("Prediction", example={**head, "prediction": prediction})},
        errors=("400", "408", "413", "415", "429", "503"),
    )
    predict["requestBody"] = _body(
        "PredictRequest", {"one row": row, "several rows": {"rows": [row, row]}}, 'One row, or `{"rows": [row, …]}`.'
    )
    feedback = _operation(
        "feedback",
        "Say what really happened for a prediction; answered only when it is safely on disk",
        {"200": _content("FeedbackStored", example={"request_id": _EXAMPLE_ID, "row": 0, "kinds": ["label"]})},
        errors=("400", "404", "413", "415", "507"),
    )
    label = prediction.get("label", prediction.get("value", 0)) if isinstance(prediction, dict) else 0
    feedback["requestBody"] = _body(
        "Feedback",
        {
            "the true label": {"request_id": _EXAMPLE_ID, "label": label},
            "it was right": {"request_id": _EXAMPLE_ID, "row": 0, "correct": True},
            "a rating": {"request_id": _EXAMPLE_ID, "rating": 4, "comment": "close"},
        },
        "A label (the truth), or whether the prediction was correct, or a rating, or a comment.",
    )
    swap = _operation(
        "swap_model",
        "Serve another version; requests in flight finish on the old one",
        {"200": _content("Swapped", example={"model": ref, "before": ref})},
        errors=("400", "403", "404", "409"),
    )
    swap["requestBody"] = _body("ModelRef", {"another version": {"ref": ref}}, "The version to serve.")
    plain = {"200": _text("The numbers of this process.", "text/plain")}
    page = {"200": _text("A page to try the model with.", "text/html")}
    anything = {"200": {"description": "JSON", "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {
        "/": {"get": _operation("page", "A page to try the model with", page)},
        "/predict": {"post": predict},
        "/feedback": {"post": feedback},
        "/model": {"get": _operation("model", "What is served", anything), "put": swap},
        "/healthz": {"get": _operation("health", "Whether the service answers", anything)},
        "/metrics": {"get": _operation("metrics", "Prometheus metrics", plain)},
        "/openapi.json": {"get": _operation("openapi", "This document", anything)},
    }


def _schemas(row: dict[str, Any], prediction: dict[str, Any], classes: Any) -> dict[str, Any]:
    request_id = {"type": "string", "description": "Names this request in /feedback."}
    model = {"type": "string", "description": "The version that answered."}
    logged = {
        "const": False,
        "description": "There only if the request was not kept (a sample of requests is, or the disk is full): it takes no feedback.",
    }
    head = {"request_id": request_id, "model": model, "logged": logged}
    label = {"enum": list(classes)} if classes else {"type": "number"}
    number = {"type": "integer", "minimum": 0, "default": 0, "description": "Which row of the request."}
    rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": MAX_ROWS}
    answers = {"type": "array", "items": _ref("PredictionOfRow")}
    return {
        "Row": row,
        "PredictionOfRow": prediction,
        "Rows": _object({"rows": rows}, ["rows"]),
        "PredictRequest": {"anyOf": [_ref("Row"), _ref("Rows")]},
        "Prediction": {
            "oneOf": [
                _object({**head, "prediction": _ref("PredictionOfRow")}, ["request_id", "model", "prediction"]),
                _object({**head, "predictions": answers}, ["request_id", "model", "predictions"]),
            ]
        },
        "Feedback": {
            **_object(
                {
                    "request_id": {"type": "string"},
                    "row": number,
                    "label": {
                        **label,
                        "description": "What it really was. A later label for the same row replaces it.",
                    },
                    "correct": {
                        "type": "boolean",
                        "description": "true: the predicted label was right (classification).",
                    },
                    "rating": {"type": "integer", "minimum": 1, "maximum": 5},
                    "comment": {"type": "string", "minLength": 1, "maxLength": 4000},
                },
                ["request_id"],
            ),
            "minProperties": 2,
        },
        "FeedbackStored": _object(
            {"request_id": {"type": "string"}, "row": number, "kinds": {"type": "array", "items": {"type": "string"}}},
            ["request_id", "row", "kinds"],
        ),
        "ModelRef": _object({"ref": {"type": "string", "description": "name@version or name@tag"}}, ["ref"]),
        "Swapped": _object({"model": {"type": "string"}, "before": {"type": "string"}}, ["model", "before"]),
        "Error": {
            "type": "object",
            "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "fix": {"type": "string"}},
            "required": ["error", "code"],
        },
    }


def _operation(name: str, summary: str, responses: dict[str, Any], errors: tuple[str, ...] = ()) -> dict[str, Any]:
    failed = {status: _content("Error", _MEANING[status]) for status in errors}
    other = {"default": _content("Error", "Any other refusal.")}
    return {"operationId": name, "summary": summary, "responses": {**responses, **failed, **other}}


_MEANING = {
    "400": "The request cannot be meant; the sentence says what is wrong and where.",
    "403": "Refused: it would be unsafe.",
    "404": "There is no such thing.",
    "408": "The body did not arrive in time.",
    "409": "The version has another signature; the old one stays.",
    "413": "Too many bytes or rows.",
    "415": "The body is not JSON.",
    "429": "Too much is waiting; see Retry-After.",
    "503": "The service is stopping, or took too long.",
    "507": "The disk is full; nothing was stored.",
}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str, description: str = "Done.", example: Any = None) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": _ref(name)}
    if example is not None:
        media["example"] = example
    return {"description": description, "content": {"application/json": media}}


def _text(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}


def _body(name: str, examples: dict[str, Any], description: str) -> dict[str, Any]:
    media = {"schema": _ref(name), "examples": {key: {"value": value} for key, value in examples.items()}}
    return {"required": True, "description": description, "content": {"application/json": media}}
