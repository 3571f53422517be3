"""Whether a new revision is worse than the one it replaces, from what the gateway saw of both in the same time."""

from __future__ import annotations

from ..gateway.traffic import RevisionTraffic

MIN_ERRORS, MORE_ERRORS = 3, 0.05
MIN_REQUESTS = 20
SLOWER, SLOWER_BY_S = 2.0, 0.005
SILENT_S = 5.0


def worse(new: RevisionTraffic, stable: RevisionTraffic) -> str | None:
    """Why the new one must go; None as long as there is no reason.

    Errors are compared with those of the stable one, so that a broken dependency of both is not blamed on the new one.
    """
    stable_rate = stable.errors / stable.requests if stable.requests else 0.0
    if new.errors >= MIN_ERRORS and new.errors / new.requests > stable_rate + MORE_ERRORS:
        return f"{new.errors} of {new.requests} requests failed ({stable_rate:.1%} before)"
    if new.silent_s > SILENT_S and new.silent_s > 3 * max(stable.silent_s, _mean_s(stable)):
        return f"a request has had no answer for {new.silent_s:.0f} s"
    if new.requests >= MIN_REQUESTS and stable.requests >= MIN_REQUESTS:
        mean, before = _mean_s(new), _mean_s(stable)
        # The median too: a few slow requests, or a cold start, are not a slow revision.
        median, median_before = new.quantile(0.5) or 0.0, stable.quantile(0.5) or 0.0
        if mean > SLOWER * before and mean - before > SLOWER_BY_S and median > median_before:
            return f"it takes {mean * 1000:.0f} ms on average, {before * 1000:.0f} ms before"
    return None


def _mean_s(one: RevisionTraffic) -> float:
    return one.latency_s / one.requests if one.requests else 0.0
