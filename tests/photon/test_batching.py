"""Batching by backpressure: what waits while the model is busy goes together; too much waiting is refused; nothing blocks the loop."""

import asyncio
import threading

import pytest

from leptonai.photon import batching
from leptonai.photon.batching import Batcher, Work
from leptonai.photon.http import Overloaded
from leptonai.photon.metrics import Metrics
from leptonai.photon.served import Served

from .conftest import ROW


def rows(count: int = 1, **more) -> Work:
    return Work(rows=[ROW] * count, count=count, **more)


@pytest.fixture
def gate(zoo):
    """A real served model whose next batch waits until the gate opens."""
    served = Served.load("digits@1", zoo)
    outputs, opened, sizes = served.replicas[0].model.outputs, threading.Event(), []

    def slow(columns):
        sizes.append(len(columns["p10"]))
        assert opened.wait(20)
        return outputs(columns)

    served.replicas[0].model.outputs = slow
    served.__dict__["sizes"], served.__dict__["opened"] = sizes, opened
    return served


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_waits_is_taken_together(gate):
    async def main():
        batcher = Batcher(lambda: gate, Metrics())
        first = batcher.submit(rows())
        await until(lambda: gate.sizes)  # the model is busy with it; the loop is free
        rest = [batcher.submit(rows(2)) for _ in range(30)]
        gate.opened.set()
        answers = await asyncio.gather(first, *rest)
        batcher.close()
        return answers

    answers = asyncio.run(main())
    assert gate.sizes == [1, 60]
    assert [len(answer.predictions) for answer in answers] == [1] + [2] * 30


def test_a_batch_is_bounded_and_a_large_request_goes_alone(gate):
    async def main():
        batcher = Batcher(lambda: gate, Metrics())
        waiting = [batcher.submit(rows())]
        await until(lambda: gate.sizes)
        waiting += [batcher.submit(rows(size)) for size in (1000, 24, 1, 5000, 1)]
        gate.opened.set()
        await asyncio.gather(*waiting)
        batcher.close()

    asyncio.run(main())
    assert gate.sizes == [1, 1024, 1, 5000, 1]


def test_too_much_waiting_is_refused_at_once(gate, monkeypatch):
    monkeypatch.setattr(batching, "MAX_WAITING_ROWS", 10)

    async def main():
        metrics = Metrics()
        batcher = Batcher(lambda: gate, metrics)
        waiting = [batcher.submit(rows())]
        await until(lambda: gate.sizes)
        waiting += [batcher.submit(rows(6))]
        with pytest.raises(Overloaded) as refused:
            batcher.submit(rows(6))
        gate.opened.set()
        await asyncio.gather(*waiting)
        waiting = await batcher.submit(rows(6))
        batcher.close()
        return refused.value, metrics

    error, metrics = asyncio.run(main())
    assert (error.status, error.headers) == (429, {"retry-after": "1"})
    assert metrics.refused.values == {(): 1}
    assert metrics.waiting.values == {(): 0}


def test_a_request_that_was_given_up_is_not_computed(gate):
    async def main():
        batcher = Batcher(lambda: gate, Metrics())
        first = batcher.submit(rows())
        await until(lambda: gate.sizes)
        left, stays = batcher.submit(rows(5)), batcher.submit(rows(3))
        left.cancel()
        gate.opened.set()
        await asyncio.gather(first, stays)
        batcher.close()

    asyncio.run(main())
    assert gate.sizes == [1, 3]
