"""Counters and histograms in the Prometheus text format. Owns the numbers of one server process; written from any thread.

Our own 90 lines instead of prometheus_client: one lock, no registry of registries, 3 µs for a request.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping

# Seconds. Small models answer in a millisecond or two; the last bucket is the request deadline.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    """A number per tuple of label values; `set` makes it a gauge."""

    def __init__(self, name: str, text: str, labels: Iterable[str] = (), kind: str = "counter"):
        self.name, self.text, self.labels, self.kind = name, text, tuple(labels), kind
        self.values: dict[tuple[str, ...], float] = {} if self.labels else {(): 0}
        self.lock = threading.Lock()

    def add(self, amount: float = 1, *labels: str) -> None:
        with self.lock:
            self.values[labels] = self.values.get(labels, 0) + amount

    def set(self, value: float, *labels: str) -> None:
        with self.lock:
            self.values[labels] = value

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Forget every label and take `values`: for facts like "which version is served"."""
        with self.lock:
            self.values = dict(values)

    def lines(self) -> list[str]:
        with self.lock:
            values = dict(self.values)
        return [f"{self.name}{_labels(self.labels, key)} {_number(value)}" for key, value in sorted(values.items())]


class Histogram:
    """Cumulative buckets per tuple of label values."""

    kind = "histogram"

    def __init__(self, name: str, text: str, buckets: tuple[float, ...], labels: Iterable[str] = ()):
        self.name, self.text, self.labels, self.buckets = name, text, tuple(labels), buckets
        self.counts: dict[tuple[str, ...], list[int]] = {}
        self.sums: dict[tuple[str, ...], float] = {}
        self.lock = threading.Lock()

    def observe(self, value: float, *labels: str) -> None:
        with self.lock:
            counts = self.counts.get(labels)
            if counts is None:
                counts = self.counts[labels] = [0] * (len(self.buckets) + 1)
                self.sums[labels] = 0.0
            counts[bisect_left(self.buckets, value)] += 1
            self.sums[labels] += value

    def lines(self) -> list[str]:
        with self.lock:
            copies = [(key, list(counts), self.sums[key]) for key, counts in sorted(self.counts.items())]
        lines = []
        for key, counts, total in copies:
            seen = 0
            for bound, count in zip((*self.buckets, "+Inf"), counts, strict=True):
                seen += count
                labels = _labels((*self.labels, "le"), (*key, str(bound)))
                lines.append(f"{self.name}_bucket{labels} {seen}")
            lines.append(f"{self.name}_sum{_labels(self.labels, key)} {_number(total)}")
            lines.append(f"{self.name}_count{_labels(self.labels, key)} {seen}")
        return lines


class Metrics:
    """What one served model tells a scraper."""

    def __init__(self) -> None:
        self.requests = Counter("lepton_requests_total", "Answers by route and status.", ("route", "status"))
        self.latency = Histogram(
            "lepton_request_seconds", "Time from the request's headers to its answer.", LATENCY_BUCKETS, ("route",)
        )
        self.in_flight = Counter("lepton_requests_in_flight", "Requests being answered now.", kind="gauge")
        self.waiting = Counter("lepton_rows_waiting", "Rows that wait for the model now.", kind="gauge")
        self.rows = Counter("lepton_rows_total", "Rows predicted, by model version.", ("model",))
        self.batch = Histogram("lepton_batch_rows", "Rows that the model took at once.", ROW_BUCKETS)
        self.queue_seconds = Histogram(
            "lepton_queue_seconds", "Time that a request waited for the model.", LATENCY_BUCKETS
        )
        self.model_seconds = Histogram("lepton_model_seconds", "Time that the model took for a batch.", LATENCY_BUCKETS)
        self.restarts = Counter("lepton_replica_restarts_total", "Model processes that died and were started again.")
        self.estimated_wait = Counter(
            "lepton_estimated_wait_seconds", "How long a new request would wait for the model.", kind="gauge"
        )
        self.cost = Counter(
            "lepton_batch_cost_seconds", "Fitted time of a batch: fixed, and per row.", ("part",), "gauge"
        )
        self.refused = Counter("lepton_refused_total", "Predictions refused because too much was waiting.")
        self.feedback = Counter("lepton_feedback_total", "Feedback that was stored, by kind.", ("kind",))
        self.log_failures = Counter("lepton_log_failures_total", "Requests and feedback that could not be stored.")
        self.swaps = Counter("lepton_swaps_total", "Changes of the served version, by result.", ("result",))
        self.model = Counter("lepton_model_info", "1 for the version that is served now.", ("model", "task"), "gauge")
        self.started = Counter("lepton_start_time_seconds", "Unix time at which the server started.", kind="gauge")

    def render(self) -> str:
        lines = []
        for family in vars(self).values():
            lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}", *family.lines()]
        return "\n".join(lines) + "\n"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
