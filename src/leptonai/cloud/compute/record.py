"""The folder of one workload on disk: what was asked for, what became of it, and the lock that proves that its shim lives.

workload.json   what was asked for, without the environment         written once
env.json        the environment (secrets: 0600), until it has started
start.json      what the shim executes, until it has started
state.json      absent: queued; then `starting`, `running`, and at last `exited` or `lost`, which never changes again
stop.json       a stop was asked for; `control` is the FIFO that wakes the shim
log/  work/     its output; its own folder
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...base.files import folder_atomic, write_atomic
from .admission import Claim
from .driver import Observation, Resources, Workload

ENDED = ("exited", "lost")


class Record:
    def __init__(self, folder: Path):
        self.folder = folder
        asked = json.loads((folder / "workload.json").read_bytes())
        self.queued_at: float = asked.pop("queued_at")
        self.runtime: str | None = asked.pop("runtime")
        """The container runtime that was there when it was launched; None for a plain process."""
        self.asked = asked
        self.id: str = asked["id"]
        self.owner = f"{asked['workspace']}/{asked['owner']}"
        self.resources = Resources(**asked["resources"])
        self._final: dict[str, Any] | None = None

    @classmethod
    def create(cls, folder: Path, workload: Workload, runtime: str | None) -> bool:
        """Write what is asked for, whole; False if this id is there already."""
        asked = asdict(workload) | {"queued_at": time.time(), "runtime": runtime}
        env = asked.pop("env")
        try:
            with folder_atomic(folder) as temporary:
                write_private(temporary / "workload.json", asked)
                write_private(temporary / "env.json", dict(env))
        except OSError:  # FileExistsError, or the rename found a folder that was not there a moment ago
            if not folder.exists():
                raise
            return False
        return True

    @property
    def work(self) -> Path:
        return Path(self.asked["folder"]) if self.asked["folder"] else self.folder / "work"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def claim(self, stopping: bool = False) -> Claim:
        asked = self.asked
        return Claim(
            self.id,
            self.resources,
            asked["priority"],
            self.queued_at,
            asked["workspace"],
            f"{asked['owner']}\0{asked['gang']}" if asked["gang"] is not None else None,
            asked["gang_size"],
            asked["preemptible"],
            asked["can_preempt"],
            stopping,
        )

    def environment(self) -> dict[str, str]:
        return json.loads((self.folder / "env.json").read_bytes())

    def state(self) -> dict[str, Any] | None:
        """`state.json`, or None while it is queued."""
        if self._final is None:
            try:
                state = json.loads((self.folder / "state.json").read_bytes())
            except FileNotFoundError:
                return None
            if state["state"] not in ENDED:
                return state
            self._final = state
        return self._final

    def end(self, *, only_queued: bool = False, **state: Any) -> bool:
        """Write how it ended, for a workload that has no shim; False if one has it, or it has ended already."""
        with self.locked(fcntl.LOCK_EX) as free:
            now = self.state() if free else None
            if not free or (now is not None and (only_queued or now["state"] in ENDED)):
                return False
            write_private(self.folder / "state.json", {**(now or {}), "finished_at": time.time(), **state})
            for name in ("env.json", "start.json"):
                (self.folder / name).unlink(missing_ok=True)
            return True

    def shim_lives(self) -> bool:
        # A shared lock: two who look do not take each other for a shim.
        with self.locked(fcntl.LOCK_SH) as free:
            return not free

    @contextmanager
    def locked(self, how: int) -> Iterator[bool]:
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, how | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    def ask_to_stop(self, reason: str, message: str, grace_s: float) -> None:
        """Leave word for the shim and wake it. The first reason stays, whoever asks later; a shorter time is taken."""
        try:
            before = json.loads((self.folder / "stop.json").read_bytes())
        except FileNotFoundError:
            before = None
        if before is None or grace_s < before["grace_s"]:
            write_private(
                self.folder / "stop.json", {"reason": reason, "message": message, **(before or {}), "grace_s": grace_s}
            )
        with contextlib.suppress(OSError):  # ENOENT, ENXIO: no shim yet, or none any more; a new one reads stop.json
            handle = os.open(self.folder / "control", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(handle, b"s")
            finally:
                os.close(handle)

    @property
    def stopping(self) -> bool:
        return (self.folder / "stop.json").exists()

    def observation(self) -> Observation:
        asked = self.asked
        state = self.state() or {"state": "queued"}
        return Observation(
            id=self.id,
            workspace=asked["workspace"],
            owner=asked["owner"],
            state=state["state"],
            pid=state.get("pid"),
            ports=tuple(state.get("ports", ())),
            gpus=tuple(state.get("gpus", ())),
            queued_at=self.queued_at,
            started_at=state.get("started_at"),
            finished_at=state.get("finished_at"),
            exit_code=state.get("exit_code"),
            reason=state.get("reason"),
            message=state.get("message", ""),
            labels=asked["labels"],
        )

    def remove(self) -> None:
        """First out of sight by one rename, then for good: a crash between leaves nothing that looks like a workload."""
        doomed = self.folder.with_name(f".gone-{self.id}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def write_private(path: Path, value: Mapping[str, Any]) -> None:
    """JSON for this user only (`write_atomic` makes files 0600)."""
    write_atomic(path, json.dumps(value, default=str))
