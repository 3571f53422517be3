"""`workspaces/<name>/state.db`: the KVs and queues of a workspace, for programs on this machine and for the API's routes alike.

Owns its schema and its durability: what a transaction wrote is on disk when it ends.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import disk_errors
from .home import Home

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv(name TEXT PRIMARY KEY, created REAL);
CREATE TABLE IF NOT EXISTS kv_values(kv TEXT REFERENCES kv(name) ON DELETE CASCADE, key TEXT, value BLOB, PRIMARY KEY(kv, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queues(name TEXT PRIMARY KEY, created REAL);
CREATE TABLE IF NOT EXISTS messages(id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT REFERENCES queues(name) ON DELETE CASCADE, body TEXT);
CREATE INDEX IF NOT EXISTS messages_queue ON messages(queue, id);
CREATE TABLE IF NOT EXISTS sent(queue TEXT REFERENCES queues(name) ON DELETE CASCADE, digest BLOB, at REAL, PRIMARY KEY(queue, digest)) WITHOUT ROWID;
"""
_ready: set[tuple[Path, int]] = set()


@contextmanager
def transaction(home: Home | None = None) -> Iterator[sqlite3.Connection]:
    """One write transaction, on disk when it ends. A connection each: threads and forks share nothing."""
    path = (home or Home.current()).folder / "state.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors("the state"):
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=FULL")
            if (path, path.stat().st_ino) not in _ready:
                _prepare(connection)
                _ready.add((path, path.stat().st_ino))
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        finally:
            connection.close()


def _prepare(connection: sqlite3.Connection) -> None:
    """WAL cannot be switched to while another process holds the new file: it is tried until that has ended."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
