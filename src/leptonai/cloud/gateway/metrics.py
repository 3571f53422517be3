"""The gateway's part of `/metrics`, in Prometheus' text format, made from the workers' reports."""

from __future__ import annotations

from .counts import BUCKETS_S
from .traffic import Traffic


def render(traffic: Traffic) -> str:
    """Counters are per worker, because they start at 0 with it; add them up with `sum without (worker)`."""
    lines: list[str] = []
    _family(
        lines,
        "lepton_gateway_connections",
        "gauge",
        "Open client connections.",
        [({"worker": one.worker}, one.connections) for one in traffic.reports],
    )
    _family(
        lines,
        "lepton_gateway_refused_total",
        "counter",
        "Requests that the gateway answered itself.",
        [
            ({"worker": one.worker, "status": str(status)}, count)
            for one in traffic.reports
            for status, count in sorted(one.refused.items())
        ],
    )
    endpoints = [(one.worker, key, part) for one in traffic.reports for key, part in sorted(one.endpoints.items())]
    for name, text, value in (
        ("in_flight", "Requests that are open.", lambda part: part.in_flight),
        ("held", "Requests that wait for a replica.", lambda part: part.held),
    ):
        _family(
            lines,
            f"lepton_endpoint_{name}",
            "gauge",
            text,
            [(_labels(worker, key), value(part)) for worker, key, part in endpoints],
        )
    revisions = [
        (_labels(worker, key, id), one) for worker, key, part in endpoints for id, one in sorted(part.revisions.items())
    ]
    _family(
        lines,
        "lepton_endpoint_requests_total",
        "counter",
        "Requests by the first digit of their status.",
        [
            ({**labels, "status": f"{digit}xx"}, count)
            for labels, one in revisions
            for digit, count in enumerate(one.statuses)
            if count
        ],
    )
    for way in ("in", "out"):
        _family(
            lines,
            f"lepton_endpoint_bytes_{way}_total",
            "counter",
            f"Bytes of bodies, {way}.",
            [(labels, getattr(one, f"bytes_{way}")) for labels, one in revisions],
        )
    lines += [
        "# HELP lepton_endpoint_latency_seconds From the request to the head of the answer.",
        "# TYPE lepton_endpoint_latency_seconds histogram",
    ]
    for labels, one in revisions:
        seen = 0
        for count, end in zip(one.histogram, (*BUCKETS_S, "+Inf"), strict=False):
            seen += count
            lines.append(_line("lepton_endpoint_latency_seconds_bucket", {**labels, "le": str(end)}, seen))
        lines.append(_line("lepton_endpoint_latency_seconds_sum", labels, one.latency_s))
        lines.append(_line("lepton_endpoint_latency_seconds_count", labels, seen))
    return "\n".join(lines) + "\n"


def _family(lines: list[str], name: str, kind: str, text: str, samples: list[tuple[dict[str, str], float]]) -> None:
    lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    lines += [_line(name, labels, value) for labels, value in samples]


def _labels(worker: str, key: str, revision: str | None = None) -> dict[str, str]:
    workspace, _, endpoint = key.partition("/")
    return {
        "worker": worker,
        "workspace": workspace,
        "endpoint": endpoint,
        **({"revision": revision} if revision is not None else {}),
    }


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(
        '{}="{}"'.format(key, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, text in labels.items()
    )
    return f"{name}{{{inner}}} {value:.17g}"
