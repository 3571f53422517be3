"""Logs as a reader wants them: what replicas write now, one line after the other, until the job ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..base.errors import LeptonError, NotFound

if TYPE_CHECKING:
    from ..client.workspace import Workspace

ENDED = ("Completed", "Failed", "Stopped", "Archived", "Deleted", "Deleting")
POLL_S = 0.25
Say = Callable[[str], None]


def follow_job(where: Workspace, id: str, *, say: Say, replica: str | None = None) -> str:
    """Print what all workers of the job write until it ends; returns its state then."""
    return _follow(where, f"/jobs/{id}", lambda: where.get(f"/jobs/{id}")["status"]["state"], say, replica)


def follow_endpoint(where: Workspace, name: str, *, replica: str | None, say: Say) -> None:
    """Print what the replicas write, those that come later too, until it is interrupted or the endpoint is gone."""

    def state() -> str:
        try:
            where.get(f"/deployments/{name}")
        except NotFound:
            return "Deleted"
        return ""

    _follow(where, f"/deployments/{name}", state, say, replica)


def _follow(where: Workspace, path: str, state: Callable[[], str], say: Say, wanted: str | None = None) -> str:
    readers: dict[str, threading.Thread] = {}
    while True:
        now = state()
        try:
            replicas = [one["id"] for one in where.get(f"{path}/replicas")]
        except NotFound:
            replicas = []
        if wanted and wanted not in replicas and not readers:
            raise NotFound(f"there is no replica {wanted!r}", fix=f"Those there are: {', '.join(replicas) or 'none'}.")
        for replica in replicas:
            if replica not in readers and wanted in (None, replica):
                arguments = (where, f"{path}/replicas/{replica}/log", f"{replica}  " if len(replicas) > 1 else "", say)
                readers[replica] = threading.Thread(target=_read, args=arguments, daemon=True)
                readers[replica].start()
        if now in ENDED:
            for reader in readers.values():
                reader.join(10)
            return now
        time.sleep(POLL_S)


def _read(where: Workspace, path: str, before: str, say: Say) -> None:
    """One replica's stream. It ends with the replica; a connection that breaks is not asked for again from its beginning."""
    import httpx

    rest = ""
    try:
        with httpx.stream(
            "GET",
            f"{where.url}{path}",
            headers={"authorization": f"Bearer {where.key}"},
            timeout=httpx.Timeout(10, read=None),
        ) as answer:
            if answer.status_code != 200:
                return
            for text in answer.iter_text():
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    say(f"{before}{line}")
    except (httpx.HTTPError, LeptonError):
        pass
    if rest:
        say(f"{before}{rest}")
