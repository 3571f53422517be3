"""Queue: first in, first out, each message to exactly one receiver, on disk or on the server before `send` returns."""

from __future__ import annotations

import hashlib
import time
from queue import Empty as Empty
from typing import Any
from urllib.parse import quote

from ..base.errors import Conflict, NotFound
from ..base.paths import check_name
from .backend import remote, transaction

DEDUP_S = 300.0
"""A message equal to one that was sent so recently is dropped: a sender that is not sure may send again."""
MAX_MESSAGE = 256 * 1024


class Queue:
    """`Queue(name)`: the queue, made if it is not there (`create_if_not_exists=False`: NotFound; `error_if_exists`: Conflict)."""

    def __init__(
        self,
        name: str,
        create_if_not_exists: bool = True,
        error_if_exists: bool = False,
        wait_for_creation: bool = True,
    ):
        self.name, self._server = check_name(name, "queue"), remote()
        there = name in self.list_queue()
        if there and error_if_exists:
            raise Conflict(f"the queue {name!r} is there already")
        if not there and not create_if_not_exists:
            raise NotFound(f"there is no queue {name!r}")
        if not there:
            _create(name, self._server)
        deadline = time.monotonic() + 60
        while wait_for_creation and not self.ready() and time.monotonic() < deadline:
            time.sleep(0.1)

    def send(self, message: str) -> None:
        """Raises ValueError for what is no text or over 256 KiB."""
        if not isinstance(message, str) or len(message.encode()) > MAX_MESSAGE:
            raise ValueError(f"a message is a text of at most {MAX_MESSAGE} bytes")
        if self._server:
            self._server.call("POST", self._path("/messages"), {"message": message})
            return
        now, digest = time.time(), hashlib.sha256(message.encode()).digest()
        with transaction() as db:
            if db.execute("SELECT 1 FROM queues WHERE name=?", (self.name,)).fetchone() is None:
                raise NotFound(f"the queue {self.name!r} has been removed")
            db.execute("DELETE FROM sent WHERE queue=? AND at<?", (self.name, now - DEDUP_S))
            if db.execute("INSERT OR IGNORE INTO sent VALUES(?,?,?)", (self.name, digest, now)).rowcount:
                db.execute("INSERT INTO messages(queue, body) VALUES(?,?)", (self.name, message))

    def receive(self) -> str:
        """The oldest message, which nobody else gets. Raises Empty if there is none."""
        if self._server:
            found = self._server.get(self._path("/messages"))
            if not found:
                raise Empty
            return found[0]["message"]
        with transaction() as db:
            row = db.execute(
                "DELETE FROM messages WHERE id=(SELECT min(id) FROM messages WHERE queue=?) RETURNING body",
                (self.name,),
            ).fetchone()
        if row is None:
            raise Empty
        return row[0]

    def length(self) -> int:
        if self._server:
            return self._server.get(self._path("/length"))["length"]
        with transaction() as db:
            return db.execute("SELECT count(*) FROM messages WHERE queue=?", (self.name,)).fetchone()[0]

    def ready(self) -> bool:
        return self.name in self.list_queue()

    @staticmethod
    def list_queue() -> list[str]:
        server = remote()
        if server:
            return [one if isinstance(one, str) else one["name"] for one in server.get("/queue")]
        with transaction() as db:
            return [name for (name,) in db.execute("SELECT name FROM queues ORDER BY name")]

    @classmethod
    def create_queue(cls, name: str) -> Queue:
        return cls(name, error_if_exists=True)

    @classmethod
    def get_queue(cls, name: str) -> Queue:
        return cls(name, create_if_not_exists=False)

    @staticmethod
    def delete_queue(name: str) -> None:
        server = remote()
        if server:
            server.call("DELETE", f"/queue/{quote(name, safe='')}")
            return
        with transaction() as db:
            if not db.execute("DELETE FROM queues WHERE name=?", (name,)).rowcount:
                raise NotFound(f"there is no queue {name!r}")

    def _path(self, end: str) -> str:
        return f"/queue/{quote(self.name, safe='')}{end}"


def _create(name: str, server: Any) -> None:
    if server:
        try:
            server.call("POST", "/queue", {"name": name})
        except Conflict:
            return
        return
    with transaction() as db:
        db.execute("INSERT OR IGNORE INTO queues VALUES(?,?)", (name, time.time()))
