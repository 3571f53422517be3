"""Photons and state on a real `lep up`: pushed, deployed, called, fetched; KV, Queue and ObjectStore through its routes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import leptonai as la
from leptonai.base.errors import Conflict
from leptonai.client.workspace import Workspace
from leptonai.cloudrun import Remote
from leptonai.kv import KV
from leptonai.objectstore import ObjectStore
from leptonai.photon.framework.deploying import remove, wait_ready
from leptonai.queue import Empty, Queue

from .conftest import wait_for
from .test_packages import lep

SOURCE = """
from leptonai.photon import Photon

class Counter(Photon):
    incoming_traffic_grace_period = 0

    def init(self):
        self.n = 0

    @Photon.handler
    def add(self, x: int) -> int:
        self.n += x
        return self.n
"""


@pytest.fixture
def counter(tmp_path):
    (tmp_path / "counter.py").write_text(SOURCE)
    return f"{tmp_path}/counter.py:Counter"


def processes_of(home):
    """Workloads outlive their server on purpose; those of a test have to end with it."""
    commands = [one for one in Path("/proc").glob("[0-9]*/cmdline")]
    found = 0
    for one in commands:
        with contextlib.suppress(OSError):
            found += f"{home}/cloud/workloads/".encode() in one.read_bytes()
    return found


@pytest.fixture
def server(home, monkeypatch):
    command = [sys.executable, "-m", "leptonai.cli.main", "up", "--port", "0"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))
    try:
        url = next(match[0] for line in up.stdout if (match := re.search(r"http://\S+/workspaces/default", line)))
        Workspace.current().get("/workspace")  # it answers
        monkeypatch.setenv("LEPTON_WORKSPACE_URL", url)
        monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", (home / "admin.key").read_text().strip())
        yield Workspace.current()
        wait_for(lambda: not processes_of(home), 40)
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(20)
        up.stdout.close()


def test_from_a_class_to_a_deployment_and_back(server, counter, tmp_path):
    assert lep("create", "-n", "counter", "-m", counter).returncode == 0
    ran = lep("run", "-n", "counter", "-dn", "first")
    assert ran.returncode == 0, ran.stderr
    again = lep("run", "-n", "counter", "-dn", "first")
    assert again.returncode == Conflict.exit_code and "--rerun" in again.stderr
    try:
        url = wait_ready(server, "first", 60)
        client = la.Client("default", "first")
        assert client.url == url
        assert [client.add(x=4), client.add(x=4)] == [4, 8]
    finally:
        remove(server, "first")
    photon_id = server.get("/photons/private")[0]["id"]
    assert lep("fetch", "-i", photon_id, "-f", tmp_path / "fetched.photon").returncode == 0
    assert la.Photon.load(tmp_path / "fetched.photon").add(x=1) == 1
    assert lep("remove", "-i", photon_id).returncode == 0
    assert server.get("/photons/private") == []


def test_remote_is_a_deployment_while_it_lives(server, counter):
    with Remote(counter) as remote:
        assert remote.add(x=5) == 5
        assert [one["metadata"]["name"] for one in server.get("/deployments")] == [remote.name]
    assert server.get("/deployments") == []


def test_state_through_the_server(server):
    kv = KV("store")
    kv.put("k/1 ü", b"\x00v")
    assert (kv["k/1 ü"], kv.keys()["keys"], KV.list_kv()) == (b"\x00v", ["k/1 ü"], ["store"])
    kv.delete("k/1 ü")
    kv.delete("k/1 ü")
    with pytest.raises(KeyError):
        kv.get("k/1 ü")
    queue = Queue("work")
    for text in ("one", "one", "two"):
        queue.send(text)
    assert (queue.length(), queue.receive(), queue.receive()) == (2, "one", "two")
    with pytest.raises(Empty):
        queue.receive()
    for bucket in ("public", "private"):
        store = ObjectStore(bucket)
        store.put("x/y.bin", b"123")
        assert store.get("x/y.bin").read() == b"123"
        assert [one["key"] for one in store.list_objects()] == ["x/y.bin"]
        store.delete("x/y.bin")
        assert store.list_objects() == []
