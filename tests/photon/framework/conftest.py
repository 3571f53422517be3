"""Photons served by the real server: in a thread for most tests, in a process where signals and deaths matter."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from leptonai.base.sockets import listen
from leptonai.photon.framework.serving import Server
from leptonai.photon.protocol import guarded

ROOT = Path(__file__).parents[3]
URL = re.compile(r"is served on (http://\S+)")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    for name in ("LEPTON_WORKSPACE_URL", "LEPTON_WORKSPACE_TOKEN", "LEPTON_LOCAL_DEPLOYMENT_TOKEN", "LEPTON_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@contextlib.contextmanager
def served(photon):
    """An httpx client of a photon that a real server answers for."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            photon.app,
            http=guarded(lambda path, headers: None),
            lifespan="on",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        server = Server(config, 0)
        thread = threading.Thread(target=lambda: server.run([listener]), daemon=True)
        thread.start()
        wait_for(lambda: server.started or not thread.is_alive())
        assert server.started
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20, trust_env=False
        ) as client:
            yield client
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:
        yield lambda photon: stack.enter_context(served(photon() if isinstance(photon, type) else photon))


@pytest.fixture
def process():
    """`process("photon", "runlocal", …) -> (url, Popen)`: a `lep` that serves until the test ends."""
    running = []

    def start(*arguments, cwd=None, **env):
        command = [sys.executable, "-m", "leptonai.cli.main", *map(str, arguments)]
        one = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, **env}
        )
        running.append(one)
        for line in one.stdout:
            if match := URL.search(line):
                return match[1], one
        raise AssertionError(one.stderr.read())

    yield start
    for one in running:
        if one.poll() is None:
            one.send_signal(signal.SIGKILL)
        one.wait()
        one.stdout.close()
        one.stderr.close()


def wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
