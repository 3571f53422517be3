"""`lep run SCRIPT ARGS…`: a training script as it is, with its output, exit status, time and metrics kept as a run.

The script runs in a process of its own; this one passes its output on and writes it down, forwards signals, and ends with its status.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

from ..base.errors import InvalidInput, NotFound
from ..base.home import Home
from ..base.paths import check_name
from .output import print_json

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OWN_OPTIONS = ("--name", "--publish", "--no-publish", "--dataset", "--json")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", metavar="NAME", help="The run's name. Default: the script's name.")
@click.option(
    "--publish", metavar="MODEL", help="Publish what a Keras script trains as MODEL. Default: the script's name."
)
@click.option("--no-publish", is_flag=True, help="Publish nothing that the script does not publish itself.")
@click.option(
    "--dataset", metavar="DATASET", help="The dataset that the script reads. Default: found by comparing rows."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the run's record as JSON; the script's output goes to stderr."
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    name: str | None,
    publish: str | None,
    no_publish: bool,
    dataset: str | None,
    as_json: bool,
    script: Path,
    arguments: tuple[str, ...],
) -> None:
    """Run a training script with its metrics tracked and its model published.

    Options of lep stand before SCRIPT; all that follows SCRIPT is passed to it. Keras models are tracked and published without
    a change to the script; a PyTorch loop is, with la.Run; of any other script the log, the time and the exit status are kept.
    """
    script = check_script(script)
    plain = model_name(script)
    name = check_name(name or plain, "run")
    publish = "" if no_publish else check_name(publish or plain, "model")
    for argument in arguments:
        if argument.split("=")[0] in OWN_OPTIONS:
            click.echo(
                f"Note: {argument} was passed to {script.name}. Options of lep stand before the script.", err=True
            )
            break
    settings = {"LEPTON_RUN_PUBLISH": publish, "LEPTON_RUN_DATASET": dataset or ""}
    # With --json our stdout holds the record and nothing else.
    output = sys.stderr.buffer if as_json else sys.stdout.buffer
    status, record = run_script(script, arguments, name, Home.current(), settings, output)
    if as_json:
        print_json(record)
    else:
        report(record)
    sys.exit(status)


def check_script(script: Path) -> Path:
    if script.suffix != ".py":
        raise InvalidInput(
            "lep run runs Python scripts", received=str(script), expected="a .py file", fix="Try: lep run train.py."
        )
    if not script.is_file():
        raise NotFound("there is no such script", received=str(script), fix="Check the path, seen from this folder.")
    return script


def model_name(script: Path) -> str:
    """`my script_v2.py` → `my-script-v2`: the script's name as a run and a model may be named."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", script.stem).strip("-.")
    return words or "script"


def run_script(
    script: Path, arguments: Sequence[str], name: str, home: Home, settings: dict[str, str], output: IO[bytes]
) -> tuple[int, dict[str, Any]]:
    """Run it to its end; return the exit status (128 + signal if one ended it) and the run's record, which is on disk by then."""
    folder = begin(script, arguments, name, home)
    environment = (
        os.environ
        | settings
        | {
            "LEPTON_HOME": str(home.root),
            "LEPTON_WORKSPACE": home.workspace,
            "LEPTON_RUN": folder.name,
        }
    )
    if not imports(script, "tensorflow"):
        # Keras asks for TensorFlow unless it is told otherwise, and Lepton brings torch.
        environment.setdefault("KERAS_BACKEND", "torch")
    if output.isatty():
        environment["LEPTON_RUN_TERMINAL"] = "1"
    began = time.monotonic()
    command = [sys.executable, "-m", "leptonai.train.script", str(script), *arguments]
    with open(folder / "log.txt", "ab", buffering=0) as log:
        status = follow(command, environment, log, output)
    return status, end(folder, status, time.monotonic() - began)


def begin(script: Path, arguments: Sequence[str], name: str, home: Home) -> Path:
    """A new run folder whose `run.json` says what is running. `la.Run` in the script, or the Keras watch, continues it."""
    from ..train.record import free_folder, git, timestamp

    folder = free_folder(home, name)
    place = script.resolve().parent
    code = {"script": script.name, "sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    if commit := git(place, "rev-parse", "HEAD"):
        code |= {"commit": commit, "changed": bool(git(place, "status", "--porcelain", "--untracked-files=no"))}
    write_record(
        folder,
        {
            "format": 1,
            "id": folder.name,
            "name": name,
            "status": "running",
            "started_at": timestamp(),
            "script": {"path": str(script.resolve()), "arguments": list(arguments), "python": sys.version.split()[0]},
            "lineage": {"code": code},
            "events": [],
            "metrics": {},
            "step": 0,
            "pid": os.getpid(),
        },
    )
    return folder


def end(folder: Path, status: int, elapsed_s: float) -> dict[str, Any]:
    """Say in `run.json` how it ended. The script is gone by now, so nobody else writes there."""
    from ..train.record import read_run, timestamp

    word = "finished" if status == 0 else "stopped" if status in (130, 143) else "failed"
    ended = {"status": word, "exit_status": status, "elapsed_s": round(elapsed_s, 3), "ended_at": timestamp()}
    record = read_run(folder) | ended
    write_record(folder, record)
    return record | {"folder": str(folder)}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    import json

    from ..base.files import write_atomic

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


def report(record: dict[str, Any]) -> None:
    """On stderr: stdout is the script's."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in record.get("metrics", {}).items() if is_number(value))
    status = "" if record["status"] == "finished" else f" (exit status {record['exit_status']})"
    click.echo(f"\nRun {record['id']} {record['status']}{status} in {record['elapsed_s']:.1f} s", err=True)
    if metrics:
        click.echo(f"  metrics  {metrics}", err=True)
    click.echo(f"  folder   {record['folder']}", err=True)
    if ref := record.get("model"):
        click.echo(f"  model    {ref}\n  next     lep model show {ref}", err=True)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
