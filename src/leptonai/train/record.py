"""The run's folder and `run.json`: which run this is, whether it is alive, what it was made from, and what happened to it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import Conflict, Corrupt, NotFound
from ..base.files import write_atomic
from ..base.home import Home
from ..base.paths import check_name

UNFINISHED = ("running", "stopped", "failed")


class RunRecord:
    """`data` is what `run.json` holds: id, name, status, settings, lineage, events, and where the run stands.

    Opening one locks its folder for this process, so two processes never train one run.
    """

    def __init__(self, folder: Path, data: dict[str, Any], resumed: bool):
        self.folder, self.data, self.resumed = folder, data, resumed
        self._lock = lock(folder)

    @classmethod
    def open(cls, name: str, home: Home, settings: Mapping[str, Any], resume: bool) -> RunRecord:
        """Continue the newest unfinished run called `name`, or begin a new one.

        Inside `lep run`, the environment names the folder; the first Run of the script takes it.
        Raises Conflict if another process has it, or it was begun with other `settings`.
        """
        check_name(name, "run")
        given = os.environ.pop("LEPTON_RUN", None)
        folder = home.runs / check_name(given, "run") if given else None
        if folder is None and resume:
            folder = next((f for f in reversed(run_folders(home, name)) if may_continue(f, name)), None)
        if folder is None:
            folder = free_folder(home, name)
        folder.mkdir(parents=True, exist_ok=True)
        known = read_run(folder) if (folder / "run.json").exists() else {}
        record = cls(folder, known, resumed=bool(known.get("settings")))
        record._check_settings(settings)
        now = timestamp()
        first = {
            "format": 1,
            "id": folder.name,
            "name": name,
            "started_at": now,
            "lineage": {},
            "events": [],
            "metrics": {},
            "step": 0,
        }
        state = {
            "status": "running",
            "trained": False,
            "pid": os.getpid(),
            "session": secrets.token_hex(8),
            "host": platform.node(),
            "settings": dict(settings),
        }
        record.data = {**first, **known, **state}
        record.data["lineage"].setdefault("code", code_lineage())
        record.write()
        return record

    def write(self, **changes: Any) -> None:
        self.data.update(changes, updated_at=timestamp())
        write_atomic(self.folder / "run.json", json.dumps(self.data, indent=1, ensure_ascii=False, default=str))

    def is_ours(self) -> bool:
        """Whether the folder is still this object's: a notebook's cell that is run again makes another Run of it."""
        path = self.folder / "run.json"
        return path.is_file() and read_run(self.folder).get("session") == self.data["session"]

    def event(self, sentence: str) -> None:
        self.data["events"].append({"at": timestamp(), "event": sentence})
        self.write()

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        before = self.data.get("settings") or settings
        other = {key: before.get(key) for key, value in settings.items() if before.get(key) != value}
        if other:
            raise Conflict(
                f"run {self.folder.name} was begun with other settings, and would not end with the same weights",
                received={key: settings[key] for key in other},
                expected=f"{other}",
                fix="Give the same settings to continue it, or resume=False to begin a new run.",
            )


def run_folders(home: Home, name: str) -> list[Path]:
    """Folders of the runs called `name`, oldest first: `name`, `name-2`, `name-3`, …"""
    if not home.runs.is_dir():
        return []
    prefix = f"{name}-"
    numbers = {1: home.runs / name} if (home.runs / name).is_dir() else {}
    for folder in home.runs.iterdir():
        tail = folder.name.removeprefix(prefix)
        if folder.name.startswith(prefix) and tail.isdigit() and folder.is_dir():
            numbers[int(tail)] = folder
    return [numbers[number] for number in sorted(numbers)]


def free_folder(home: Home, name: str) -> Path:
    home.runs.mkdir(parents=True, exist_ok=True)
    number, folder = 1, home.runs / name
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = home.runs / f"{name}-{number}"


def may_continue(folder: Path, name: str) -> bool:
    """Unfinished; and not one that this very process has trained to its end (a notebook's cell that is run again)."""
    if not (folder / "run.json").exists():
        return False
    data = read_run(folder)
    if name not in (data.get("name"), folder.name):
        return False  # `a-2` may be the second run of `a`, or the first of `a-2`
    return data.get("status") in UNFINISHED and not (data.get("trained") and data.get("pid") == os.getpid())


def read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says. Raises NotFound, or Corrupt if it is not JSON."""
    path = folder / "run.json"
    if not path.is_file():
        raise NotFound("there is no such run", received=folder.name, fix="See what there is: `lep runs ls`.")
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise Corrupt(f"run.json of {folder.name} is not JSON", fix=f"Remove {folder} and train again.") from None


def lock(folder: Path) -> int | None:
    """Hold the folder until the process ends, however it ends. The same process may take it again (a notebook's cell)."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return None
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise Conflict(
            f"run {folder.name} is being trained by another process",
            fix="Wait for it, stop it, or choose another name (resume=False begins a new run).",
        ) from None
    return handle


def code_lineage() -> dict[str, Any]:
    """The script that runs and the commit it is from: `{"script", "sha256", "commit", "changed"}`, as far as they are known."""
    script = Path(getattr(sys.modules.get("__main__"), "__file__", None) or sys.argv[0] or ".")
    found: dict[str, Any] = {}
    if script.is_file():
        found = {"script": script.name, "sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    folder = script.resolve().parent if script.is_file() else Path.cwd()
    commit = git(folder, "rev-parse", "HEAD")
    if commit:
        found |= {"commit": commit, "changed": bool(git(folder, "status", "--porcelain", "--untracked-files=no"))}
    return found


def git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
