"""Runs handlers. Owns the slots: one is taken before a handler begins and given back when its work has really ended, not before.

Asynchronous work is cancelled. Synchronous work runs in a thread, and is stopped by an exception raised in it: Python delivers that
between two bytecodes, so a long call into C keeps its slot until it returns (its client has its 504 by then); `isolate=True` is for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any


class HandlerStopped(BaseException):
    """Raised inside a synchronous handler that has to end: its time is over, or its client has gone.

    No Exception, so that `except Exception` of a handler does not swallow it."""


class Late(Exception):
    """The handler did not end in time; `seconds` is what it had."""

    def __init__(self, seconds: float):
        super().__init__(f"handler timeout after {seconds:g} seconds")
        self.seconds = seconds


class _Job:
    __slots__ = ("args", "call", "context", "done", "ended", "ident", "lock", "loop", "stopped")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, call: Callable, args: dict[str, Any], ended: Callable[[], None]
    ):
        self.loop, self.call, self.args, self.ended = loop, call, args, ended
        self.done: asyncio.Future = loop.create_future()
        self.context = contextvars.copy_context()
        self.lock = threading.Lock()
        self.ident: int | None = None
        self.stopped = False

    def stop(self) -> None:
        """Raise HandlerStopped in the thread, if the work goes on."""
        with self.lock:
            self.stopped = True
            if self.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(HandlerStopped))

    def finish(self, value: Any, error: BaseException | None) -> None:
        """In the loop: the slot first, then the answer, for whoever still waits."""
        self.ended()
        if not self.done.done():
            if error is None:
                self.done.set_result(value)
            else:
                self.done.set_exception(error)


class Threads:
    """Daemon threads that take jobs in order; made when all are busy, at most as many as there are slots."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.idle = 0
        self.lock = threading.Lock()

    def submit(self, job: _Job) -> None:
        with self.lock:
            if self.idle:
                self.idle -= 1
            else:
                threading.Thread(target=self._work, name="photon-handler", daemon=True).start()
        self.jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self.jobs.get()
            value, error = None, None
            try:
                with job.lock:
                    if not job.stopped:
                        job.ident = threading.get_ident()
                if job.ident is not None:
                    value = job.context.run(job.call, **job.args)
                with job.lock:
                    job.ident = None
            except BaseException as raised:
                error = raised
            stopped = job.stopped
            if not stopped:
                with self.lock:
                    self.idle += 1
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                job.loop.call_soon_threadsafe(job.finish, value, _carried(error))
            if stopped:
                return  # the exception may still be on its way into this thread: it does not take another job


def _carried(error: BaseException | None) -> BaseException | None:
    """StopIteration cannot be raised into a future; HandlerStopped is nobody's error."""
    if isinstance(error, StopIteration | HandlerStopped):
        return RuntimeError(f"the handler raised {type(error).__name__}")
    return error


class Slots:
    """`count` handlers at once over all handlers of a photon. `in_use` counts those whose work has not ended."""

    def __init__(self, count: int):
        self.count = max(1, int(count))
        self.semaphore = asyncio.Semaphore(self.count)
        self.threads = Threads()
        self.in_use = 0

    async def take(self) -> None:
        await self.semaphore.acquire()
        self.in_use += 1

    def give_back(self) -> None:
        self.in_use -= 1
        self.semaphore.release()

    async def run_async(self, call: Callable[..., Awaitable], args: dict[str, Any], timeout_s: float) -> Any:
        await self.take()
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await call(**args)
        except TimeoutError:
            if limit.expired():
                raise Late(timeout_s) from None
            raise
        finally:
            self.give_back()

    async def run_sync(self, call: Callable, args: dict[str, Any], timeout_s: float) -> Any:
        """Ends early with Late, or when it is cancelled; the slot stays taken until the thread has left the handler."""
        await self.take()
        loop = asyncio.get_running_loop()
        job = _Job(loop, call, args, self.give_back)
        self.threads.submit(job)
        timer = loop.call_later(timeout_s, _expire, job, timeout_s)
        try:
            return await job.done
        except asyncio.CancelledError:
            job.stop()
            raise
        finally:
            timer.cancel()


def _expire(job: _Job, timeout_s: float) -> None:
    if not job.done.done():
        job.done.set_exception(Late(timeout_s))
        job.stop()


async def until_disconnect(work: Awaitable, receive: Callable, poll_s: float) -> Any:
    """The result of `work`; where the client goes first, the work is cancelled within `poll_s` and ConnectionResetError raised."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        while not task.done():
            await asyncio.wait({task, gone}, timeout=poll_s, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                raise ConnectionResetError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(receive: Callable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
