"""What the plane does beside controllers: takes usage facts into the ledger, and removes what nobody needs any more."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite

from ..base.errors import LeptonError
from .gateway.usage import Fact, collect
from .resources.registry import KINDS
from .store import Store
from .store.tables import idempotency, usage
from .store.transaction import now_ms

log = logging.getLogger("lepton.upkeep")
COLLECT_S, SWEEP_S = 1.0, 300.0
IDEMPOTENCY_MS = 24 * 3_600_000
GRAVE_MS = 3_600_000
"""Deleted resources without a controller stay this long, so that whoever follows changes sees that they went."""


class Upkeep:
    def __init__(self, store: Store, folder: Path):
        self._store, self._folder = store, folder
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        sweep_at = 0.0
        while not self._stopping.wait(COLLECT_S):
            try:
                collect(self._folder / "usage", self._deliver)
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + SWEEP_S
                    sweep(self._store)
            except (LeptonError, OSError) as error:
                log.warning("upkeep comes again later: %s", error)

    def _deliver(self, facts: list[Fact]) -> None:
        add_usage(self._store, facts)


def add_usage(store: Store, facts: list[Fact]) -> None:
    """Take facts into the ledger, each id once: the primary key refuses a second, in the transaction of the write."""
    if not facts:
        return
    rows = [
        {
            "id": fact.id,
            "workspace": fact.workspace,
            "caller": fact.caller[:200],
            "resource": f"endpoint/{fact.endpoint}",
            "meter": "requests",
            "quantity": 1,
            "at": int(fact.at * 1000),
            "detail": {
                "revision": fact.revision,
                "replica": fact.replica,
                "request_id": fact.request_id,
                "status": fact.status,
                "duration_ms": fact.duration_ms,
                "bytes_in": fact.bytes_in,
                "bytes_out": fact.bytes_out,
            },
        }
        for fact in facts
    ]
    dialect = postgresql if store.dialect == "postgresql" else sqlite
    with store.connection() as connection:
        connection.execute(dialect.insert(usage).on_conflict_do_nothing(index_elements=[usage.c.id]), rows)


def sweep(store: Store) -> None:
    """Old idempotency keys, and deleted resources of kinds that no controller cleans up."""
    with store.connection() as connection:
        connection.execute(delete(idempotency).where(idempotency.c.at < now_ms() - IDEMPOTENCY_MS))
    for kind in KINDS.values():
        if kind.controller is not None:
            continue
        with store.transaction() as tx:
            for resource in tx.list(kind.name, None, deleted=True, limit=1000):
                if resource.deleted_at and resource.deleted_at < now_ms() - GRAVE_MS:
                    tx.purge(resource)
