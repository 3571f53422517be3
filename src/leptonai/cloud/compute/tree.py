"""Process trees as Linux shows them in /proc: who descends from whom, what they hold, how they all end. Stdlib only."""

import contextlib
import os
import signal
import time

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MARK = "LEPTON_WORKLOAD_ID"
"""The variable by which a process of a workload is known when nothing else is left of it."""


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents before children. Complete if `pid` is a child subreaper: orphans come to it."""
    found, at = [pid], 0
    while at < len(found):
        found += _children(found[at])
        at += 1
    return found[1:]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        pass
    return children


def resident_bytes(pids: list[int], limit: int) -> int:
    """What the processes hold together. Pages that they share are counted once, if it could matter for `limit`."""
    resident = sum(_resident(pid) for pid in pids)
    return resident if resident <= limit else sum(_proportional(pid) for pid in pids)


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def kill_tree(pid: int, deadline_s: float = 5.0) -> None:
    """SIGKILL everything below `pid` until nothing is left: a fork bomb is stopped first, so that it cannot outrun this."""
    deadline = time.monotonic() + deadline_s
    while alive := [one for one in descendants(pid) if not is_zombie(one)]:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in alive:
                with contextlib.suppress(OSError):
                    os.kill(one, number)
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)
        reap()


def reap() -> None:
    """Collect children that have ended. Only for a process whose own interesting child has been waited for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def marked(id: str) -> list[int]:
    """Processes that carry the mark of workload `id`, wherever they hang."""
    mark = f"{MARK}={id}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def kill_marked(id: str, deadline_s: float = 5.0) -> None:
    """End what is left of a workload whose shim is gone."""
    deadline = time.monotonic() + deadline_s
    while (
        alive := [one for one in marked(id) if one != os.getpid() and not is_zombie(one)]
    ) and time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in alive:
                with contextlib.suppress(OSError):
                    os.kill(one, number)
        time.sleep(0.002)
