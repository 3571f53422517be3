"""Calls controllers. Owns who is active on this home, what is due when, and back-off; holds no state that a restart needs.

A resource is due when its row changes, when one of its workloads changes, when its controller asked for it, and every few
minutes anyway. One thread looks at the store, one at the driver, a few reconcile; one resource is never with two of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from ...base.errors import Conflict, LeptonError
from ...base.files import write_atomic
from ..compute.driver import Observation
from ..resources.registry import KINDS
from ..store import Resource
from .context import UID, Context, Controller

LEASE_S, RENEW_S = 10.0, 3.0
OBSERVE_S = 0.15
RESYNC_S = 300.0
BACKOFF_S, MAX_BACKOFF_S = 0.5, 60.0
log = logging.getLogger("lepton.control")


class Loop:
    """`with Loop(context):` runs the controllers of this home in threads, as soon as no other process does."""

    def __init__(self, context: Context, controllers: Mapping[str, Controller] | None = None, *, workers: int = 4):
        self.context = context
        self.controllers = controllers if controllers is not None else make_controllers(context)
        self.active = threading.Event()
        """Set while this process is the one that acts."""
        self._stopping = threading.Event()
        self._ready = threading.Condition()
        self._due: list[tuple[float, str]] = []
        self._when: dict[str, float] = {}
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._seen: dict[str, Observation] = {}
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._claimed: set[str] = set()
        self.node = node_id(context.home.root / "cloud")

    def __enter__(self) -> Loop:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._run(self._hold_lease)
        for work in (self._watch_store, self._watch_driver, *[self._work] * self._workers):
            self._run(work)

    def stop(self) -> None:
        """Finish what is being reconciled and let the next process in. Workloads run on."""
        self._stopping.set()
        with self._ready:
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, work) -> None:
        thread = threading.Thread(target=work, name=f"control-{work.__name__.strip('_')}", daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- being the one

    def _hold_lease(self) -> None:
        """On one home the lock decides: the system frees it the moment its process dies. The lease fences off the late writes of
        a process that was stopped and woke up, and keeps copies of a home from acting twice."""
        folder = self.context.home.root / "cloud"
        lock = os.open(folder / "controllers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not self._stopping.is_set() and not _locked(lock):
                self._stopping.wait(0.1)
            while not self._stopping.is_set():
                self._renew()
                self._stopping.wait(RENEW_S if self.active.is_set() else 0.5)
            for thread in self._threads[1:]:
                thread.join()
            if self.context.lease is not None:
                with contextlib.suppress(LeptonError):
                    self.context.lease.release()
        finally:
            os.close(lock)

    def _renew(self) -> None:
        try:
            lease = self.context.store.lease(f"node/{self.node}", self.node, LEASE_S)
        except LeptonError as error:
            log.warning("the lease cannot be renewed: %s", error)
            return  # writes are fenced by the database itself; acts on workloads are idempotent
        if lease is None:
            if self.active.is_set():
                log.error("another process has taken the lease of this home")
            self.active.clear()
            return
        self.context.lease = lease
        self.active.set()

    def _owns(self, resource: Resource) -> bool:
        """With several planes on one database a resource belongs to the first that takes it: its workloads are there."""
        if self.context.store.dialect == "sqlite" or resource.uid in self._claimed:
            return True
        if self.context.store.lease(f"resource/{resource.uid}", self.node, 10 * 365 * 86400.0) is None:
            return False
        self._claimed.add(resource.uid)
        return True

    # -- what is due

    def wake(self, uid: str, after_s: float = 0.0) -> None:
        """Make the resource due in `after_s` at the latest."""
        when = time.monotonic() + after_s
        with self._ready:
            if when < self._when.get(uid, float("inf")):
                self._when[uid] = when
                heapq.heappush(self._due, (when, uid))
                self._ready.notify()

    def _next(self) -> str | None:
        """The resource that has been due for longest and is with nobody; None when the loop ends."""
        with self._ready:
            while not self._stopping.is_set():
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    when, uid = heapq.heappop(self._due)
                    if self._when.get(uid) != when:
                        continue  # it was made due earlier than that, and is done
                    del self._when[uid]
                    if uid in self._busy:
                        self._again.add(uid)
                        continue
                    self._busy.add(uid)
                    return uid
                self._ready.wait(self._due[0][0] - now if self._due else 1.0)
            return None

    def _done(self, uid: str) -> None:
        with self._ready:
            self._busy.discard(uid)
            again = uid in self._again
            self._again.discard(uid)
        if again:
            self.wake(uid)

    # -- watching

    def _watch_store(self) -> None:
        position, resync_at = 0, 0.0  # from the start: every resource is looked at once
        while not self._stopping.is_set():
            if not self.active.wait(0.2):
                continue
            try:
                if time.monotonic() >= resync_at:
                    position, resync_at = 0, time.monotonic() + RESYNC_S
                changed, position = self.context.store.changes(position)
                for resource in changed:
                    if resource.kind in self.controllers:
                        self.wake(resource.uid)
                if not changed:
                    self.context.store.wait(position, 0.5)
            except LeptonError as error:
                log.warning("the store cannot be watched: %s", error)
                self._stopping.wait(1.0)

    def _watch_driver(self) -> None:
        resync_at = 0.0
        while not self._stopping.wait(OBSERVE_S):
            if not self.active.is_set():
                continue
            if time.monotonic() >= resync_at:
                self._seen, resync_at = {}, time.monotonic() + RESYNC_S
            try:
                seen = self.context.driver.observe()
            except (LeptonError, OSError) as error:
                log.warning("the driver cannot be observed: %s", error)
                self._stopping.wait(1.0)
                continue
            for id in seen.keys() | self._seen.keys():
                new, old = seen.get(id), self._seen.get(id)
                if new != old and (uid := (new or old).labels.get(UID)):  # type: ignore[union-attr]
                    self.wake(uid)
            self._seen = seen

    # -- reconciling

    def _work(self) -> None:
        while (uid := self._next()) is not None:
            again: float | None = None
            try:
                again = self._reconcile(uid) if self.active.is_set() else 0.5
            finally:
                self._done(uid)
            if again is not None:
                self.wake(uid, again)

    def _reconcile(self, uid: str) -> float | None:
        resource = None
        try:
            with self.context.store.reading() as tx:
                resource = tx.by_uid(uid)
            if resource is None:
                self._forget(uid)
            if resource is None or resource.kind not in self.controllers or not self._owns(resource):
                self._failures.pop(uid, None)
                return None
            again = self.controllers[resource.kind].reconcile(resource)
        except Conflict:
            return 0.02  # it has moved since it was read
        except Exception as error:
            return self._failed(uid, resource, error)
        self._failures.pop(uid, None)
        return again

    def _forget(self, uid: str) -> None:
        """The resource is gone for good; so are the records of its workloads, once they have ended."""
        for id, seen in self._seen.items():
            if seen.ended and seen.labels.get(UID) == uid:
                self.context.driver.forget(id)

    def _failed(self, uid: str, resource: Resource | None, error: Exception) -> float:
        """Say it once where the owner of the resource looks, and try again, less and less often."""
        count = self._failures[uid] = self._failures.get(uid, 0) + 1
        known = isinstance(error, LeptonError)
        log.error("reconciling %s failed: %s", resource.name if resource else uid, error, exc_info=not known)
        if resource is not None and count in (1, 5):
            with contextlib.suppress(LeptonError), self.context.transaction() as tx:
                message = str(error) if known else f"the plane met an error of its own ({type(error).__name__})"
                tx.event(resource, "Warning", "ReconcileError", message)
        return min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (count - 1))


def make_controllers(context: Context, kinds: tuple[str, ...] | None = None) -> dict[str, Controller]:
    """The controllers of the registry; one for kinds that share a class."""
    made: dict[type, Controller] = {}
    found = {}
    for kind in KINDS.values():
        if kind.controller and (kinds is None or kind.name in kinds):
            cls = kind.load_controller()
            assert cls is not None
            if cls not in made:
                made[cls] = cls(context)
            found[kind.name] = made[cls]
    return found


def node_id(folder: Path) -> str:
    """The name of this home among the planes of one database; made once."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "node"
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex[:12])
    return path.read_text().strip()


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
