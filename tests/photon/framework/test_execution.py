"""Slots, time-outs, cancellation, batches and limits: what happens to the work, not only to the answer."""

import asyncio
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from leptonai.photon import HandlerStopped, Photon

from .conftest import wait_for


class Slow(Photon):
    handler_timeout = 0.3

    def init(self):
        self.stopped, self.ended, self.running, self.peak = 0, threading.Event(), 0, 0

    @Photon.handler
    def loops(self):
        try:
            while True:
                time.sleep(0.005)
        except HandlerStopped:
            self.stopped += 1
            raise

    @Photon.handler
    def in_c(self):
        hashlib.pbkdf2_hmac(
            "sha256", b"x", b"y", 3_000_000
        )  # one call into C: no bytecode, no exception, for a second or more
        self.ended.set()

    @Photon.handler
    async def sleeps(self):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.stopped += 1
            raise

    @Photon.handler(timeout=5)
    def quick(self):
        self.running += 1
        self.peak = max(self.peak, self.running)
        time.sleep(0.01)
        self.running -= 1
        return "ok"

    @Photon.handler
    def swallows(self):
        try:
            while True:
                time.sleep(0.005)
        except Exception:
            return "swallowed"


@pytest.mark.parametrize("path", ["/loops", "/sleeps", "/swallows"])
def test_a_time_out_stops_the_work_and_frees_the_slot(serve, path):
    photon = Slow()
    client = serve(photon)
    late = client.post(path)
    assert (late.status_code, late.json()) == (504, {"error": "handler timeout after 0.3 seconds"})
    wait_for(lambda: photon.app.slots.in_use == 0)
    assert photon.stopped == (path != "/swallows")
    assert client.post("/quick").json() == "ok"


def test_the_slot_of_work_that_cannot_be_stopped_is_free_only_when_it_has_ended(serve):
    photon = Slow()
    client = serve(photon)
    assert client.post("/in_c").status_code == 504
    assert photon.app.slots.in_use == 1
    assert not photon.ended.is_set()
    assert client.post("/quick").json() == "ok"  # it waited for the slot
    assert photon.app.slots.in_use == 0


def test_one_semaphore_for_all_handlers(serve):
    class Two(Slow):
        handler_max_concurrency = 2

    photon = Two()
    client = serve(photon)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: client.post("/quick").json(), range(24))) == {"ok"}
    assert photon.peak <= 2


class Leaving(Photon):
    def init(self):
        self.cancelled = self.kept = 0

    @Photon.handler(cancel_on_disconnect=0.05)
    async def waits(self):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @Photon.handler(cancel_on_disconnect=0.05)
    def loops(self):
        try:
            while True:
                time.sleep(0.005)
        except HandlerStopped:
            self.cancelled += 1
            raise

    @Photon.handler(cancel_on_disconnect=0.05)
    async def quick(self, x: int):
        return x


@pytest.mark.parametrize("path", ["/waits", "/loops"])
def test_work_ends_when_its_client_has_gone(serve, path):
    photon = Leaving()
    client = serve(photon)
    with pytest.raises(httpx.ReadTimeout):
        client.post(path, timeout=0.2)
    wait_for(lambda: photon.cancelled == 1 and photon.app.slots.in_use == 0)
    assert client.post("/quick", json={"x": 3}).json() == 3


class Batched(Photon):
    handler_max_concurrency = 2

    def init(self):
        self.sizes = []

    @Photon.handler(max_batch_size=4, max_wait_time=0.1)
    def double(self, x: list[float], y: list[int] = 1) -> list[float]:
        self.sizes.append(len(x))
        return [2 * one for one in x]

    @Photon.handler(max_batch_size=2, max_wait_time=0.05)
    async def wrong(self, x: list[int]):
        return [1]


def test_requests_are_collected_to_a_size_or_a_time(serve):
    photon = Batched()
    client = serve(photon)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda x: client.post("/double", json={"x": x}).json(), range(8))) == [
            2.0 * x for x in range(8)
        ]
    assert sum(photon.sizes) == 8
    assert max(photon.sizes) > 1
    assert client.post("/double", json={"x": 5}).json() == 10  # alone, after max_wait_time
    assert client.post("/double", json={"x": "no"}).status_code == 422
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.post("/wrong", json={"x": 1}), range(2)))
    assert all("one result per request" in one.json()["error"] for one in answers if one.status_code == 500)
    assert any(one.status_code == 500 for one in answers)


def test_rate_limits(serve):
    class Limited(Photon):
        @Photon.handler(rate_limit="2/minute")
        def f(self):
            return 1

    client = serve(Limited)
    answers = [client.post("/f") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert 0 < int(answers[2].headers["retry-after"]) <= 60


class Isolated(Photon):
    handler_timeout = 20

    def init(self):
        self.calls = 0

    @Photon.handler(isolate=True)
    def pid(self, x: int):
        self.calls += 1
        print("what a handler prints is no answer")
        return {"pid": os.getpid(), "x": x, "calls": self.calls}

    @Photon.handler(isolate=True, timeout=1.5)
    def stuck(self):
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)

    @Photon.handler(isolate=True)
    def dies(self):
        os._exit(3)

    @Photon.handler(isolate=True)
    def fails(self):
        raise ValueError("as said")


def test_an_isolated_handler_is_killed_in_the_middle_of_c(serve):
    photon = Isolated()
    client = serve(photon)
    first, second = (client.post("/pid", json={"x": x}).json() for x in (1, 2))
    assert first["pid"] == second["pid"] != os.getpid()
    assert (second["x"], second["calls"]) == (2, 2)
    assert client.post("/fails").json() == {"error": "as said"}
    assert "died" in client.post("/dies").json()["error"]
    stuck = client.post("/stuck")
    assert stuck.status_code == 504
    assert photon.app.slots.in_use == 0
