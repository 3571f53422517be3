"""What was asked, what was answered, what really happened: `services/<name>/log.db` (SQLite, WAL).

One writer thread owns the connection and commits whatever waits as one transaction (group commit). A request is committed before
its answer leaves (it survives SIGKILL); feedback is acknowledged only after fsync (it survives a power cut).
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import Corrupt, DiskFull, LeptonError

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE models (
  id INTEGER PRIMARY KEY, ref TEXT NOT NULL, described TEXT NOT NULL, UNIQUE (ref, described)
);
CREATE TABLE requests (
  id TEXT PRIMARY KEY, time REAL NOT NULL, model INTEGER NOT NULL REFERENCES models (id), single INTEGER NOT NULL,
  rows BLOB NOT NULL, predictions BLOB NOT NULL, count INTEGER NOT NULL, latency_ms REAL NOT NULL
);
CREATE TABLE feedback (
  id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL REFERENCES requests (id), row INTEGER NOT NULL,
  kind TEXT NOT NULL, value TEXT NOT NULL, time REAL NOT NULL
);
CREATE INDEX feedback_of_row ON feedback (request_id, row, kind, id);
"""

Operation = Callable[[sqlite3.Connection], Any]


def new_request_id() -> str:
    """32 hex digits: 48 bits of milliseconds, then 80 random bits, so that new rows go to the end of the index."""
    return f"{int(time.time() * 1000) & 0xFFFFFFFFFFFF:012x}{os.urandom(10).hex()}"


def open_database(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to a service's log; autocommit (transactions are written out), usable from one thread at a time."""
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=10,
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and create:
            connection.execute("PRAGMA synchronous = FULL")
            about = "INSERT INTO about VALUES ('id', lower(hex(randomblob(16))));"
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} {about} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise Corrupt(
                f"{path} is not a log of this version of Lepton",
                received=version,
                expected=f"log format {SCHEMA_VERSION}",
            )
    except sqlite3.DatabaseError as error:
        connection.close()
        if is_disk_error(error):
            raise DiskFull(
                f"{path} cannot be written: {error}", fix="Free space on the disk of LEPTON_HOME."
            ) from error
        raise Corrupt(
            f"{path} cannot be read: {error}", fix="Move the file away; the service begins a new log."
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def is_disk_error(error: BaseException) -> bool:
    """The disk is full or gone; the database itself is sound (SQLite has rolled the transaction back)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@dataclass
class _Waiting:
    operation: Operation
    durable: bool
    future: asyncio.Future
    result: Any = field(default=None)
    error: BaseException | None = field(default=None)


class Log:
    """The writer. `submit` runs an operation inside the next commit; its result comes when that commit is on its way to disk."""

    def __init__(self, path: Path):
        self.path = path
        self.connection = open_database(path, create=True)
        self.waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._write, name="lepton-log", daemon=True)
        self.thread.start()

    def submit(self, operation: Operation, *, durable: bool = False) -> asyncio.Future:
        """A future for `operation(connection)`. `durable`: fsynced before the future is done.

        An operation checks before it writes: if it raises a LeptonError it must not have written. Raises DiskFull
        (through the future) if nothing could be stored.
        """
        future = asyncio.get_running_loop().create_future()
        self.waiting.put(_Waiting(operation, durable, future))
        return future

    def close(self) -> None:
        """Commit what waits, then close."""
        self.waiting.put(None)
        self.thread.join()
        self.connection.close()

    def _write(self) -> None:
        open_ = True
        while open_:
            group = [self.waiting.get()]
            while not self.waiting.empty() and len(group) < 512:
                group.append(self.waiting.get())
            open_ = None not in group
            work = [item for item in group if item is not None]
            if work and not self._commit(work):
                # One big or wrong item must not take the others with it: each gets a transaction of its own.
                for item in work:
                    self._commit([item], last=True)
            self._hand_back(work)

    def _commit(self, group: list[_Waiting], last: bool = False) -> bool:
        """Run a group in one transaction. False: nothing of it was stored, and (if `last`) its items hold the error."""
        try:
            self.connection.execute(
                f"PRAGMA synchronous = {'FULL' if any(item.durable for item in group) else 'NORMAL'}"
            )
            self.connection.execute("BEGIN IMMEDIATE")
            for item in group:
                item.result = item.error = None
                try:
                    item.result = item.operation(self.connection)
                except LeptonError as error:
                    item.error = error
            self.connection.execute("COMMIT")
            return True
        except Exception as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if last:
                group[0].error = _not_stored(error)
            return False

    def _hand_back(self, work: list[_Waiting]) -> None:
        if not work:
            return
        loop = work[0].future.get_loop()

        def settle() -> None:
            for item in work:
                if item.future.done():  # its time has run out
                    continue
                if item.error is not None:
                    item.future.set_exception(item.error)
                else:
                    item.future.set_result(item.result)

        # The loop is closed only when the server was told to stop at once; nobody waits for the answers then.
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)


def _not_stored(error: Exception) -> BaseException:
    if isinstance(error, sqlite3.Error) and is_disk_error(error):
        return DiskFull(
            f"the log cannot be written ({error}); nothing of this was stored", fix="Free space and send it again."
        )
    return error
