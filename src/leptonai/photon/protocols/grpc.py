"""The Open Inference Protocol over gRPC (extra `grpc`): the same service, tensors as raw bytes. Owns the mapping of errors to gRPC's."""

from __future__ import annotations

import hmac
import sys
import traceback
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...base.errors import InvalidInput, LeptonError, Missing, Unauthenticated
from ..http import MAX_BODY_BYTES
from ..runtimes.signature import DATATYPE, NUMPY, elements
from . import oip
from .grpc_messages import METHODS, SERVICE, messages
from .oip_tensors import from_bytes, from_list, to_bytes

if TYPE_CHECKING:
    import numpy as np

    from ..service import Service

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


async def start(service: Service, token: str | None, host: str, port: int) -> tuple[Any, int]:
    """A gRPC server that answers until its `stop(grace_s)`, and its port (`port` 0: a free one)."""
    try:
        import grpc
        import grpc.aio
    except ImportError as error:
        raise Missing("grpcio", "grpc") from error
    options = [("grpc.max_receive_message_length", MAX_BODY_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    calls = _Calls(service, token)
    kinds = messages()
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            calls.guarded(method),
            request_deserializer=getattr(kinds, f"{method}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise InvalidInput(
            "gRPC cannot listen here", received=f"{host}:{port}", fix="Choose another --grpc-port."
        ) from error
    await server.start()
    return server, bound


class _Calls:
    def __init__(self, service: Service, token: str | None):
        self.service, self.token, self.kinds = service, token, messages()

    def guarded(self, method: str) -> Any:
        """The method behind the token, with every error as a gRPC status and a sentence."""
        import grpc

        handler = getattr(self, method)
        codes = {
            400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED,
            404: grpc.StatusCode.NOT_FOUND, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE,
            504: grpc.StatusCode.DEADLINE_EXCEEDED,
        }  # fmt: skip

        async def call(request: Any, context: Any) -> Any:
            status, numbers = 200, self.service.metrics.requests
            try:
                self._check_token(context)
                return await handler(request, context)
            except LeptonError as error:
                status = error.status
                code, text = codes.get(status, grpc.StatusCode.INTERNAL), str(error)
            except TimeoutError:
                status, code, text = 503, grpc.StatusCode.UNAVAILABLE, "the model took too long"
            except Exception:
                traceback.print_exc(file=sys.stderr)
                status, code, text = (
                    500,
                    grpc.StatusCode.INTERNAL,
                    "The server failed on this request; its log holds the details.",
                )
            finally:
                numbers.add(1, f"grpc {method}", str(status))
            await context.abort(code, text)

        return call

    def _check_token(self, context: Any) -> None:
        if self.token is None:
            return
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(given.removeprefix("Bearer ").strip().encode(), self.token.encode()):
            raise Unauthenticated("this service needs its token", fix="Send the metadata authorization: Bearer TOKEN.")

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return self.kinds.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return self.kinds.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        oip.check_model(self.service, request.name, request.version)
        return self.kinds.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return self.kinds.ServerMetadataResponse(name="lepton", version=__version__)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        oip.check_model(self.service, request.name, request.version)
        return self.kinds.ModelMetadataResponse(**oip.metadata(self.service, request.name))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        from ..service import Terms

        oip.check_model(self.service, request.model_name, request.model_version)
        given = {name: _parameter(value) for name, value in request.parameters.items()}
        left_s = context.time_remaining()
        terms = oip.with_parameters(Terms(left_s if left_s is not None and left_s < 1e6 else None), given)
        wanted = [output.name for output in request.outputs]
        oip.check_outputs([oip.InferOutput(name) for name in wanted], self.service)
        predicted = await self.service.infer(_tensors(request), request_id=request.id or None, terms=terms)
        outputs = predicted.answer["outputs"]
        response = self.kinds.ModelInferResponse(
            model_name=request.model_name,
            model_version=predicted.done.served.ref.partition("@")[2] or "1",
            id=predicted.answer["request_id"],
        )
        for name in wanted or outputs:
            tensor = outputs[name]
            datatype = "BYTES" if tensor.dtype == object else DATATYPE[tensor.dtype.name]
            response.outputs.add(name=name, datatype=datatype, shape=list(tensor.shape))
            response.raw_output_contents.append(to_bytes(tensor))
        return response


def _tensors(request: Any) -> dict[str, np.ndarray]:
    """Raw contents for every input, or typed contents for every input, as the protocol has it."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            "raw contents are for every input or for none", received=f"{len(raw)} for {len(request.inputs)} inputs"
        )
    found: dict[str, np.ndarray] = {}
    for number, one in enumerate(request.inputs):
        where, shape = f"input {one.name!r}", list(one.shape)
        if one.name in found or one.datatype not in NUMPY:
            raise InvalidInput(f"{where} is there twice or has an unknown data type", received=one.datatype)
        count = elements(shape, where)
        if raw:
            found[one.name] = from_bytes(memoryview(raw[number]), one.datatype, shape, count, where)
            continue
        if one.datatype not in CONTENTS:
            raise InvalidInput(f"{where} comes as raw contents only", received=one.datatype)
        values = list(getattr(one.contents, CONTENTS[one.datatype]))
        if one.datatype == "BYTES":
            values = [value.decode("utf-8", "replace") for value in values]
        found[one.name] = from_list(values, one.datatype, shape, count, where)
    return found


def _parameter(value: Any) -> Any:
    kind = value.WhichOneof("parameter_choice")
    return getattr(value, kind) if kind else None
