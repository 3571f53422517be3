"""The official client in an environment of its own, and a `lep up` for it to talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

VERSION = "0.47.1"


def official_lep() -> Path:
    """The official `lep`: below LEPTON_OFFICIAL_CLIENT (a virtual environment), or installed once into the user's cache."""
    given = os.environ.get("LEPTON_OFFICIAL_CLIENT")
    folder = Path(given) if given else Path.home() / ".cache" / "lepton-tests" / f"leptonai-{VERSION}"
    command = folder / "bin" / "lep"
    if not command.exists() and not given:
        _install(folder)
    if not command.exists():
        pytest.skip(
            f"the official client {VERSION} cannot be had: set LEPTON_OFFICIAL_CLIENT to an environment that has it"
        )
    return command


def _install(folder: Path) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"leptonai=={VERSION}"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=120)
        subprocess.run(pip, check=True, capture_output=True, timeout=600)
    except (subprocess.SubprocessError, OSError):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Cloud:
    """A `lep up` in a process of its own. `base`: the API of the workspace `default`."""

    home: Path
    url: str
    key: str

    @property
    def base(self) -> str:
        return f"{self.url}/api/v2/workspaces/default"


def start_cloud(home: Path, *options: str) -> Cloud:
    """Returns once it answers."""
    environment = {**os.environ, "LEPTON_HOME": str(home)}
    command = [sys.executable, "-m", "leptonai.cli.main", "up", "--port", "0", "--detach", *options]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    lines = (home / "cloud" / "plane.log").read_text().splitlines()
    url = next(line for line in lines if "/api/v2/" in line).split()[-1].partition("/api/v2/")[0]
    return Cloud(home, url, (home / "admin.key").read_text().strip())


def stop_cloud(cloud: Cloud) -> None:
    environment = {**os.environ, "LEPTON_HOME": str(cloud.home)}
    command = [sys.executable, "-m", "leptonai.cli.main", "down", "--workloads"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)


class Session:
    """Runs commands of the official client, as one user with one record. Keeps a transcript."""

    def __init__(self, command: Path, cloud: Cloud, folder: Path):
        self.command, self.cloud, self.folder = command, cloud, folder
        folder.mkdir(exist_ok=True)
        (folder / "latest_version_check").write_text(str(int(time.time())))
        self.transcript: list[str] = []

    def run(self, *arguments: str, status: int = 0, timeout_s: float = 120, input: str = "") -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LEPTON_CACHE_DIR": str(self.folder),
            "COLUMNS": "250",
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            [str(self.command), *arguments],
            env=environment,
            input=input,
            text=True,
            capture_output=True,
            timeout=timeout_s,
        )
        text = done.stdout + done.stderr
        self.transcript.append(f"[{done.returncode}] lep {' '.join(arguments)}\n{text}")
        assert done.returncode == status, f"lep {' '.join(arguments)} → {done.returncode}\n{text}"
        assert "Traceback" not in text, text
        return text

    def until(self, words: str, *arguments: str, timeout_s: float = 60) -> str:
        """Run the command again until `words` are in what it prints."""
        deadline = time.monotonic() + timeout_s
        while words not in (text := self.run(*arguments)):
            assert time.monotonic() < deadline, f"{words!r} never came from lep {' '.join(arguments)}:\n{text}"
            time.sleep(0.3)
        return text
