"""The parent of one workload: owns its log, its limits, its end and the record of it. Outlives the plane that started it.

`python -m leptonai.cloud.compute.shim FOLDER`. The lock of the folder, held from before the first write of `state.json` until this
process ends, proves that the shim lives, and makes a workload start at most once, however often a shim is started for it.
Stdlib only, and little of it: one shim starts per workload.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import selectors
import signal
import sys
import time

from .limits import WATCH_S, WATCHED_PROCESSES, Cgroup
from .segments import LogWriter
from .tree import descendants, kill_tree, reap, resident_bytes

LOCK_WAIT_S = 2.0
"""A plane that stops a queued workload holds the lock for a moment."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def main(folder: str) -> int:
    """Detach, then run the workload. The first process returns when the second holds the lock, or says why not."""
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        answer = os.read(told, 4096)
        if answer != b"ok":
            sys.stderr.buffer.write(answer or b"the shim ended before it held its lock\n")
        return 0 if answer == b"ok" else 1
    os.close(told)
    os.setsid()
    try:
        lock = take_lock(folder)
        if lock is None or os.path.exists(os.path.join(folder, "state.json")):
            if lock is not None:
                forget_secrets(folder)
            os.write(tell, b"ok")  # another shim runs it, or has run it
            return 0
        shim = Shim(folder)
    except Exception as error:
        os.write(tell, f"{type(error).__name__}: {error}\n".encode())
        raise
    os.write(tell, b"ok")
    os.close(tell)
    shim.run()
    return 0


def take_lock(folder: str) -> int | None:
    """The lock's descriptor, or None if another process keeps it."""
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                return None
            time.sleep(0.01)


def write_atomic(path: str, data: str) -> None:
    """As `base.files.write_atomic`, without its imports."""
    with open(f"{path}.new", "w") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def forget_secrets(folder: str) -> None:
    """The environment is on disk only until the workload has started."""
    for name in ("start.json", "env.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))


class Shim:
    def __init__(self, folder: str):
        self.folder = folder
        with open(os.path.join(folder, "start.json")) as file:
            self.start = json.load(file)
        control = os.path.join(folder, "control")
        if not os.path.exists(control):
            os.mkfifo(control, 0o600)
        # Opened for both, so that it never reads as ended; a plane that finds no reader knows that the shim is gone.
        self.control = os.open(control, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.state = {key: self.start[key] for key in ("ports", "gpus")}
        self.child = 0
        self.status: int | None = None
        self.reason: str | None = None
        self.message = ""
        self.kill_at: float | None = None
        self.ends_at: float | None = None
        self.watch_at = 0.0
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.save(state="starting", shim_pid=os.getpid())
        forget_secrets(folder)
        self.log = LogWriter(os.path.join(folder, "log"))
        self.cgroup = Cgroup(self.start["cgroup_parent"], self.start["id"])
        self.cgroup.create(self.start["cpu"], self.start["memory_bytes"])

    def save(self, **values: object) -> None:
        """Make `values` part of the record. Waits for a full disk: an end that is not recorded would be a lost workload."""
        self.state.update(values)
        while True:
            try:
                return write_atomic(os.path.join(self.folder, "state.json"), json.dumps(self.state))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
                time.sleep(1)

    def run(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._listen()
        error = self._spawn()
        if error is None:
            self.save(state="running", pid=self.child, started_at=time.time())
            if self.start["time_limit_s"] is not None:
                self.ends_at = time.monotonic() + self.start["time_limit_s"]
            self._on_control()  # a stop may have been asked for before there was anything to stop
            while self.status is None:
                self._wait()
        self._finish(error)

    def _listen(self) -> None:
        awake, wake = os.pipe()
        for end in (awake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(
                number, lambda *_: self._end("Lost", "the machine or its service manager ended the workload", 5.0)
            )
        self.selector.register(awake, selectors.EVENT_READ, lambda: self._drain_signals(awake))
        self.selector.register(self.control, selectors.EVENT_READ, self._on_control)

    def _spawn(self) -> str | None:
        """Start the command; the reason in words if that cannot be done."""
        failed, fail = os.pipe()
        outputs = [os.pipe(), os.pipe()]
        self.child = os.fork()
        if not self.child:
            self._exec([output[1] for output in outputs], fail)
        os.close(fail)
        for (end, other), stream in zip(outputs, (b"o", b"e"), strict=True):
            os.close(other)
            os.set_blocking(end, False)
            self.selector.register(end, selectors.EVENT_READ, lambda end=end, stream=stream: self._read(end, stream))
        error = os.read(failed, 4096).decode()
        os.close(failed)
        if error:
            self.status = os.waitpid(self.child, 0)[1]
        return error or None

    def _exec(self, outputs: list[int], fail: int) -> None:
        """In the child: become the command."""
        start = self.start
        try:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.setsid()
            os.umask(0o077)
            self.cgroup.join()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if self._watches and "memory" not in self.cgroup.controllers and not start["gpus"]:
                # Far above the limit that the watch enforces: what may be taken between two of its looks.
                most = 2 * start["memory_bytes"] + (1 << 30)
                resource.setrlimit(resource.RLIMIT_DATA, (most, most))
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (outputs[0], 1), (outputs[1], 2)):
                os.dup2(source, target)
            os.chdir(start["folder"])
            os.execvpe(start["argv"][0], start["argv"], start["env"])  # noqa: S606
        except OSError as error:
            what = f"the command {start['argv'][0]!r}" if error.filename != start["folder"] else "its working folder"
            words = (
                "was not found" if error.errno == errno.ENOENT else f"cannot be used: {os.strerror(error.errno or 0)}"
            )
            os.write(fail, f"{what} {words}".encode())
        except BaseException as error:
            os.write(fail, repr(error).encode())
        finally:
            os._exit(127)

    def _wait(self) -> None:
        now = time.monotonic()
        moments = [
            self.kill_at,
            self.ends_at,
            now + 0.3 if self.log.waiting else None,
            self.watch_at if self._watches else None,
        ]
        timeout = min((moment - now for moment in moments if moment is not None), default=None)
        for key, _ in self.selector.select(None if timeout is None else max(0.0, timeout)):
            key.data()
        self.log.flush_idle()
        now = time.monotonic()
        if self.ends_at is not None and now >= self.ends_at:
            self.ends_at = None
            limit = self.start["time_limit_s"]
            self._end("TimeLimit", f"it ran longer than its limit of {limit:g} s", self.start["grace_s"])
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = now + 1
            self._kill()
        if self._watches and now >= self.watch_at:
            self.watch_at = now + WATCH_S
            self._watch()

    @property
    def _watches(self) -> bool:
        return self.start["watch"] and not {"memory", "pids"} <= self.cgroup.controllers

    def _watch(self) -> None:
        """The limits of a machine on which we may not make cgroups."""
        pids = descendants(os.getpid())
        if len(pids) > WATCHED_PROCESSES:
            self._end("Error", f"it started more than {WATCHED_PROCESSES} processes", 0)
        limit = self.start["memory_bytes"]
        if "memory" not in self.cgroup.controllers and resident_bytes(pids, limit) > limit:
            self._end("OutOfMemory", f"it used more than its {limit / 2**20:,.0f} MiB of memory", 0)

    def _drain_signals(self, awake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(awake, 512):
                pass
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.child:
                    self.status = status

    def _on_control(self) -> None:
        """A plane wants something: read what."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.control, 512):
                pass
        try:
            with open(os.path.join(self.folder, "stop.json")) as file:
                stop = json.load(file)
        except FileNotFoundError:
            return
        self._end(stop["reason"], stop["message"], stop["grace_s"])

    def _end(self, reason: str, message: str, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after `grace_s`. The first reason stays; a later one may only make it quicker."""
        if self.reason is None:
            self.reason, self.message = reason, message
            if grace_s > 0:
                self._terminate()
        at = time.monotonic() + grace_s
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)

    def _terminate(self) -> None:
        """SIGTERM to the command's process group, but not to the sandbox around it, which would take it down at once."""
        group = []
        for pid in [self.child, *descendants(self.child)]:
            with contextlib.suppress(OSError):
                if os.getpgid(pid) == self.child:
                    group.append(pid)
        for pid in group[self.start["wrappers"] :]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)

    def _kill(self) -> None:
        self.cgroup.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _read(self, end: int, stream: bytes) -> None:
        try:
            data = os.read(end, 1 << 16)
        except BlockingIOError:
            return
        if data:
            self.log.write(stream, data)
        else:
            self.selector.unregister(end)
            os.close(end)

    def _finish(self, error: str | None) -> None:
        """The command has ended: end what it left behind, keep its last words, record how it went."""
        out_of_memory = self.cgroup.out_of_memory() or self._check("oom_check") == "true"
        self.cgroup.kill()
        kill_tree(os.getpid())
        reap()
        self._check("cleanup")
        self._last_words()
        code = os.waitstatus_to_exitcode(self.status or 0)
        exit_code = 128 - code if code < 0 else code
        reason, message = self.reason, self.message
        if error is not None:
            reason, message = "Error", error
        elif reason is None and out_of_memory:
            reason = "OutOfMemory"
            message = f"it used more than its {self.start['memory_bytes'] / 2**20:,.0f} MiB of memory"
        elif reason is None:
            reason = "Completed" if code == 0 else "Error"
            if code:
                message = f"signal {signal_name(-code)} ended it" if code < 0 else f"it ended with exit code {code}"
        if error:
            self.log.write(b"e", f"[{error}]\n".encode())
        self.log.close()
        self.cgroup.remove()
        state = "lost" if reason == "Lost" else "exited"
        self.save(state=state, finished_at=time.time(), exit_code=exit_code, reason=reason, message=message)

    def _last_words(self, deadline_s: float = 2.0) -> None:
        """Read the outputs to their end: all writers are dead, so it comes at once."""
        deadline = time.monotonic() + deadline_s
        while len(self.selector.get_map()) > 2 and time.monotonic() < deadline:
            for key, _ in self.selector.select(0.1):
                key.data()

    def _check(self, name: str) -> str | None:
        """Run a command of the container runtime for the workload's container; its output."""
        command = self.start.get(name)
        if not command:
            return None
        import subprocess

        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
        return None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
