"""Counts of the API for Prometheus: by route, method and status, with times. No names of tenants."""

from __future__ import annotations

import threading
from collections import Counter

BOUNDS_S = (0.005, 0.02, 0.1, 0.5, 2.0)


class Metrics:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._times: Counter[float] = Counter()
        self._seconds = 0.0

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        method = method if method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD") else "other"
        with self._lock:
            self._requests[route, method, status] += 1
            self._seconds += seconds
            self._times[next((bound for bound in BOUNDS_S if seconds <= bound), float("inf"))] += 1

    def text(self, position: int) -> str:
        with self._lock:
            lines = ["# TYPE lepton_api_requests_total counter"]
            for (route, method, status), number in sorted(self._requests.items()):
                lines.append(
                    f'lepton_api_requests_total{{route="{route}",method="{method}",status="{status}"}} {number}'
                )
            lines.append("# TYPE lepton_api_seconds histogram")
            total = 0
            for bound in (*BOUNDS_S, float("inf")):
                total += self._times[bound]
                lines.append(f'lepton_api_seconds_bucket{{le="{"+Inf" if bound == float("inf") else bound}"}} {total}')
            lines += [f"lepton_api_seconds_sum {self._seconds:.6f}", f"lepton_api_seconds_count {total}"]
            lines += ["# TYPE lepton_store_position gauge", f"lepton_store_position {position}"]
        return "\n".join(lines) + "\n"
