"""OpenTelemetry: one span per request, as a child of the client's, whose id the replica gets. Off unless an endpoint is configured.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns it on; the other standard variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`,
headers, time-outs) mean what they always mean. Spans are exported by a thread of the SDK; if nobody takes them they are dropped.
Without it a client's `traceparent` goes to the replica as it came.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...base.errors import Unavailable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from .exchange import Exchange

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CONTEXT = (b"traceparent", b"tracestate")


class Tracing:
    def __init__(self, provider: TracerProvider):
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("leptonai.gateway")
        self._propagator = TraceContextTextMapPropagator()
        self._kind, self._error = SpanKind.SERVER, Status(StatusCode.ERROR)

    @classmethod
    def from_environment(cls, worker: str) -> Tracing | None:
        """None if no collector is configured. Raises Unavailable if one is, but the packages are missing."""
        if not any(os.environ.get(name) for name in _VARIABLES) or os.environ.get("OTEL_SDK_DISABLED") == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise Unavailable(
                f"traces are wanted (OTEL_EXPORTER_OTLP_ENDPOINT is set), but {error.name} is not installed",
                fix="pip install 'lepton-platform[otel]', or unset the variable.",
            ) from None
        name = os.environ.get("OTEL_SERVICE_NAME", "lepton-gateway")
        provider = TracerProvider(resource=Resource.create({"service.name": name, "service.instance.id": worker}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def begin(self, exchange: Exchange) -> None:
        """Start the request's span and put its context in the place of the client's."""
        request = exchange.request
        carrier: dict[str, str] = {}
        kept = []
        for line in request.lines:
            name, _, value = line.partition(b":")
            if name.lower() in _CONTEXT:
                carrier[name.lower().decode()] = value.strip().decode("latin-1")
            else:
                kept.append(line)
        endpoint = exchange.endpoint
        span = self._tracer.start_span(
            f"{request.method.decode()} {endpoint.key if endpoint is not None else 'plane'}",
            context=self._propagator.extract(carrier),
            kind=self._kind,
            attributes={
                "http.request.method": request.method.decode(),
                "url.path": request.target.partition(b"?")[0].decode(),
                "client.address": exchange.client,
                "lepton.request_id": exchange.request_id.decode(),
                "lepton.caller": exchange.caller,
            },
        )
        exchange.span = span
        context = span.get_span_context()
        kept.append(b"traceparent: 00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags))
        if context.trace_state:
            kept.append(b"tracestate: " + context.trace_state.to_header().encode("latin-1"))
        request.lines = kept

    def end(self, exchange: Exchange) -> None:
        span = exchange.span
        if span is None:
            return
        if span.is_recording():
            span.set_attribute("http.response.status_code", exchange.status)
            span.set_attribute("lepton.attempts", exchange.attempts)
            if exchange.revision is not None:
                span.set_attribute("lepton.revision", exchange.revision.id)
            if exchange.replica is not None:
                span.set_attribute("lepton.replica", exchange.replica.id)
            if exchange.status >= 500:
                span.set_status(self._error)
        span.end()

    def close(self) -> None:
        """Export what is left; takes seconds if the collector does not answer."""
        self._provider.shutdown()
