"""Counts of the server and the engine as Prometheus text. Plain numbers on the hot path, words only when scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from ..backend import Stats

TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Histogram:
    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        lines, seen = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            seen += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {seen}')
        return [*lines, f"{name}_sum {self.total:.6f}", f"{name}_count {seen}"]


class Metrics:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.disconnects = 0
        self.active = 0
        self.first_byte = Histogram(TTFT_S)
        self.duration = Histogram(TTFT_S)

    def render(self, stats: Stats, *, restarts: int, ready: bool) -> bytes:
        lines = ["# TYPE lepton_requests_total counter"]
        lines += [
            f'lepton_requests_total{{route="{route}",status="{status}"}} {n}'
            for (route, status), n in sorted(self.requests.items())
        ]
        values = {
            "disconnects_total": ("counter", self.disconnects), "requests_active": ("gauge", self.active), "engine_ready": ("gauge", int(ready)),
            "engine_restarts_total": ("counter", restarts), "requests_waiting": ("gauge", stats.waiting), "requests_running": ("gauge", stats.running),
            "kv_blocks_used": ("gauge", stats.kv_used), "kv_blocks_total": ("gauge", stats.kv_total),
            "prompt_tokens_total": ("counter", stats.prompt_tokens), "generated_tokens_total": ("counter", stats.generated_tokens),
            "tokens_per_second": ("gauge", stats.tokens_per_s), "prefix_queried_tokens_total": ("counter", stats.prefix_queries),
            "prefix_hit_tokens_total": ("counter", stats.prefix_hits), "preemptions_total": ("counter", stats.preemptions),
            "drafted_tokens_total": ("counter", stats.drafted), "accepted_tokens_total": ("counter", stats.accepted), "steps_total": ("counter", stats.steps),
        }  # fmt: skip
        for name, (kind, value) in values.items():
            lines += [f"# TYPE lepton_{name} {kind}", f"lepton_{name} {value}"]
        lines += self.first_byte.lines("lepton_time_to_first_byte_seconds") + self.duration.lines(
            "lepton_request_seconds"
        )
        return ("\n".join(lines) + "\n").encode()
