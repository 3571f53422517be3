"""The Open Inference Protocol v2 over REST, with binary tensors: what Triton's and KServe's clients speak. Owns the routes under /v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ... import __version__
from ...base.errors import InvalidInput, NotFound, shorten
from ..batching import HIGH, LOW, NORMAL
from ..http import Answer, Bodies, HTTPError, Request, json_answer, media_type
from ..runtimes.signature import DATATYPE
from .oip_tensors import InferOutput, InferRequest, refuse_parameters, tensors_of, to_bytes, to_list

if TYPE_CHECKING:
    from ..service import Service, Terms

ROUTES = {
    "/v2": "GET",
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
    "/v2/models/{model}": "GET",
    "/v2/models/{model}/ready": "GET",
    "/v2/models/{model}/infer": "POST",
    "/v2/models/{model}/versions/{version}": "GET",
    "/v2/models/{model}/versions/{version}/ready": "GET",
    "/v2/models/{model}/versions/{version}/infer": "POST",
    "/v2/repository/index": "POST",
}
JSON_LENGTH = b"inference-header-content-length"
_DECODER = msgspec.json.Decoder(InferRequest)


def route_of(path: str) -> tuple[str, dict[str, str]] | None:
    """The route that a path means, and what it names; None for a path that is none."""
    parts = path.strip("/").split("/")
    match parts:
        case ["v2"] | ["v2", "health", "live" | "ready"] | ["v2", "repository", "index"]:
            return "/" + "/".join(parts), {}
        case ["v2", "models", model]:
            return "/v2/models/{model}", {"model": model}
        case ["v2", "models", model, "ready" | "infer" as end]:
            return f"/v2/models/{{model}}/{end}", {"model": model}
        case ["v2", "models", model, "versions", version]:
            return "/v2/models/{model}/versions/{version}", {"model": model, "version": version}
        case ["v2", "models", model, "versions", version, "ready" | "infer" as end]:
            return f"/v2/models/{{model}}/versions/{{version}}/{end}", {"model": model, "version": version}
    return None


async def answer(service: Service, request: Request, bodies: Bodies, terms: Terms) -> Answer:
    found = route_of(request.path)
    if found is None:
        raise HTTPError(404, "NotFound", "there is no such route", received=request.path, expected=", ".join(ROUTES))
    route, named = found
    method = "GET" if request.method == "HEAD" else request.method
    if method != ROUTES[route]:
        raise HTTPError(
            405, "MethodNotAllowed", f"{request.path} does not take {request.method}", headers={"allow": ROUTES[route]}
        )
    if named:
        check_model(service, named["model"], named.get("version"))
    if route.endswith("/infer"):
        return await _infer(service, request, bodies, terms, named["model"])
    if route == "/v2":
        return json_answer(
            {"name": "lepton", "version": __version__, "extensions": ["binary_tensor_data", "model_repository"]}
        )
    if route == "/v2/repository/index":
        name, version = identity(service)
        return json_answer([{"name": name, "version": version, "state": "READY", "reason": ""}])
    if route == "/v2/health/live":
        return json_answer({"live": True})
    if route.endswith("/ready"):
        # The protocol's text names the field `live` here too; clients look at the status.
        return json_answer({"ready": True, "live": True, **({"name": named["model"]} if named else {})})
    return json_answer(metadata(service, named["model"]))


def identity(service: Service) -> tuple[str, str]:
    """The model's name and version: `digits@3` is ("digits", "3"); a file has version "1"."""
    name, _, version = service.current.ref.partition("@")
    return name, version or "1"


def check_model(service: Service, model: str, version: str | None) -> None:
    """Raise NotFound unless this is what is served: the service's name or its model's, and no other version."""
    name, current = identity(service)
    if model not in (name, service.name):
        raise NotFound("this service has no such model", received=shorten(model), fix=f"It serves {service.name!r}.")
    if version not in (None, "", current):
        raise NotFound("this version is not served", received=shorten(version), expected=current)


def metadata(service: Service, name: str) -> dict[str, Any]:
    signature = service.current.codec.signature
    return {
        "name": name,
        "versions": [identity(service)[1]],
        "platform": f"lepton_{service.current.codec.name}",
        "inputs": [spec.to_dict() for spec in signature.inputs],
        "outputs": [spec.to_dict() for spec in signature.outputs],
    }


async def _infer(service: Service, request: Request, bodies: Bodies, terms: Terms, name: str) -> Answer:
    kind = media_type(request)
    if kind not in ("", "application/json", "application/octet-stream") or request.header(b"content-encoding") not in (
        None,
        "identity",
    ):
        raise HTTPError(
            415, "UnsupportedMediaType", "this body is not read", received=kind, headers={"connection": "close"},
            expected="application/json, or application/octet-stream with Inference-Header-Content-Length",
        )  # fmt: skip
    body = await bodies.read(request)
    try:
        order, binary = parse(body, request.header(JSON_LENGTH))
        tensors = tensors_of(order.inputs, binary)
        wanted = check_outputs(order.outputs, service)
        predicted = await service.infer(
            tensors, request_id=order.id or None, terms=with_parameters(terms, order.parameters)
        )
    finally:
        bodies.release(len(body))
    outputs = predicted.answer["outputs"]
    chosen = {one.name: one.parameters for one in wanted} if wanted else {output: {} for output in outputs}
    all_binary = order.parameters.get("binary_data_output") is True
    as_bytes = {output: parameters.get("binary_data", all_binary) is True for output, parameters in chosen.items()}
    head = {
        "id": predicted.answer["request_id"],
        "model_name": name,
        "model_version": predicted.done.served.ref.partition("@")[2] or "1",
    }
    found = encode(head, {output: outputs[output] for output in chosen}, as_bytes)
    found.timings = predicted.timings
    return found


def parse(body: bytes, json_length: str | None) -> tuple[InferRequest, memoryview]:
    view = memoryview(body)
    length = len(body)
    if json_length is not None:
        if (
            not json_length.isascii()
            or not json_length.isdigit()
            or len(json_length) > 10
            or int(json_length) > len(body)
        ):
            raise InvalidInput("Inference-Header-Content-Length does not fit the body", received=json_length)
        length = int(json_length)
    try:
        return _DECODER.decode(view[:length]), view[length:]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not an inference request: {shorten(str(error), 120)}") from None


def with_parameters(terms: Terms, parameters: dict[str, Any]) -> Terms:
    """`timeout` in microseconds and `priority` (1 is the highest, 0 the default), as Triton has them."""
    refuse_parameters(parameters, "the request")
    timeout, priority = parameters.get("timeout"), parameters.get("priority")
    if isinstance(timeout, int) and timeout > 0:
        terms = type(terms)(min(timeout / 1e6, terms.timeout_s or 1e9), terms.priority)
    if isinstance(priority, int) and priority > 0:
        terms = type(terms)(terms.timeout_s, {1: HIGH, 2: NORMAL}.get(priority, LOW))
    return terms


def check_outputs(outputs: list[InferOutput] | None, service: Service) -> list[InferOutput]:
    names = [spec.name for spec in service.current.codec.signature.outputs]
    for output in outputs or ():
        refuse_parameters(output.parameters, f"output {output.name!r}")
        if output.name not in names:
            raise InvalidInput("the model has no such output", received=output.name, expected=", ".join(names))
    return outputs or []


def encode(head: dict[str, Any], outputs: dict[str, np.ndarray], as_bytes: dict[str, bool]) -> Answer:
    described, raw = [], []
    for name, tensor in outputs.items():
        one: dict[str, Any] = {
            "name": name,
            "datatype": "BYTES" if tensor.dtype == object else DATATYPE[tensor.dtype.name],
            "shape": list(tensor.shape),
        }
        if as_bytes[name]:
            raw.append(to_bytes(tensor))
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            one["data"] = to_list(tensor)
        described.append(one)
    text = msgspec.json.encode({**head, "outputs": described})
    if not raw:
        return Answer(text)
    headers = {"inference-header-content-length": str(len(text))}
    return Answer(b"".join((text, *raw)), content_type="application/octet-stream", headers=headers)
