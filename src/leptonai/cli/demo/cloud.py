"""The last step of the demo: the model on the cloud of this machine, two replicas, updated while requests go on."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...base.errors import LeptonError, NotFound, Unavailable
from ...base.home import Home
from ...client.client import Client
from ...client.workspace import Workspace
from ..deploy import put, wait_until_ready
from .traffic import traffic, wait_for

REPLICAS = 2
START_S, STOP_S = 60.0, 60.0
ALL_NEW = 50
"""So many answers in a row by the new version mean that the old one gets no requests any more."""


def endpoint_name(name: str) -> str:
    """Another name than the demo's service has: that one runs on, and a name belongs to one of them."""
    return re.sub(r"[^a-z0-9]+", "-", f"demo-{name}".lower())[:36].strip("-")


@contextmanager
def cloud(home: Home) -> Iterator[Workspace]:
    """The `lep up` of `home`: one that runs already is used and goes on, else one is started, and stopped with all it runs."""
    from ...cloud import instance

    if instance.is_running(home):
        yield _workspace(home, instance.wait_until_ready(home, START_S).url)
        return
    lep = [sys.executable, "-m", "leptonai.cli.main"]
    _run([*lep, "up", "--home", str(home.root), "--port", "0", "--detach", "--hide-key"])
    try:
        yield _workspace(home, instance.wait_until_ready(home, START_S).url)
    finally:
        _run([*lep, "down", "--home", str(home.root), "--workloads"])


def _workspace(home: Home, server: str) -> Workspace:
    """That of this machine, wherever the user is logged in."""
    key = (home.root / "admin.key").read_text().strip()
    return Workspace(f"{server}/api/v2/workspaces/{home.workspace}", key)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise LeptonError(done.stderr.strip().removeprefix("Error: ") or f"{command[3]} failed")


@contextmanager
def deployed(where: Workspace, name: str, ref: str) -> Iterator[Client]:
    """An endpoint with two replicas of `ref`, ready; it is removed at the end."""
    with contextlib.suppress(NotFound):  # of a demo that was killed
        where.call("DELETE", f"/deployments/{name}")
    made = put(where, name, ref, replicas=REPLICAS)
    try:
        wait_until_ready(where, name, 300)
        token = made["spec"]["api_tokens"][0]["value"]
        with Client(made["status"]["endpoint"]["external_endpoint"], token=token) as client:
            yield client
    finally:
        where.call("DELETE", f"/deployments/{name}")


def update(where: Workspace, client: Client, name: str, ref: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Roll `ref` out while two clients keep asking; what they got. Raises Unavailable if it does not take over."""
    with traffic(client, rows) as seen:
        wait_for(lambda: len(seen) >= ALL_NEW, "requests before the update")
        put(where, name, ref)
        deadline = time.monotonic() + 180
        while not all(isinstance(one, Exception) or one["model"] == ref for one in seen[-ALL_NEW:]):
            message = where.get(f"/deployments/{name}")["status"].get("message") or ""
            if "taken back" in message or time.monotonic() > deadline:
                raise Unavailable(f"the endpoint was not updated to {ref}{f': {message}' if message else ''}")
            time.sleep(0.2)
    return seen
