"""KV: named stores of small values. A put is on disk, or on the server, when it returns."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from ..base.errors import Conflict, NotFound
from ..base.paths import check_name
from .backend import remote, transaction

MAX_KEY, MAX_VALUE = 256, 256 * 1024


class KV:
    """`KV(name)`: the store, made if it is not there (`create_if_not_exists=False`: NotFound then; `error_if_exists`: Conflict)."""

    def __init__(
        self,
        name: str,
        create_if_not_exists: bool = True,
        error_if_exists: bool = False,
        wait_for_creation: bool = True,
    ):
        self.name, self._server = check_name(name, "KV"), remote()
        there = name in self.list_kv()
        if there and error_if_exists:
            raise Conflict(f"the KV {name!r} is there already")
        if not there and not create_if_not_exists:
            raise NotFound(f"there is no KV {name!r}")
        if not there:
            _create(name, self._server)
        deadline = time.monotonic() + 60
        while wait_for_creation and not self.ready() and time.monotonic() < deadline:
            time.sleep(0.1)

    def put(self, key: str, value: str | bytes) -> None:
        """Raises ValueError for a key over 256 characters or a value over 256 KiB."""
        _check_key(key)
        data = value.encode() if isinstance(value, str) else bytes(value)
        if len(data) > MAX_VALUE:
            raise ValueError(f"a value may have {MAX_VALUE} bytes: received {len(data)}")
        if self._server:
            self._server.send("POST", self._path(key), files={"value": ("value", data, "application/octet-stream")})
            return
        with transaction() as db:
            self._check_there(db)
            db.execute(
                "INSERT INTO kv_values VALUES(?,?,?) ON CONFLICT(kv, key) DO UPDATE SET value=excluded.value",
                (self.name, key, data),
            )

    def get(self, key: str) -> bytes:
        """Raises KeyError if it is not there."""
        _check_key(key)
        if self._server:
            try:
                return self._server.send("GET", self._path(key)).content
            except NotFound:
                raise KeyError(key) from None
        with transaction() as db:
            row = db.execute("SELECT value FROM kv_values WHERE kv=? AND key=?", (self.name, key)).fetchone()
        if row is None:
            raise KeyError(key)
        return row[0]

    def delete(self, key: str) -> None:
        """Nothing happens if it is not there."""
        _check_key(key)
        if self._server:
            try:
                self._server.send("DELETE", self._path(key))
            except NotFound:
                return
            return
        with transaction() as db:
            db.execute("DELETE FROM kv_values WHERE kv=? AND key=?", (self.name, key))

    def keys(self, cursor: int | str = 0, limit: int = 1000, prefix: str | None = None) -> dict[str, Any]:
        """`{"keys": […], "cursor": …}`: `cursor` is what to ask with for the rest, 0 or null when there is none."""
        if self._server:
            query = {"cursor": cursor, "limit": limit, **({"prefix": prefix} if prefix else {})}
            return self._server.get(f"/kv/namespaces/{quote(self.name, safe='')}/keys", **query)
        start = int(cursor or 0)
        with transaction() as db:
            rows = db.execute(
                "SELECT key FROM kv_values WHERE kv=? AND substr(key, 1, ?)=? ORDER BY key LIMIT ? OFFSET ?",
                (self.name, len(prefix or ""), prefix or "", limit + 1, start),
            ).fetchall()
        return {"keys": [key for (key,) in rows[:limit]], "cursor": start + limit if len(rows) > limit else 0}

    def ready(self) -> bool:
        return self.name in self.list_kv()

    __getitem__ = get
    __setitem__ = put
    __delitem__ = delete

    def __contains__(self, key: str) -> bool:
        try:
            self.get(key)
        except KeyError:
            return False
        return True

    @staticmethod
    def list_kv() -> list[str]:
        server = remote()
        if server:
            return [one["name"] for one in server.get("/kv/namespaces")]
        with transaction() as db:
            return [name for (name,) in db.execute("SELECT name FROM kv ORDER BY name")]

    @classmethod
    def create_kv(cls, name: str) -> KV:
        """Raises Conflict if it is there."""
        return cls(name, error_if_exists=True)

    @classmethod
    def get_kv(cls, name: str) -> KV:
        """Raises NotFound if it is not there."""
        return cls(name, create_if_not_exists=False)

    @staticmethod
    def delete_kv(name: str) -> None:
        server = remote()
        if server:
            server.call("DELETE", f"/kv/namespaces/{quote(name, safe='')}")
            return
        with transaction() as db:
            if not db.execute("DELETE FROM kv WHERE name=?", (name,)).rowcount:
                raise NotFound(f"there is no KV {name!r}")

    def _path(self, key: str) -> str:
        return f"/kv/namespaces/{quote(self.name, safe='')}/values/{quote(key, safe='')}"

    def _check_there(self, db: Any) -> None:
        if db.execute("SELECT 1 FROM kv WHERE name=?", (self.name,)).fetchone() is None:
            raise NotFound(f"the KV {self.name!r} has been removed")


def _create(name: str, server: Any) -> None:
    if server:
        try:
            server.call("POST", f"/kv/namespaces/{quote(name, safe='')}", {"name": name})
        except Conflict:
            return  # somebody was faster; it is there
        return
    with transaction() as db:
        db.execute("INSERT OR IGNORE INTO kv VALUES(?,?)", (name, time.time()))


def _check_key(key: str) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a key has 1 to {MAX_KEY} characters")
