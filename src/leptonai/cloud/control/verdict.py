"""Whether a new revision is worse than the one it replaces, from what the gateway saw of both in the same time.

Errors: Fisher's exact test against the stable revision. Time: a sign test over slices of time. In each slice both have been
asked by the same clients on the same machine, so one that stands still for a second makes both slow in one slice, and never
one of them in most slices. Time is what a replica took, from the request given to it until the head of its answer.
"""

from __future__ import annotations

import math

import msgspec

from ...base.structs import prepare
from ..gateway.counts import BUCKETS_S
from ..gateway.traffic import RevisionTraffic

MIN_ERRORS, MORE_ERRORS, BY_CHANCE = 3, 0.05, 1e-5
KNOWN_REQUESTS = 20
"""With fewer of the stable one in the same time, all that it ever answered counts; of one that answered nothing, so many good ones."""
SLICE_REQUESTS = 5
"""A slice is over when both revisions have answered this often in it."""
SLICES, SLOW_SLICES = 8, 7
SLOWER, SLOWER_BY_S, SLOWER_MEDIAN = 2.0, 0.005, 1.5
SILENT_S = 5.0


class Speed(msgspec.Struct, omit_defaults=True):
    """Notes of the comparison. `slices`: of the last few, which were slow; `new`, `stable`: counts when the present one began."""

    slices: list[bool] = []
    new: RevisionTraffic | None = None
    stable: RevisionTraffic | None = None
    took_s: float = 0.0
    before_s: float = 0.0


prepare(Speed)


def observe(speed: Speed, new: RevisionTraffic, stable: RevisionTraffic) -> None:
    """Take in the counts so far; ends the slice if there is enough in it."""
    begins = speed.new is None or speed.stable is None
    if begins or new.requests < speed.new.requests or stable.requests < speed.stable.requests:
        speed.new, speed.stable = new, stable  # a worker that begins anew has forgotten its counts
        return
    mine, other = new.minus(speed.new), stable.minus(speed.stable)
    if min(mine.requests, other.requests) < SLICE_REQUESTS:
        return
    speed.new, speed.stable = new, stable
    took_s, before_s = mine.latency_s / mine.requests, other.latency_s / other.requests
    slow = took_s > SLOWER * before_s and took_s - before_s > SLOWER_BY_S
    # The median too: a few slow requests are not a slow revision.
    slow = slow and _median_s(mine) >= SLOWER_MEDIAN * _median_s(other)
    if slow:
        speed.took_s, speed.before_s = took_s, before_s
    speed.slices = [*speed.slices, slow][-SLICES:]


def is_decided(speed: Speed) -> bool:
    return len(speed.slices) >= SLICES


def worse(speed: Speed, new: RevisionTraffic, stable: RevisionTraffic, ever: RevisionTraffic) -> str | None:
    """Why the new one must go; None as long as there is no reason. `stable`: since the new one takes requests; `ever`: all it did."""
    other = stable if stable.requests >= KNOWN_REQUESTS else ever
    known = max(KNOWN_REQUESTS, other.requests)
    more = new.errors >= MIN_ERRORS and new.errors / new.requests > other.errors / known + MORE_ERRORS
    if more and by_chance(new.errors, new.requests, other.errors, known) < BY_CHANCE:
        return f"{new.errors} of {new.requests} requests failed ({other.errors / known:.1%} before)"
    usual_s = ever.quantile(0.999) or 0.0
    if new.silent_s > SILENT_S and new.silent_s > 3 * max(stable.silent_s, usual_s):
        return f"a request has had no answer for {new.silent_s:.0f} s"
    if sum(speed.slices) >= SLOW_SLICES:
        return f"it takes {speed.took_s * 1000:.0f} ms on average, {speed.before_s * 1000:.0f} ms before"
    return None


def by_chance(errors: int, requests: int, other_errors: int, other_requests: int) -> float:
    """The probability that so many or more of all errors fall to these requests if both have one rate (Fisher's exact test)."""
    all_errors, everything = errors + other_errors, requests + other_requests
    ways = _log_ways(everything, requests)
    most = min(all_errors, requests)
    return sum(
        math.exp(_log_ways(all_errors, count) + _log_ways(everything - all_errors, requests - count) - ways)
        for count in range(errors, most + 1)
        if requests - count <= everything - all_errors
    )


def _log_ways(things: int, chosen: int) -> float:
    return math.lgamma(things + 1) - math.lgamma(chosen + 1) - math.lgamma(things - chosen + 1)


def _median_s(one: RevisionTraffic) -> float:
    """The geometric middle of the bucket in which the median lies: ends alone would make two equal ones look different."""
    end = one.quantile(0.5) or 0.0
    begin = max((bound for bound in BUCKETS_S if bound < end), default=end / 2)
    return math.sqrt(begin * end)
