"""One database, SQLite or PostgreSQL: open (and migrate) it, transactions, changes, leases. Safe to share between threads."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from sqlalchemy import Connection, create_engine, event, select
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ...base.errors import DiskFull, InvalidInput, LeptonError, Missing, Unavailable
from .leases import Lease, acquire
from .migrate import migrate
from .model import SYSTEM, Actor, Resource
from .tables import clock, resources, to_json
from .transaction import Transaction, to_resource

BUSY_TIMEOUT_S = 20.0
POLL_S = 0.2
"""How soon a change made by another process is seen; changes of this process are seen at once."""


class Store:
    """`url`: `sqlite:////path/plane.db` or `postgresql+psycopg://user@host/database` (`postgresql://` means the same)."""

    def __init__(self, url: str, *, migrated: bool = False):
        self._engine = _engine(url)
        self.dialect = self._engine.dialect.name
        # SQLite has one writer at a time; threads that wait here are served in turn instead of polling the file.
        self._writer = threading.Lock() if self.dialect == "sqlite" else contextlib.nullcontext()
        self._changed = threading.Condition()
        if not migrated:
            with _clear_errors():
                migrate(self._engine)

    @contextlib.contextmanager
    def transaction(
        self, *, actor: Actor = SYSTEM, request_id: str = "", lease: Lease | None = None
    ) -> Iterator[Transaction]:
        """All that happens inside is committed together, or not at all if the block raises.

        `lease`: the transaction is refused if that lease has been taken by somebody else since (fencing).
        """
        with _clear_errors(), self._writer, self._engine.begin() as connection:
            tx = Transaction(connection, actor, request_id)
            if lease is not None:
                tx.fence(lease)
            yield tx
            tx.number_changes()
        if tx.changed or tx.moved:
            with self._changed:
                self._changed.notify_all()

    @contextlib.contextmanager
    def reading(self, *, actor: Actor = SYSTEM) -> Iterator[Transaction]:
        """A consistent view that takes no lock and changes nothing."""
        with _clear_errors(), self._engine.connect().execution_options(lepton_read=True) as connection:
            yield Transaction(connection, actor, "", read_only=True)

    def position(self) -> int:
        with _clear_errors(), self._engine.connect().execution_options(lepton_read=True) as connection:
            return connection.scalar(select(clock.c.position)) or 0

    def changes(self, after: int, *, limit: int = 1000) -> tuple[list[Resource], int]:
        """Resources written since position `after` in the order of their commits, each in its newest form, also the deleted
        ones (not the purged), and the position to ask from next time."""
        with _clear_errors(), self._engine.connect().execution_options(lepton_read=True) as connection:
            now = connection.scalar(select(clock.c.position)) or 0
            rows = connection.execute(
                select(resources).where(resources.c.position > after).order_by(resources.c.position).limit(limit)
            ).all()
        return [to_resource(row) for row in rows], rows[-1].position if len(rows) == limit else now

    def wait(self, after: int, timeout_s: float) -> bool:
        """Block until something was written after position `after`; False if the time is over first."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                if self.position() > after:
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(POLL_S, left))

    def lease(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take or renew the lease `name`; None while another holder has it. The token grows with every new holder."""
        with _clear_errors(), self._writer, self._engine.begin() as connection:
            token = acquire(connection, name, holder, ttl_s)
        return None if token is None else Lease(self, name, holder, token, ttl_s)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A writing connection for what is not a resource (accounts, usage); one transaction."""
        with _clear_errors(), self._writer, self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput("this is not the URL of a database", received=_hidden(url), expected=_EXPECTED) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise InvalidInput("this database is not supported", received=parsed.drivername, expected=_EXPECTED)
    if parsed.drivername == "sqlite":
        return _sqlite(parsed)
    try:
        return create_engine(
            parsed,
            json_serializer=to_json,
            json_deserializer=msgspec.json.decode,
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "application_name": "lepton"},
        )
    except (ImportError, NoSuchModuleError) as error:
        raise Missing("psycopg", "cloud") from error


_EXPECTED = "sqlite:////path/to/plane.db or postgresql://user@host/database"


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput("the plane keeps its state in a file", received="a database in memory", expected=_EXPECTED)
    Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(
        url,
        json_serializer=to_json,
        json_deserializer=msgspec.json.decode,
        pool_size=16,
        max_overflow=16,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin or commit by itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: upgrading later could fail although nothing is wrong.
        reading = connection.get_execution_options().get("lepton_read")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _in_words(error) from error


def _in_words(error: DBAPIError) -> LeptonError:
    # Only the driver's own sentence: the statement and its parameters may hold a tenant's data.
    text = str(error.orig).splitlines()[0] if error.orig else type(error).__name__
    if "disk is full" in text or "No space left" in text or getattr(error.orig, "sqlstate", None) == "53100":
        return DiskFull("the database's disk is full; nothing was changed", fix="Free space and try again.")
    return Unavailable(
        f"the database does not do its work ({text})", fix="Look at it with `lep doctor`, then try again."
    )


def _hidden(url: str) -> str:
    """The URL without what may be a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if "@" in rest else url
