"""A `lep up` of its own for benchmarks and tests of the cloud: its API, an endpoint that answers JSON, and how to end it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .common import ROOT

SERVICE = ROOT / "tests" / "cloud" / "control" / "service.py"


class Up:
    """A plane with its gateway in `home`. `start` may be called again after `kill`: the data plane has gone on meanwhile."""

    def __init__(self, home: Path, *options: str):
        self.home, self.options = home, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen | None = None

    def start(self, timeout_s: float = 60.0) -> float:
        """Seconds until the API answers."""
        began = time.monotonic()
        where = ["--home", str(self.home), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leptonai.cli.main", "up", *where, *self.options],
            env={**os.environ, "LEPTON_HOME": str(self.home), "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.DEVNULL,
        )
        wait(self._answers, timeout_s, lambda: f"lep up does not answer (exit code {self.process.poll()})")
        return time.monotonic() - began

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as answer:
                return json.load(answer).get("status") == "ok"
        except (OSError, ValueError):
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    def api(self, method: str, path: str, body: object = None, workspace: str = "default") -> object:
        """Raises urllib.error.HTTPError for an answer that is none."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v2/workspaces/{workspace}{path}",
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {self.key}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def endpoint(self, name: str, replicas: int, **env: str) -> dict:
        """The body that makes or changes the endpoint."""
        return {
            "metadata": {"name": name},
            "spec": {
                "container": {"image": "host", "command": [sys.executable, str(SERVICE)]},
                "resource_requirement": {
                    "resource_shape": "cpu.small", "min_replicas": replicas, "max_replicas": replicas,
                },
                "envs": [{"name": key, "value": value} for key, value in env.items()],
            },
        }  # fmt: skip

    def status(self, name: str) -> dict:
        return self.api("GET", f"/deployments/{name}")["status"]

    def text(self, name: str) -> str:
        """TEXT of the replica that answers now."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/default/{name}/", headers={"authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["text"]

    def end(self) -> None:
        """Stop everything of this home, workloads included."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        command = [sys.executable, "-m", "leptonai.cli.main", "down", "--workloads", "--home", str(self.home)]
        environment = {**os.environ, "LEPTON_HOME": str(self.home), "PYTHONPATH": str(ROOT / "src")}
        subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


def wait(
    condition: Callable[[], object], timeout_s: float, what: Callable[[], str] = lambda: "it did not come"
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what())
        time.sleep(0.05)
