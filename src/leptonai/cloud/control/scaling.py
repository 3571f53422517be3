"""How many replicas an endpoint should have: its bounds, its traffic, and whether anybody has called it lately.

Up at once, down after a minute below and at most one step in half a minute, so that a saw-tooth does not flap. After
`no_traffic_timeout` without a request it sleeps (no replica); the next request is held by the gateway and wakes it.
"""

from __future__ import annotations

import math

import msgspec

from ...base.structs import prepare
from ..gateway.traffic import EndpointTraffic
from ..resources.endpoint import EndpointSpec

CONCURRENCY = 8
"""Open requests per replica that are aimed at, where min and max differ and no other target is set."""
DOWN_AFTER_S, DOWN_EVERY_S = 60.0, 30.0
LOOK_S = 1.0


class Scale(msgspec.Struct, omit_defaults=True):
    """Notes of the autoscaler; times in milliseconds since 1970. `low_since`: since when fewer would do."""

    replicas: int = 0
    low_since: int = 0
    changed: int = 0
    asleep: bool = False
    awake_since: int = 0


prepare(Scale)


def is_stopped(spec: EndpointSpec, least: int, most: int) -> bool:
    """`min_replicas: 0` means stop, unless a target says by what to scale from zero."""
    return most == 0 or (least == 0 and not has_target(spec))


def has_target(spec: EndpointSpec) -> bool:
    scaler = spec.auto_scaler
    if scaler is None:
        return False
    return bool((scaler.target_throughput and scaler.target_throughput.qpm) or scaler.target_gpu_utilization_percentage)


def desired(spec: EndpointSpec, least: int, most: int, scale: Scale, traffic: EndpointTraffic, now: int) -> int:
    """The number of replicas to aim at; keeps its notes in `scale`."""
    if is_stopped(spec, least, most) or spec.is_pod:
        scale.asleep, scale.awake_since, scale.low_since = False, 0, 0
        scale.replicas = 0 if is_stopped(spec, least, most) else 1
        return scale.replicas
    scale.awake_since = scale.awake_since or now
    if _sleeps(spec, least, scale, traffic, now):
        scale.replicas = 0
        return 0
    floor = max(1, least)
    if most <= floor:
        scale.replicas, scale.low_since = floor, 0
        return floor
    wanted = min(most, max(floor, _needed(spec, traffic)))
    current = min(most, max(floor, scale.replicas))
    if wanted >= current:
        scale.low_since = 0
        if wanted > current:
            scale.changed = now
        scale.replicas = wanted
    else:
        scale.low_since = scale.low_since or now
        waited = now - scale.low_since >= DOWN_AFTER_S * 1000 and now - scale.changed >= DOWN_EVERY_S * 1000
        scale.replicas = current - 1 if waited else current
        if waited:
            scale.changed = now
    return scale.replicas


def _needed(spec: EndpointSpec, traffic: EndpointTraffic) -> int:
    throughput = spec.auto_scaler and spec.auto_scaler.target_throughput
    by_rate = math.ceil(traffic.minute / throughput.qpm) if throughput and throughput.qpm else 0
    by_concurrency = math.ceil(traffic.in_flight / CONCURRENCY)
    return max(by_rate, by_concurrency)


def idle_timeout_s(spec: EndpointSpec, least: int) -> float | None:
    down = spec.auto_scaler and spec.auto_scaler.scale_down
    if down and down.no_traffic_timeout:
        return float(down.no_traffic_timeout)
    return 300.0 if least == 0 else None


def _sleeps(spec: EndpointSpec, least: int, scale: Scale, traffic: EndpointTraffic, now: int) -> bool:
    timeout_s = idle_timeout_s(spec, least)
    if timeout_s is None:
        scale.asleep = False
        return False
    called = round(traffic.last_request * 1000)
    if traffic.held or traffic.in_flight or (scale.asleep and called > scale.changed):
        if scale.asleep:
            scale.asleep, scale.changed, scale.awake_since = False, now, now
        return False
    if not scale.asleep and now - max(called, scale.awake_since) > timeout_s * 1000:
        scale.asleep, scale.changed = True, now
    return scale.asleep


def look_again_s(spec: EndpointSpec, scale: Scale, traffic: EndpointTraffic, now: int) -> float | None:
    """When traffic can change the answer of `desired`, in seconds; None: only a change of the spec can."""
    least, most = spec.replicas
    if is_stopped(spec, least, most) or spec.is_pod:
        return None
    if most > max(1, least):
        return LOOK_S
    timeout_s = idle_timeout_s(spec, least)
    if timeout_s is None:
        return None
    quiet_s = (now - max(round(traffic.last_request * 1000), scale.awake_since)) / 1000
    return max(LOOK_S, min(60.0, timeout_s - quiet_s + 0.1))
