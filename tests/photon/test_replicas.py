"""Model processes: what crosses the wire comes back equal, a killed one is replaced, and no request is lost with it."""

import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from leptonai.base.errors import Corrupt
from leptonai.base.home import Home
from leptonai.photon.replicas.wire import Column, Shared, pack, unpack
from leptonai.photon.served import Placement

from .conftest import ROW, call


@pytest.mark.parametrize("size", [1, 100_000])
def test_columns_cross_the_wire(size):
    shared = Shared.create("test")
    texts = np.empty(2, object)
    texts[:] = [b"a", b""]
    given = {
        "x": np.arange(size, dtype=np.float32).reshape(1, -1),
        "day": np.array(["2026-01-01", "NaT"], "M8[us]"),
        "n": np.array(3, np.int64),
        "t": texts,
        "names": ["é", None],
    }
    columns, used = pack(given, shared)
    found = unpack(columns, shared, used)

    assert (used > 0) == (size > 1), "large arrays are in shared memory, small ones in the frame"
    assert np.array_equal(found["x"], given["x"]) and found["n"].shape == () and found["n"] == 3
    assert np.array_equal(found["day"], given["day"], equal_nan=True)
    assert found["t"].tolist() == [b"a", b""] and found["names"] == ["é", None]


@pytest.mark.parametrize("dtype", ["O", "|O", "V8", "<U4", "f4,f4", "object"])
def test_a_frame_cannot_ask_for_objects(dtype):
    """S10: what is not a plain number does not travel as an array."""
    with pytest.raises(Corrupt):
        unpack([Column("x", dtype, [1], data=b"12345678")], Shared(-1), 0)


@pytest.fixture
def workers(zoo, tmp_path):
    import subprocess
    import sys

    from leptonai.photon.process import read_state

    root = tmp_path / "home"
    shutil.copytree(zoo.root, root)
    command = [sys.executable, "-m", "leptonai.cli.main", "serve", "digits@1", "--port", "0", "--workers", "2"]
    child = subprocess.Popen(command, env={**os.environ, "LEPTON_HOME": str(root)}, stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    yield read_state(Home(root).services / "digits")
    child.terminate()
    assert child.wait(30) == 0


def processes(state):
    return call(state, "GET", "/model")[1]["processes"]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_killed_worker_is_replaced_and_no_request_is_lost(workers):
    before = processes(workers)
    assert all(one["ready"] for one in before) and len(before) == 2
    statuses, stop = [], threading.Event()

    def client():
        while not stop.is_set():
            statuses.append(call(workers, "POST", "/predict", ROW)[0])

    clients = [threading.Thread(target=client) for _ in range(8)]
    for one in clients:
        one.start()
    until(lambda: len(statuses) > 50)
    for one in before:
        os.kill(one["pid"], signal.SIGKILL)
    until(lambda: all(one["ready"] and one["restarts"] for one in processes(workers)))
    count = len(statuses)
    until(lambda: len(statuses) > count + 50)
    stop.set()
    for one in clients:
        one.join()

    assert set(statuses) == {200}
    assert not {one["pid"] for one in processes(workers)} & {one["pid"] for one in before}
    assert "lepton_replica_restarts_total 2" in call(workers, "GET", "/metrics")[1]


def test_a_swap_loads_new_processes_and_ends_the_old(workers):
    before = {one["pid"] for one in processes(workers)}
    assert call(workers, "PUT", "/model", {"ref": "digits@2"})[1]["model"] == "digits@2"
    assert call(workers, "POST", "/predict", ROW)[1]["model"] == "digits@2"
    assert not before & {one["pid"] for one in processes(workers)}
    for pid in before:
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))


def test_workers_listen_nowhere(workers):
    """S10: a worker has no socket but its end of an unnamed pair."""
    for one in processes(workers):
        inodes = {os.readlink(f"/proc/{one['pid']}/fd/{fd}") for fd in os.listdir(f"/proc/{one['pid']}/fd")}
        sockets = {link[8:-1] for link in inodes if link.startswith("socket:[")}
        for table in ("tcp", "tcp6", "udp", "udp6"):
            with open(f"/proc/net/{table}") as file:
                assert not sockets & {line.split()[9] for line in list(file)[1:]}
        with open("/proc/net/unix") as file:
            lines = [line.split() for line in list(file)[1:]]
        assert sockets and not [line for line in lines if line[6] in sockets and len(line) > 7], "no name to connect to"


def test_a_placement_says_how_many():
    assert (Placement().replicas, Placement(threads=3).replicas, Placement(workers=2).replicas) == (1, 3, 2)
