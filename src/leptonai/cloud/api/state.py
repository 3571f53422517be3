"""`/kv` and `/queue`: small values by key, and messages each of which reaches one receiver. They are in the workspace's `state.db`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...base.errors import Conflict, InvalidInput, NotFound
from ...base.home import Home
from ...base.paths import check_name
from ...base.state import transaction
from .call import Answer, Call

MAX_KEY, MAX_VALUE = 256, 256 * 1024
DEDUP_S = 300.0
"""A message equal to one that was sent so recently is dropped: a sender that got no answer may send again."""


@contextmanager
def _state(call: Call) -> Iterator[Any]:
    with transaction(Home(call.plane.home.root, call.workspace)) as db:
        yield db


def _there(db: Any, table: str, name: str, what: str) -> None:
    if db.execute(f"SELECT 1 FROM {table} WHERE name=?", (name,)).fetchone() is None:  # noqa: S608
        raise NotFound(f"there is no {what} {name!r}")


def _make(call: Call, table: str, name: Any, what: str) -> None:
    if not isinstance(name, str):
        raise InvalidInput(f"a {what} needs a name", received=name)
    check_name(name, what)
    with _state(call) as db:
        if not db.execute(f"INSERT OR IGNORE INTO {table} VALUES(?,?)", (name, time.time())).rowcount:
            raise Conflict(f"the {what} {name!r} is there already")


def _remove(call: Call, table: str, what: str) -> Answer:
    with _state(call) as db:
        if not db.execute(f"DELETE FROM {table} WHERE name=?", (call.path["name"],)).rowcount:  # noqa: S608
            raise NotFound(f"there is no {what} {call.path['name']!r}")
    return Answer({})


# -- KV


def _namespace(name: str) -> dict[str, Any]:
    return {"name": name, "metadata": {"name": name}, "status": {"redis_url": ""}}


def namespaces(call: Call) -> list[dict[str, Any]]:
    with _state(call) as db:
        return [_namespace(name) for (name,) in db.execute("SELECT name FROM kv ORDER BY name").fetchall()]


def namespace(call: Call) -> dict[str, Any]:
    with _state(call) as db:
        _there(db, "kv", call.path["name"], "KV")
    return _namespace(call.path["name"])


def make_namespace(call: Call) -> Answer:
    _make(call, "kv", call.path["name"], "KV")
    return Answer(_namespace(call.path["name"]), 201)


def remove_namespace(call: Call) -> Answer:
    return _remove(call, "kv", "KV")


def keys(call: Call) -> dict[str, Any]:
    """`cursor` is null at the end."""
    start, limit = call.number("cursor", 0, most=10**9), call.number("limit", 1000, least=1)
    prefix = call.one("prefix") or ""
    with _state(call) as db:
        _there(db, "kv", call.path["name"], "KV")
        rows = db.execute(
            "SELECT key FROM kv_values WHERE kv=? AND substr(key, 1, ?)=? ORDER BY key LIMIT ? OFFSET ?",
            (call.path["name"], len(prefix), prefix, limit + 1, start),
        ).fetchall()
    return {"keys": [key for (key,) in rows[:limit]], "cursor": start + limit if len(rows) > limit else None}


def _key(call: Call) -> str:
    if not 0 < len(call.path["key"]) <= MAX_KEY:
        raise InvalidInput("this cannot be a key", received=call.path["key"], expected=f"1 to {MAX_KEY} characters")
    return call.path["key"]


def value(call: Call) -> Answer:
    with _state(call) as db:
        _there(db, "kv", call.path["name"], "KV")
        row = db.execute("SELECT value FROM kv_values WHERE kv=? AND key=?", (call.path["name"], _key(call))).fetchone()
    if row is None:
        raise NotFound(f"there is no key {call.path['key']!r}")
    return Answer(content=bytes(row[0]))


def put_value(call: Call) -> Answer:
    key, size = _key(call), call.upload.stat().st_size  # type: ignore[union-attr]
    if size > MAX_VALUE:
        raise InvalidInput("the value is too large", received=f"{size} bytes", expected=f"at most {MAX_VALUE}")
    with _state(call) as db:
        _there(db, "kv", call.path["name"], "KV")
        db.execute(
            "INSERT INTO kv_values VALUES(?,?,?) ON CONFLICT(kv, key) DO UPDATE SET value=excluded.value",
            (call.path["name"], key, call.upload.read_bytes()),  # type: ignore[union-attr]
        )
    return Answer({})


def remove_value(call: Call) -> Answer:
    with _state(call) as db:
        if not db.execute("DELETE FROM kv_values WHERE kv=? AND key=?", (call.path["name"], _key(call))).rowcount:
            raise NotFound(f"there is no key {call.path['key']!r}")
    return Answer({})


# -- queues


def queues(call: Call) -> list[dict[str, Any]]:
    with _state(call) as db:
        return [{"name": name} for (name,) in db.execute("SELECT name FROM queues ORDER BY name").fetchall()]


def make_queue(call: Call) -> Answer:
    name = call.json(dict).get("name")
    _make(call, "queues", name, "queue")
    return Answer({"name": name}, 201)


def remove_queue(call: Call) -> Answer:
    return _remove(call, "queues", "queue")


def length(call: Call) -> dict[str, Any]:
    with _state(call) as db:
        _there(db, "queues", call.path["name"], "queue")
        return {"length": db.execute("SELECT count(*) FROM messages WHERE queue=?", (call.path["name"],)).fetchone()[0]}


def receive(call: Call) -> list[dict[str, Any]]:
    """The oldest message, removed in the same transaction: nobody else gets it."""
    with _state(call) as db:
        _there(db, "queues", call.path["name"], "queue")
        row = db.execute(
            "DELETE FROM messages WHERE id=(SELECT min(id) FROM messages WHERE queue=?) RETURNING body",
            (call.path["name"],),
        ).fetchone()
    return [{"message": row[0]}] if row else []


def send(call: Call) -> Answer:
    message = call.json(dict).get("message")
    if not isinstance(message, str) or len(message.encode()) > MAX_VALUE:
        raise InvalidInput("this is no message", expected=f'{{"message": TEXT}} of at most {MAX_VALUE} bytes')
    now, digest, name = time.time(), hashlib.sha256(message.encode()).digest(), call.path["name"]
    with _state(call) as db:
        _there(db, "queues", name, "queue")
        db.execute("DELETE FROM sent WHERE queue=? AND at<?", (name, now - DEDUP_S))
        if db.execute("INSERT OR IGNORE INTO sent VALUES(?,?,?)", (name, digest, now)).rowcount:
            db.execute("INSERT INTO messages(queue, body) VALUES(?,?)", (name, message))
    return Answer({}, 201)
