"""Leases with fencing: who may act for a while, and a token by which a late write of an old holder is refused.

Time comes from a clock that nobody sets: PostgreSQL's own with several machines; on one machine (SQLite) the monotonic
clock since boot, named by the boot, so that a lease from before a restart of the machine is over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from .tables import leases

if TYPE_CHECKING:
    from .store import Store


@dataclass
class Lease:
    store: Store
    name: str
    holder: str
    token: int
    ttl_s: float

    def renew(self) -> bool:
        """Extend it by its time; False if somebody else has taken it: stop acting."""
        with self.store.connection() as connection:
            clock, now = _now(connection)
            result = connection.execute(
                update(leases)
                .where(leases.c.name == self.name, leases.c.token == self.token)
                .values(clock=clock, expires_at=now + int(self.ttl_s * 1000))
            )
            return result.rowcount == 1

    def release(self) -> None:
        """Let the next holder in at once. The token is kept, so it never repeats."""
        with self.store.connection() as connection:
            connection.execute(
                update(leases)
                .where(leases.c.name == self.name, leases.c.token == self.token)
                .values(expires_at=0, holder="")
            )


def acquire(connection: Connection, name: str, holder: str, ttl_s: float) -> int | None:
    clock, now = _now(connection)
    expires_at = now + int(ttl_s * 1000)
    row = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).first()
    if row is None:
        try:
            with connection.begin_nested():
                connection.execute(
                    insert(leases).values(name=name, holder=holder, token=1, clock=clock, expires_at=expires_at)
                )
            return 1
        except IntegrityError:  # somebody was quicker
            return None
    free = row.clock != clock or row.expires_at <= now
    if not free and row.holder != holder:
        return None
    token = row.token + 1 if free else row.token
    connection.execute(
        update(leases)
        .where(leases.c.name == name)
        .values(holder=holder, token=token, clock=clock, expires_at=expires_at)
    )
    return token


def holds(connection: Connection, lease: Lease) -> bool:
    """Whether the lease's token is the newest. The row stays locked until this transaction ends, so nobody takes it meanwhile."""
    query = select(leases.c.token).where(leases.c.name == lease.name).with_for_update(read=True)
    return connection.scalar(query) == lease.token


def forget(connection: Connection, name: str) -> None:
    connection.execute(delete(leases).where(leases.c.name == name))


def _now(connection: Connection) -> tuple[str, int]:
    """The name of the clock and its milliseconds."""
    if connection.dialect.name == "postgresql":
        return "database", int(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) * 1000)
    return _boot_id(), int(time.monotonic() * 1000)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Elsewhere: the moment of the boot, in steps that a corrected clock does not leave.
        return str(round((time.time() - time.monotonic()) / 600))
