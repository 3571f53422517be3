"""What a workload may use, and how that is enforced: a cgroup (v2) where we may make one, else the shim's own watch.

Stdlib only: the shim imports this. A cgroup without controllers still ends all its processes at one stroke.
"""

import contextlib
import os
import time

MAX_PROCESSES = 32_768
WATCHED_PROCESSES = 4_096
"""Without the pids controller the shim counts; what is more than this in half a second is a fork bomb."""
WATCH_S = 0.5


def parent_cgroup() -> str | None:
    """The folder in which workloads get their cgroups, made if need be; None where this process may not."""
    mount = own = None
    try:
        with open("/proc/self/mountinfo") as file:
            for line in file:
                fields = line.split()
                if fields[fields.index("-") + 1] == "cgroup2":
                    mount = fields[4]
        with open("/proc/self/cgroup") as file:
            for line in file:
                if line.startswith("0::"):
                    own = line[3:].strip()
    except OSError:
        return None
    if not mount or own is None:
        return None
    base = os.path.join(mount, own.lstrip("/"))
    parent = os.path.join(base, "lepton-workloads")
    try:
        os.makedirs(parent, exist_ok=True)
    except OSError:
        return None
    if _controllers(base):
        _delegate(base)
        _delegate(parent)
    return parent


def _controllers(folder: str) -> set[str]:
    try:
        with open(os.path.join(folder, "cgroup.controllers")) as file:
            return set(file.read().split())
    except OSError:
        return set()


def _delegate(folder: str) -> None:
    for controller in ("cpu", "memory", "pids"):
        with contextlib.suppress(OSError), open(os.path.join(folder, "cgroup.subtree_control"), "w") as file:
            file.write(f"+{controller}")


class Cgroup:
    """The cgroup of one workload. Every operation is a no-op where there is none."""

    def __init__(self, parent: str | None, id: str):
        self.path = os.path.join(parent, id) if parent else None
        self.controllers: set[str] = set()

    def create(self, cpu: float, memory_bytes: int) -> None:
        if not self.path:
            return
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError:
            self.path = None
            return
        self.controllers = _controllers(self.path)
        if "memory" in self.controllers:
            self._set("memory.max", str(memory_bytes))
            self._set("memory.swap.max", "0")
            self._set("memory.oom.group", "1")
        if "cpu" in self.controllers:
            self._set("cpu.max", f"{max(1000, round(cpu * 100_000))} 100000")
        if "pids" in self.controllers:
            self._set("pids.max", str(MAX_PROCESSES))

    def join(self) -> None:
        """Put this process in it."""
        if self.path:
            self._set("cgroup.procs", str(os.getpid()))

    def out_of_memory(self) -> bool:
        with contextlib.suppress(OSError, TypeError), open(os.path.join(self.path, "memory.events")) as file:  # type: ignore[arg-type]
            return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in file)
        return False

    def kill(self) -> None:
        if self.path:
            self._set("cgroup.kill", "1")

    def remove(self, deadline_s: float = 2.0) -> None:
        deadline = time.monotonic() + deadline_s
        while self.path and os.path.isdir(self.path):
            try:
                os.rmdir(self.path)
            except OSError:  # its last processes are still ending
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)

    def _set(self, name: str, value: str) -> None:
        with contextlib.suppress(OSError), open(os.path.join(self.path, name), "w") as file:  # type: ignore[arg-type]
            file.write(value)
