"""What `lep doctor` looks at. Each check is a few lines and says what it found, good or bad."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import text

from ..base.errors import LeptonError
from ..base.home import Home
from . import instance
from .store import Store

LOW_BYTES = 1 << 30


class Finding(NamedTuple):
    """`mark`: "ok", "note" (works, with less) or "bad" (must be repaired)."""

    mark: str
    what: str
    found: str


def examine(home: Home) -> list[Finding]:
    found = []
    for check in (_home, _private_files, _database, _plane, _gateway, _isolation, _containers):
        try:
            found += check(home)
        except (LeptonError, OSError) as error:
            found.append(Finding("bad", check.__name__.strip("_").replace("_", " "), str(error)))
    return found


def _home(home: Home) -> Iterator[Finding]:
    root = home.root
    if not root.is_dir():
        yield Finding("note", "home", f"{root} is not there yet; `lep up` makes it")
        return
    free = shutil.disk_usage(root).free
    yield Finding("bad" if free < LOW_BYTES else "ok", "disk", f"{free / 1e9:.1f} GB free at {root}")


def _private_files(home: Home) -> Iterator[Finding]:
    for path in (home.root / "admin.key", home.root / "cloud" / "vault.key"):
        if path.exists():
            open_to_others = bool(path.stat().st_mode & 0o077)
            yield Finding(
                "bad" if open_to_others else "ok",
                path.name,
                f"others can read it; run: chmod 600 {path}" if open_to_others else "only its owner can read it",
            )


def _database(home: Home) -> Iterator[Finding]:
    path = instance.folder(home) / "plane.db"
    if not path.exists():
        yield Finding("note", "database", "no SQLite database in this home")
        return
    store = Store(f"sqlite:///{path}")
    try:
        with store.reading() as tx:
            result = tx.connection.scalar(text("PRAGMA quick_check"))
            kinds = sum(tx.count(kind, None) for kind in ("endpoint", "job"))
        yield Finding("ok" if result == "ok" else "bad", "database", f"{result}; {kinds} endpoints and jobs")
    finally:
        store.close()


def _plane(home: Home) -> Iterator[Finding]:
    state = instance.read_state(home)
    if not instance.is_running(home):
        yield Finding("note", "plane", "does not run; start it with `lep up`")
    elif state is None or not instance.answers(state.url):
        yield Finding("bad", "plane", f"runs, but does not answer; read {instance.folder(home) / 'plane.log'}")
    else:
        yield Finding("ok", "plane", f"answers at {state.url}")


def _gateway(home: Home) -> Iterator[Finding]:
    workers = instance.gateway_workers(home)
    spooled = list((instance.folder(home) / "usage").glob("*/*.jsonl"))
    if workers:
        yield Finding("ok", "gateway", f"{len(workers)} workers on port {workers[0]['port']}")
    elif instance.is_running(home):
        yield Finding("bad", "gateway", f"no worker lives; read {instance.folder(home) / 'gateway.log'}")
    if len(spooled) > 100:
        yield Finding("note", "usage", f"{len(spooled)} segments wait for the ledger")


def _isolation(home: Home) -> Iterator[Finding]:
    from .compute import sandbox

    there = sandbox.bubblewrap()
    yield Finding(
        "ok" if there else "note",
        "isolation",
        "bubblewrap: workloads see their own folder and workspace" if there else sandbox.MISSING,
    )


def _containers(home: Home) -> Iterator[Finding]:
    found = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    yield Finding(
        "ok" if found else "note", "containers", found or "no docker and no podman: only commands (image `host`) run"
    )
