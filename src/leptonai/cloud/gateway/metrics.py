"""The gateway's part of `/metrics`, in Prometheus' text format, made from the workers' reports.

Counters are per worker, because they start at 0 with it; add them up with `sum without (worker)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .counts import BUCKETS_S
from .traffic import EndpointTraffic, Traffic

Samples = Iterable[tuple[dict[str, str], float]]
HISTOGRAM = "lepton_endpoint_latency_seconds"


def render(traffic: Traffic, show: Callable[[str], bool] = lambda workspace: True) -> str:
    """`show`: of which workspaces the endpoints are told by name; totals of the workers are told always."""
    reports = traffic.reports
    endpoints = [
        (_labels(one.worker, key), part)
        for one in reports
        for key, part in sorted(one.endpoints.items())
        if show(key.partition("/")[0])
    ]
    lines = _family(
        "lepton_gateway_connections",
        "gauge",
        "Open client connections.",
        [({"worker": one.worker}, one.connections) for one in reports],
    )
    for name, text, value in (
        ("in_flight", "Requests that are open.", lambda part: part.in_flight),
        ("held", "Requests that wait for a replica.", lambda part: part.held),
    ):
        totals = [({"worker": one.worker}, sum(map(value, one.endpoints.values()))) for one in reports]
        lines += _family(f"lepton_gateway_{name}", "gauge", text, totals)
        lines += _family(
            f"lepton_endpoint_{name}", "gauge", text, [(labels, value(part)) for labels, part in endpoints]
        )
    lines += _family(
        "lepton_gateway_refused_total",
        "counter",
        "Requests that the gateway answered itself.",
        [
            ({"worker": one.worker, "status": str(status)}, count)
            for one in reports
            for status, count in sorted(one.refused.items())
        ],
    )
    totals = [
        ({"worker": one.worker}, sum(r.requests for part in one.endpoints.values() for r in part.revisions.values()))
        for one in reports
    ]
    lines += _family("lepton_gateway_requests_total", "counter", "Requests that replicas answered.", totals)
    return "\n".join([*lines, *_revisions(endpoints), *_callers(endpoints)]) + "\n"


def _revisions(endpoints: list[tuple[dict[str, str], EndpointTraffic]]) -> list[str]:
    found = [
        ({**labels, "revision": id}, one) for labels, part in endpoints for id, one in sorted(part.revisions.items())
    ]
    statuses = [
        ({**labels, "status": f"{digit}xx"}, count)
        for labels, one in found
        for digit, count in enumerate(one.statuses)
        if count
    ]
    lines = _family(
        "lepton_endpoint_requests_total", "counter", "Requests by the first digit of their status.", statuses
    )
    errors = [(labels, one.errors) for labels, one in found]
    lines += _family("lepton_endpoint_errors_total", "counter", "Requests that ended with 5xx.", errors)
    for way in ("in", "out"):
        values = [(labels, getattr(one, f"bytes_{way}")) for labels, one in found]
        lines += _family(f"lepton_endpoint_bytes_{way}_total", "counter", f"Bytes of bodies, {way}.", values)
    lines += _family(HISTOGRAM, "histogram", "From the request to the head of the answer.", [])
    for labels, one in found:
        seen = 0
        for count, end in zip(one.histogram, (*BUCKETS_S, "+Inf"), strict=False):
            seen += count
            lines.append(_line(f"{HISTOGRAM}_bucket", {**labels, "le": str(end)}, seen))
        lines.append(_line(f"{HISTOGRAM}_sum", labels, one.latency_s))
        lines.append(_line(f"{HISTOGRAM}_count", labels, seen))
    return lines


def _callers(endpoints: list[tuple[dict[str, str], EndpointTraffic]]) -> list[str]:
    found = [({**labels, "key": id}, one) for labels, part in endpoints for id, one in sorted(part.callers.items())]
    lines: list[str] = []
    for name, text in (
        ("requests", "Requests of a token or key; an empty one stands for callers without."),
        ("errors", "Requests of a token or key that ended with 5xx."),
        ("limited", "Requests of a token or key that were turned away by its limit."),
        ("bytes_in", "Bytes of bodies that a token or key has sent."),
        ("bytes_out", "Bytes of bodies that a token or key was sent."),
    ):
        values = [(labels, getattr(one, name)) for labels, one in found]
        lines += _family(f"lepton_key_{name}_total", "counter", text, values)
    return lines


def _family(name: str, kind: str, text: str, samples: Samples) -> list[str]:
    return [
        f"# HELP {name} {text}",
        f"# TYPE {name} {kind}",
        *(_line(name, labels, value) for labels, value in samples),
    ]


def _labels(worker: str, key: str) -> dict[str, str]:
    workspace, _, endpoint = key.partition("/")
    return {"worker": worker, "workspace": workspace, "endpoint": endpoint}


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(
        '{}="{}"'.format(key, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, text in labels.items()
    )
    return f"{name}{{{inner}}} {value:.17g}"
