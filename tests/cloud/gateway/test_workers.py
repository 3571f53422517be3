"""Two workers on one port under load, each killed in turn: the other goes on, the killed one comes back, no answer is unrecorded."""

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

pytest.importorskip("sqlalchemy")

from leptonai.base.home import Home
from leptonai.cloud.gateway.usage import collect
from leptonai.cloud.workers import Workers

from .conftest import TOKEN, Cloud, wait_for

RATE, CONNECTIONS = 200, 20
TIMEOUT_S = 10.0
HEAD = f"GET /ws/echo/sleep?s=0.01 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()


@dataclass
class Load:
    """Requests at a steady rate over kept connections. A worker is known by the first part of the request ids that it gives."""

    port: int
    sent: int = 0
    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Which worker each failed request was at; "" if its connection had had no answer yet."""
    stop: bool = False

    async def run(self) -> None:
        began = time.monotonic()
        await asyncio.gather(*(self._client(began + number / RATE) for number in range(CONNECTIONS)))

    async def _client(self, due: float) -> None:
        reader = writer = None
        worker = ""
        while not self.stop:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += CONNECTIONS / RATE
            if (
                writer is None or reader.at_eof() or writer.is_closing()
            ):  # closed while it was idle: no request was on it
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                worker = ""
            self.sent += 1
            try:
                writer.write(HEAD)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200"), head
                await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            except (asyncio.IncompleteReadError, ConnectionError):
                self.failed.append(worker)
                writer.close()
                writer = None
                continue
            request_id = head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
            worker = request_id.partition("-")[0]
            self.answered.append(request_id)
        if writer is not None:
            writer.close()


async def kill_in_turn(cloud: Cloud, load: Load, kills: int) -> list[int]:
    """Kill one worker after the other while the load runs, each when both have answered; the pids that were killed."""
    running, killed = asyncio.create_task(load.run()), []
    try:
        for number in range(kills):
            name = f"w{number % 2}"
            await until(lambda: len({one.worker for one in alive(cloud, killed)}) == 2, "two workers")
            start = len(load.answered)
            await until(lambda start=start: len(load.answered) > start + 100, "a hundred answers")
            killed.append(next(one.pid for one in alive(cloud, killed) if one.worker == name))
            os.kill(killed[-1], signal.SIGKILL)
        await until(lambda: len({one.worker for one in alive(cloud, killed)}) == 2, "the killed worker")
        fresh = Load(load.port)  # its connections are new, so both workers get some
        second = asyncio.create_task(fresh.run())
        await until(lambda: len({one.partition("-")[0] for one in fresh.answered}) == 2, "answers of both workers")
        fresh.stop = True
        await second
        load.answered += fresh.answered
    finally:
        load.stop = True
        await running
    return killed


def alive(cloud: Cloud, killed: list[int]) -> list:
    return [one for one in cloud.traffic().reports if one.pid not in killed and one.table == cloud.version]


async def until(condition, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {TIMEOUT_S} s"
        await asyncio.sleep(0.01)


@pytest.fixture
def pair(tmp_path):
    """Two workers as `lep up` runs them, in front of two replicas."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cloud = Cloud(tmp_path / "cloud", port, start=False)
    cloud.supervisor = Workers(Home(tmp_path), 2, "127.0.0.1", port)
    cloud.serve(cloud.replica("a"), cloud.replica("b"), wait=False)
    cloud.supervisor.start()
    wait_for(lambda: len(alive(cloud, [])) == 2, what="two workers")
    yield cloud
    cloud.supervisor.stop()
    cloud.close()


def only_what_was_in_flight_at_a_killed_worker_fails(cloud: Cloud, kills: int) -> None:
    load = Load(cloud.port)
    began = time.monotonic()
    killed = asyncio.run(kill_in_turn(cloud, load, kills))
    planned = RATE * (time.monotonic() - began)
    cloud.supervisor.stop()
    wait_for(lambda: not any(os.path.exists(f"/proc/{one.pid}") for one in alive(cloud, killed)), what="the end")
    facts: Counter = Counter()
    collect(cloud.folder / "usage", lambda some: facts.update(fact.request_id for fact in some if fact.status == 200))
    workers = Counter(request_id.partition("-")[0] for request_id in load.answered)
    print(
        f"{len(killed)} kills: {load.sent} of {planned:.0f} planned, {dict(Counter(load.failed))} failed, answers per worker {dict(workers)}"
    )
    assert load.sent >= 0.8 * planned, "void: the load was not there"
    assert len(workers) >= kills + 1, "each killed one had answered, and so has the other"
    assert len(load.failed) <= kills * CONNECTIONS
    survivors = {request_id.partition("-")[0] for request_id in load.answered[-100:]}
    assert not survivors & set(load.failed), "a worker that was not killed failed no request"
    assert not [one for one in load.answered if facts[one] != 1], "every answer is a fact, once"


def test_a_killed_worker_takes_only_its_own_requests_with_it(pair):
    only_what_was_in_flight_at_a_killed_worker_fails(pair, 4)


@pytest.mark.slow
def test_twenty_kills(pair):
    only_what_was_in_flight_at_a_killed_worker_fails(pair, 20)


def test_a_supervisor_that_brings_nothing_back_is_found(pair, monkeypatch):
    monkeypatch.setattr(Workers, "_ensure", lambda self, name: None)
    monkeypatch.setitem(globals(), "TIMEOUT_S", 3.0)
    with pytest.raises(AssertionError, match="did not come"):
        only_what_was_in_flight_at_a_killed_worker_fails(pair, 1)
