"""The outside of `lep run`: a script in a process of its own, its output kept, signals forwarded, its end written down."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ..base.errors import Conflict
from ..base.files import write_atomic
from ..base.home import Home
from . import without_tensorflow
from .record import UNFINISHED, free_folder, git, lock, read_run, run_folders, timestamp

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_script(
    script: Path,
    arguments: Sequence[str],
    *,
    name: str,
    new: bool,
    settings: dict[str, str],
    home: Home,
    output: IO[bytes],
) -> tuple[int, dict[str, Any]]:
    """Run it to its end; return the exit status (128 + signal if one ended it) and the run's record, which is on disk by then."""
    folder = begin(script, arguments, name, home, new)
    environment = (
        os.environ
        | settings
        | {
            "LEPTON_HOME": str(home.root),
            "LEPTON_WORKSPACE": home.workspace,
            "LEPTON_RUN": folder.name,
        }
    )
    if without_tensorflow.is_missing() or not imports(script, "tensorflow"):
        # Keras asks for TensorFlow unless it is told otherwise, and Lepton brings torch.
        environment.setdefault("KERAS_BACKEND", "torch")
    if output.isatty():
        environment["LEPTON_RUN_TERMINAL"] = "1"
    began = time.monotonic()
    command = [sys.executable, "-m", "leptonai.train.script", str(script), *arguments]
    with open(folder / "log.txt", "ab", buffering=0) as log:
        status = follow(command, environment, log, output)
    return status, end(folder, status, time.monotonic() - began)


def begin(script: Path, arguments: Sequence[str], name: str, home: Home, new: bool) -> Path:
    """The run's folder, with a `run.json` that says what is running. `la.Run` in the script, or the Keras watch, goes on with it."""
    before = None if new else unfinished(home, name, arguments)
    folder = before or free_folder(home, name)
    place = script.resolve().parent
    code = {"script": script.name, "sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    if commit := git(place, "rev-parse", "HEAD"):
        code |= {"commit": commit, "changed": bool(git(place, "status", "--porcelain", "--untracked-files=no"))}
    first = {
        "format": 1,
        "id": folder.name,
        "name": name,
        "started_at": timestamp(),
        "events": [],
        "metrics": {},
        "step": 0,
    }
    known = read_run(folder) if before else {}
    now = {
        "status": "running",
        "script": {"path": str(script.resolve()), "arguments": list(arguments), "python": sys.version.split()[0]},
        "lineage": {**known.get("lineage", {}), "code": code},
        "pid": os.getpid(),
    }
    write_record(folder, {**first, **known, **now})
    return folder


def unfinished(home: Home, name: str, arguments: Sequence[str]) -> Path | None:
    """The newest run of this name, if it was stopped or killed after a checkpoint and nobody is at it."""
    folder = next(iter(reversed(run_folders(home, name))), None)
    if folder is None or not any((folder / "checkpoints").glob("step-*")):
        return None
    record = read_run(folder)
    if record.get("status") not in UNFINISHED or record.get("script", {}).get("arguments") != list(arguments):
        return None
    try:
        held = lock(folder)
    except Conflict:
        return None
    if held is not None:
        os.close(held)
    print(f"Continuing run {folder.name}; --new begins another.", file=sys.stderr)
    return folder


def end(folder: Path, status: int, elapsed_s: float) -> dict[str, Any]:
    """Say in `run.json` how it ended. The script is gone by now, so nobody else writes there."""
    word = "finished" if status == 0 else "stopped" if status in (130, 143) else "failed"
    ended = {"status": word, "exit_status": status, "elapsed_s": round(elapsed_s, 3), "ended_at": timestamp()}
    record = read_run(folder) | ended
    write_record(folder, record)
    return record | {"folder": str(folder)}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    write_atomic(folder / "run.json", json.dumps(record, indent=1, ensure_ascii=False))


def imports(script: Path, package: str) -> bool:
    """Whether the script imports `package`. A script with a syntax error fails later, with Python's own message."""
    try:
        nodes = list(ast.walk(ast.parse(script.read_bytes())))
    except (SyntaxError, ValueError):
        return False
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return any(name.split(".")[0] == package for name in names)


def follow(command: Sequence[str], environment: dict[str, str], log: IO[bytes], output: IO[bytes]) -> int:
    """Run `command`; its output goes to the log and on to ours as it comes. Signals that we get, it gets, once."""
    # At a terminal the script shares our process group: Ctrl-C reaches it from there, and it may read the keyboard.
    shared = sys.stdin is not None and sys.stdin.isatty()
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, frame: Any) -> None:
        if shared and number == signal.SIGINT:
            return
        if started:
            started[0].send_signal(number)
        else:
            early.append(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=None if shared else 0,
        )
        started.append(process)
        for number in early:
            process.send_signal(number)
        pumps = [
            threading.Thread(target=pump, args=(source, target, log), daemon=True)
            for source, target in ((process.stdout, output), (process.stderr, sys.stderr.buffer))
        ]
        for thread in pumps:
            thread.start()
        status = process.wait()
        for thread in pumps:
            # Whatever the script left running may hold the pipe; its output is not waited for.
            thread.join(timeout=2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def pump(source: IO[bytes], target: IO[bytes], log: IO[bytes]) -> None:
    """Copy bytes as they come. A reader that has gone away, or a full disk, does not stop the script."""
    while data := os.read(source.fileno(), 1 << 16):
        for file in (log, target):
            with contextlib.suppress(OSError, ValueError):
                file.write(data)
                file.flush()
