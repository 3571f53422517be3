"""What a workspace may use at most, and where that is enforced: when something is made, when a workload is admitted, on upload."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from ...base.errors import Refused
from ..compute.driver import NOTHING, Resources
from ..resources.job import ENDED
from ..resources.shapes import Shape, shape_named
from ..store import Store, Transaction
from ..store.tables import resources
from .workspaces import DEFAULTS, get_workspace, list_workspaces

LOOK_S = 1.0
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Quota:
    """0: no limit but the machine's. `endpoints` counts pods too, `jobs` those that have not ended."""

    cpu: float = 0
    memory_bytes: int = 0
    accelerators: float = 0
    endpoints: int = 0
    jobs: int = 0
    storage_bytes: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Quota:
        return cls(**{**DEFAULTS["quota"], **settings.get("quota", {})})

    @property
    def resources(self) -> Resources | None:
        """What all workloads together may claim; None without a limit."""
        if not (self.cpu or self.memory_bytes or self.accelerators):
            return None
        return Resources(
            self.cpu or _UNLIMITED, int(self.memory_bytes) or _UNLIMITED, int(self.accelerators) or _UNLIMITED
        )


def check_room(
    tx: Transaction,
    workspace: str,
    kind: str,
    spec: Mapping[str, Any],
    offered: dict[str, Shape],
    uid: str | None = None,
) -> None:
    """Raises Refused if making this (or changing the resource `uid` to it) goes beyond the workspace's quota.

    Endpoints hold what their least replicas claim; jobs wait for room, so only one that could never start is refused.
    """
    quota = Quota.of(get_workspace(tx.connection, workspace).settings)
    if uid is None:
        _check_number(tx, workspace, kind, quota)
    limit = quota.resources
    if limit is None:
        return
    if kind != "endpoint":
        workers = int(spec.get("completions") or 1)
        together = workers if int(spec.get("parallelism") or 1) >= workers else int(spec.get("parallelism") or 1)
        _check_claim(f"this {kind}", _claim(spec.get("resource_shape"), offered, together), limit)
        return
    claim, most = _claims(spec, offered)
    _check_claim("this endpoint with all its replicas", most, limit)
    for other in tx.list("endpoint", workspace, limit=10_000):
        if other.uid != uid:
            claim = claim.plus(_claims(other.spec, offered)[0])
    _check_claim("the endpoints of this workspace together", claim, limit)


def _check_number(tx: Transaction, workspace: str, kind: str, quota: Quota) -> None:
    if kind == "endpoint":
        most, there, what = quota.endpoints, tx.count("endpoint", workspace), "endpoints and pods"
    else:
        alive = (resources.c.workspace == workspace, resources.c.deleted_at.is_(None), resources.c.state.not_in(ENDED))
        query = select(func.count()).where(resources.c.kind.in_(("job", "finetune")), *alive)
        most, there, what = quota.jobs, tx.connection.scalar(query) or 0, "jobs that have not ended"
    if most and there >= most:
        raise Refused(
            f"the workspace may have {most:g} {what}, and has them",
            received=there + 1,
            expected=f"at most {most:g}",
            fix=_FIX,
        )


_FIX = "Remove one, or ask an admin for more: lep workspace set."


def _claims(spec: Mapping[str, Any], offered: dict[str, Shape]) -> tuple[Resources, Resources]:
    """What the endpoint holds (least replicas) and may hold (most)."""
    wanted = spec.get("resource_requirement") or {}
    least = 1 if wanted.get("min_replicas") is None else int(wanted["min_replicas"])
    most = max(least, int(wanted.get("max_replicas") or 0))
    return _claim(wanted.get("resource_shape"), offered, least), _claim(wanted.get("resource_shape"), offered, most)


def _claim(shape: str | None, offered: dict[str, Shape], count: int) -> Resources:
    if shape and shape not in offered:
        return NOTHING  # of another machine that shares the database
    found = shape_named(shape, offered)
    return Resources(found.cpu, found.memory_bytes, int(found.accelerators)).times(count)


def _check_claim(what: str, claim: Resources, limit: Resources) -> None:
    if not claim.fits(limit):
        raise Refused(
            f"{what} would go beyond the workspace's quota",
            received=_words(claim),
            expected=f"at most {_words(limit)}",
            fix=_FIX,
        )


def _words(one: Resources) -> str:
    parts = [
        (one.cpu, f"{one.cpu:g} CPU"),
        (one.memory_bytes, f"{one.memory_bytes / 2**30:.1f} GiB"),
        (one.gpus, f"{one.gpus} GPU"),
    ]
    return ", ".join(text for amount, text in parts if 0 < amount < _UNLIMITED)


def check_storage(tx: Transaction, workspace: str, used: Callable[[], int], more: int) -> None:
    """Raises Refused if `more` bytes beside what is `used` (asked only if there is a limit) are too many."""
    most = Quota.of(get_workspace(tx.connection, workspace).settings).storage_bytes
    if most and (there := used()) + more > most:
        raise Refused(
            "the file would go beyond the workspace's quota of storage", received=f"{there + more:,} bytes",
            expected=f"at most {most:,.0f}", fix="Remove files, or ask an admin for more: lep workspace set.",
        )  # fmt: skip


class Limits:
    """`limits()`: what the workloads of each workspace may claim together, as the driver admits them; looked up once a second."""

    def __init__(self, store: Store):
        self._store, self._lock = store, threading.Lock()
        self._found: dict[str, Resources] = {}
        self._at = float("-inf")

    def __call__(self) -> dict[str, Resources]:
        with self._lock:
            if time.monotonic() - self._at >= LOOK_S:
                with self._store.reading() as tx:
                    rows = list_workspaces(tx.connection)
                quotas = {row.name: Quota.of(row.settings).resources for row in rows}
                self._found = {name: one for name, one in quotas.items() if one is not None}
                self._at = time.monotonic()
            return self._found
