"""The driver of this machine. Owns `LEPTON_HOME/cloud/workloads`: one folder per workload, and `admitted.json`, who may start.

Nothing that matters is in memory: several planes may have a driver on one home, and any may be killed between two lines. Who
starts is decided under one lock and written, for a gang at one stroke, before any shim is started; whoever comes next starts
what was admitted and has no state yet. The shim's own lock makes a second start harmless.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...base.errors import Conflict, InvalidInput, NotFound, Unavailable
from ...base.files import write_atomic
from ...base.home import Home
from ...base.paths import check_name
from . import container, sandbox
from .admission import decide, total
from .driver import HOST, Capacity, LogLine, Observation, Resources, Workload
from .environment import check_env
from .logs import LogReader, follow_async, read_all
from .logs import follow as follow_lines
from .machine import free_ports, machine
from .record import ENDED, Record, write_private
from .start import master_port, shim_env, start_file
from .tree import kill_marked

MAX_STARTS_AT_ONCE = 8


class LocalDriver:
    def __init__(
        self,
        home: Home | None = None,
        *,
        capacity: Resources | None = None,
        isolate: bool = True,
        limits: Callable[[], Mapping[str, Resources]] = dict,
    ):
        """`capacity`: what may be used in all (None: this machine). `isolate`: plain processes run in bubblewrap where it is.
        `limits`: what the workloads of a workspace may claim together, asked when something waits."""
        self._limits = limits
        self.home = home or Home.current()
        self.root = self.home.root / "cloud" / "workloads"
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.total = capacity or machine()
        self._bubblewrap = sandbox.bubblewrap() if isolate else None
        self._records: dict[str, Record] = {}
        self._mutex = threading.RLock()
        self._starting: list[tuple[Record, subprocess.Popen]] = []
        self._failures: dict[str, int] = {}
        self._sweep()

    # -- the contract

    def launch(self, workload: Workload) -> None:
        check_name(workload.id, "workload")
        if (self.root / workload.id).exists():
            return
        runtime = self._check(workload)
        Record.create(self.root / workload.id, workload, runtime)
        self._advance()

    def observe(self, owner: str | None = None) -> dict[str, Observation]:
        if owner is None:
            self._advance()
        with self._mutex:
            records = [record for record in self._all() if owner is None or record.owner == owner]
        return {record.id: record.observation() for record in records}

    def stop(self, id: str, grace_s: float = 30.0) -> None:
        record = self._find(id)
        if record is not None:
            self._stop(record, "Stopped", "it was stopped", grace_s)
            self._advance()

    def forget(self, id: str) -> None:
        record = self._find(id)
        if record is None:
            return
        state = record.state()
        if state is None or state["state"] not in ENDED:
            raise Conflict(f"workload {id!r} has not ended", fix="Stop it first.")
        with self._mutex:
            record.remove()
            self._records.pop(id, None)

    def logs(
        self,
        id: str,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        offset: int = 0,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        record = self._required(id)
        reader = LogReader(record.log, offset, since_ns=since_ns, until_ns=until_ns)
        return follow_lines(reader, lambda: self._over(record)) if follow else read_all(reader)

    def follow(self, id: str, *, since_ns: int | None = None, offset: int = 0) -> AsyncIterator[list[LogLine]]:
        """As `logs(follow=True)`, for an event loop. Raises NotFound."""
        record = self._required(id)
        return follow_async(LogReader(record.log, offset, since_ns=since_ns), lambda: self._over(record))

    def capacity(self) -> Capacity:
        with self._mutex:
            admitted = self._admitted()
            used = total(record.resources for record in self._all() if record.id in admitted and not _ended(record))
        return Capacity(self.total, used)

    def _sweep(self) -> None:
        """Remove what a crash left half removed or half made. An hour: another plane may be making it."""
        for folder in self.root.glob(".*"):
            old = time.time() - folder.stat().st_mtime > 3600
            if folder.is_dir() and (old or folder.name.startswith(".gone-")):
                shutil.rmtree(folder, ignore_errors=True)

    # -- accepting

    def _check(self, workload: Workload) -> str | None:
        """Refuse what can never run here; the container runtime it needs, if any."""
        for text in (*workload.command, workload.image or ""):
            if "\0" in text:
                raise InvalidInput("a command may not hold a NUL byte", received=text)
        check_env(workload.env)
        needed = workload.resources.times(workload.gang_size)
        if not needed.fits(self.total):
            raise Unavailable(
                f"{workload.owner} wants more than this machine has",
                received=_words(needed) + (f" for {workload.gang_size} workers" if workload.gang_size > 1 else ""),
                expected=f"at most {_words(self.total)}",
                fix="Choose a smaller resource shape or fewer workers.",
            )
        for mount in workload.mounts:
            if not mount.source.is_dir():
                raise InvalidInput(
                    f"there is nothing to mount at {mount.target}", received=str(mount.source), expected="a folder"
                )
        if workload.image is None or workload.image == HOST:
            if not workload.command:
                raise InvalidInput(
                    f"{workload.owner} has no command", fix="Give a command (--command, --container-command)."
                )
            return None
        return container.require_runtime(workload.image, int(time.monotonic() // 60))

    # -- moving on: admit, start, find the dead

    def _advance(self) -> None:
        with self._mutex, self._exclusive():
            self._collect_starts()
            records = self._all()
            self._bury(records)
            admitted = self._admit(records)
            self._start(record for record in records if record.id in admitted and record.state() is None)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One plane at a time decides on this machine."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _all(self) -> list[Record]:
        """Records of every workload that is on disk, the oldest first."""
        names = {name for name in os.listdir(self.root) if not name.startswith(".") and name != "admitted.json"}
        for gone in self._records.keys() - names:
            del self._records[gone]
        for name in names - self._records.keys():
            try:
                self._records[name] = Record(self.root / name)
            except FileNotFoundError:  # forgotten by another plane just now
                continue
        return sorted(self._records.values(), key=lambda record: (record.queued_at, record.id))

    def _bury(self, records: Iterable[Record]) -> None:
        """A shim that was killed cannot say so: what it left is ended and recorded as lost."""
        for record in records:
            state = record.state()
            if state is None or state["state"] in ENDED or record.shim_lives():
                continue
            state = record.state()  # it may have ended between the two looks
            if state is not None and state["state"] not in ENDED:
                kill_marked(record.id)
                self._remove_container(record)
                record.end(state="lost", reason="Lost", message="its shim was killed, or the machine was restarted")

    def _admitted(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads((self.root / "admitted.json").read_bytes())
        except FileNotFoundError:
            return {}

    def _admit(self, records: list[Record]) -> dict[str, dict[str, Any]]:
        """Decide who starts, and with which ports and GPUs; written before it is done."""
        before = self._admitted()
        alive = {record.id: record for record in records if not _ended(record)}
        admitted = {id: given for id, given in before.items() if id in alive}
        waiting = [record for record in alive.values() if record.id not in admitted]
        if waiting:
            running = [alive[id].claim(alive[id].stopping) for id in admitted]
            decision = decide([record.claim() for record in waiting], running, self.total, time.time(), self._limits())
            for id in decision.preempt:
                self._stop(
                    alive[id], "Preempted", "it made room for a workload of higher priority", alive[id].asked["grace_s"]
                )
            admitted |= self._grants([alive[id] for id in decision.admit], admitted)
        if admitted != before:
            write_atomic(self.root / "admitted.json", json.dumps(admitted))
        return admitted

    def _grants(self, records: list[Record], others: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Ports and GPUs of those that are admitted together; none of them is admitted if they run out."""
        gpus = [gpu for gpu in range(self.total.gpus) if all(gpu not in other["gpus"] for other in others.values())]
        ports = free_ports(
            sum(record.asked["ports"] for record in records),
            {port for other in others.values() for port in other["ports"]},
        )
        granted = {}
        for record in records if ports is not None else ():
            granted[record.id] = {
                "gpus": [gpus.pop(0) for _ in range(record.resources.gpus)],
                "ports": [ports.pop(0) for _ in range(record.asked["ports"])],
            }
        return granted

    def _start(self, records: Iterable[Record]) -> None:
        busy = {record.id for record, _ in self._starting}
        for record in records:
            if record.id in busy:
                continue
            if len(self._starting) >= MAX_STARTS_AT_ONCE:
                self._collect_starts(wait=True)
            try:
                write_private(record.folder / "start.json", self._start_file(record))
                command = [sys.executable, "-m", "leptonai.cloud.compute.shim", str(record.folder)]
                with open(record.folder / "shim.log", "ab") as log:
                    shim = subprocess.Popen(
                        command,
                        env=shim_env(),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            except FileNotFoundError:  # it has started, or was stopped, since we looked
                continue
            self._starting.append((record, shim))
        self._collect_starts(wait=True)

    def _collect_starts(self, wait: bool = False) -> None:
        """The first process of a shim ends when the second holds the lock."""
        left = []
        for record, shim in self._starting:
            if shim.poll() is None and not wait:
                left.append((record, shim))
            elif shim.wait() != 0:
                self._start_failed(record)
        self._starting = left

    def _start_failed(self, record: Record) -> None:
        """A machine without memory or processes may have some soon; after three times it is an error of the workload."""
        self._failures[record.id] = self._failures.get(record.id, 0) + 1
        if self._failures[record.id] >= 3 and record.state() is None:
            words = (record.folder / "shim.log").read_text(errors="replace").strip().splitlines()[-1:] or [
                "no reason given"
            ]
            record.end(state="exited", exit_code=127, reason="Error", message=f"its shim could not start: {words[0]}")

    def _start_file(self, record: Record) -> dict[str, Any]:
        admitted = self._admitted()
        master = master_port(record, self._records.values(), admitted)
        return start_file(self.home, record, admitted[record.id], master, self._bubblewrap)

    # -- stopping

    def _stop(self, record: Record, reason: str, message: str, grace_s: float) -> None:
        if _ended(record) or record.end(only_queued=True, state="exited", reason=reason, message=message):
            return
        record.ask_to_stop(reason, message, grace_s)

    def _remove_container(self, record: Record) -> None:
        if record.runtime:
            subprocess.run(
                container.remove_argv(record.runtime, record.id), capture_output=True, timeout=60, check=False
            )

    # -- finding

    def _find(self, id: str) -> Record | None:
        with self._mutex:
            if id not in self._records:
                self._all()
            return self._records.get(id)

    def _required(self, id: str) -> Record:
        record = self._find(id)
        if record is None:
            raise NotFound(f"there is no workload {id!r} on this machine")
        return record

    def _over(self, record: Record) -> bool:
        """Whether its log is complete: it has ended, or is gone, or its shim is."""
        if not record.folder.exists():
            return True
        state = record.state()
        return state is not None and (state["state"] in ENDED or not record.shim_lives())


def _ended(record: Record) -> bool:
    state = record.state()
    return state is not None and state["state"] in ENDED


def _words(resources: Resources) -> str:
    text = f"{resources.cpu:g} CPU, {resources.memory_bytes / 2**30:.1f} GiB"
    return text + (f", {resources.gpus} GPU" if resources.gpus else "")
