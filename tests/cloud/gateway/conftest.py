"""Real workers and replicas, as processes. `cloud` starts them, writes route tables and waits until a worker acts on them."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from leptonai.cloud.gateway.table import Access, Endpoint, Replica, Revision, Table, Token, hash_token, write_table
from leptonai.cloud.gateway.traffic import Traffic

TOKEN = "a-token-of-the-endpoint"


def wait_for(condition, timeout_s=10.0, what="the condition"):
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.01)


class ReplicaProcess:
    def __init__(self, name: str, port: int = 0):
        self.name = name
        script = Path(__file__).with_name("replica.py")
        self.process = subprocess.Popen([sys.executable, script, name, str(port)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.route = Replica(name, f"127.0.0.1:{self.port}")

    def seen(self) -> dict:
        return httpx.get(f"http://127.0.0.1:{self.port}/seen").json()

    def kill(self, number=signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)


class Cloud:
    """A folder LEPTON_HOME/cloud with one worker."""

    def __init__(
        self, folder: Path, port: int = 0, *, files: int | None = None, bad: str | None = None, start: bool = True
    ):
        self.folder, self.version, self.processes = folder, 0, []
        self.files, self.bad = files, bad
        """`files`: what a worker may have open, None for as many as this process. `bad`: a defect of bad_worker.py that it has."""
        folder.mkdir(parents=True, exist_ok=True)
        # Each call has a connection of its own, so that workers share them.
        self.client = httpx.Client(timeout=20, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))
        self.port = port
        if start:
            self.start_worker(port)

    def start_worker(self, port: int = 0, name: str = "w0", *arguments: str) -> subprocess.Popen:
        program = (
            [Path(__file__).with_name("bad_worker.py"), self.bad]
            if self.bad
            else ["-m", "leptonai.cloud.gateway.worker"]
        )
        command = [
            sys.executable,
            *program,
            "--folder",
            str(self.folder),
            "--name",
            name,
            "--port",
            str(port),
            *arguments,
        ]
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (self.files,) * 2)) if self.files else None
        self.worker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        self.processes.append(self.worker)
        state = self.folder / "gateway" / f"{name}.json"

        def running():
            assert self.worker.poll() is None, self.worker.stderr.read()
            try:
                found = json.loads(state.read_text())
            except FileNotFoundError:
                return None
            return found if found["pid"] == self.worker.pid else None

        self.port = wait_for(running, what="the worker")["port"]
        return self.worker

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def replica(self, name: str, port: int = 0) -> ReplicaProcess:
        found = ReplicaProcess(name, port)
        self.processes.append(found.process)
        return found

    def route(self, *endpoints: Endpoint, wait=True, **table) -> None:
        self.version += 1
        write_table(self.folder / "routes.json", Table(version=self.version, endpoints=endpoints, **table))
        if wait:
            wait_for(
                lambda: any(one.table == self.version for one in self.traffic().reports), what="the new route table"
            )

    def serve(self, *replicas, name="echo", wait=True, **fields) -> Endpoint:
        """Route the endpoint ws/`name` to the replicas, opened by TOKEN."""
        access = fields.pop("access", Access(tokens=(Token("t1", hash_token(TOKEN)),)))
        routes = tuple(one if isinstance(one, Replica) else one.route for one in replicas)
        revisions = fields.pop("revisions", (Revision("r1", routes),))
        endpoint = Endpoint("ws", name, self.version + 1, revisions, access, **fields)
        self.route(endpoint, wait=wait)
        return endpoint

    def traffic(self) -> Traffic:
        return Traffic.read(self.folder / "traffic")

    def call(
        self,
        path: str = "/",
        method: str = "GET",
        *,
        token: str | None = TOKEN,
        endpoint="echo",
        headers=None,
        **options,
    ) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        return self.client.request(method, f"{self.url}/ws/{endpoint}{path}", headers=headers, **options)

    def raw(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """Everything that comes back for these bytes until the worker closes or falls silent for half a second."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(data)
            connection.settimeout(0.5)
            found = b""
            try:
                while part := connection.recv(65536):
                    found += part
            except TimeoutError:
                return found + b"<still open>"
            except ConnectionError:
                pass
            return found

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """One worker and one replica `a` for the module; each test writes the routes it needs."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    cloud.a = cloud.replica("a")
    yield cloud
    cloud.close()


@pytest.fixture
def own_cloud(tmp_path):
    """A worker of the test's own, to kill or drain."""
    cloud = Cloud(tmp_path / "cloud")
    yield cloud
    cloud.close()


def rss_bytes(pid: int) -> int:
    """Resident memory without pages of files: the usage segment is mapped, and is as large as it is full."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Processor time that the process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
