"""Worker: a photon whose work waits in a queue. A task that was accepted is done, also when the process that had it was killed.

A record in the KV says where a task stands; the queue says that somebody should look. Who works on a task renews its record; a task
whose record is stale is queued again under its next attempt number, and messages of older attempts mean nothing then.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
import uuid
from typing import Any, ClassVar

from starlette.exceptions import HTTPException

from ..state.kv import KV
from ..state.queue import Empty, Queue
from .framework.photon import Photon

CREATED, RUNNING, SUCCESS, FAILED = "CREATED", "RUNNING", "SUCCESS", "FAILED"


class Worker(Photon):
    """Override `on_task(task_id, payload)`; what it returns is the task's result where `save_result` is set."""

    worker_max_concurrency: ClassVar[int] = 1
    queue_empty_sleep_time: ClassVar[float] = 1.0
    save_result: ClassVar[bool] = True
    handler_max_concurrency = 16
    lease_s: ClassVar[float] = 30.0
    """A task whose worker has not been heard of for so long is given to another."""
    max_attempts: ClassVar[int] = 3
    queue_name: ClassVar[str | None] = None
    kv_name: ClassVar[str | None] = None

    def on_task(self, task_id: str, payload: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no on_task(self, task_id, payload)")

    def _call_init_once(self) -> None:
        started = self._init_called
        super()._call_init_once()
        with self._init_lock:
            if not started and not hasattr(self, "_threads"):
                self._start()

    def _start(self) -> None:
        self._queue = Queue(self.queue_name or f"{self._photon_name}-tasks")
        self._kv = KV(self.kv_name or f"{self._photon_name}-tasks")
        loops = [self._work] * self.worker_max_concurrency + [self._look_after]
        self._threads = [threading.Thread(target=loop, daemon=True, name="photon-worker") for loop in loops]
        for thread in self._threads:
            thread.start()

    @Photon.handler("task", example={"payload": {"n": 3}})
    def create_task(self, payload: Any = None) -> dict[str, str]:
        """Accept a task; it is stored when this answers."""
        task_id = uuid.uuid4().hex
        self._write(task_id, {"status": CREATED, "payload": payload, "attempt": 1, "at": time.time()})
        self._queue.send(f"{task_id}:1")
        return {"task_id": task_id, "status": CREATED}

    @Photon.handler("task/{task_id}", method="GET")
    def get_task(self, task_id: str) -> dict[str, Any]:
        """Where a task stands: CREATED, RUNNING, SUCCESS or FAILED."""
        record = self._read(task_id)
        if record is None:
            raise HTTPException(404, f"there is no task {task_id}")
        return {"task_id": task_id} | {
            key: record[key] for key in ("status", "result", "error", "attempt") if key in record
        }

    def _read(self, task_id: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._kv.get(f"task/{task_id}"))
        except (KeyError, ValueError):
            return None

    def _write(self, task_id: str, record: dict[str, Any]) -> None:
        self._kv.put(f"task/{task_id}", json.dumps(record))

    def _work(self) -> None:
        while True:
            try:
                task_id, _, attempt = self._queue.receive().partition(":")
            except Empty:
                time.sleep(self.queue_empty_sleep_time)
                continue
            except Exception:
                traceback.print_exc(file=sys.stderr)
                time.sleep(self.queue_empty_sleep_time)
                continue
            record = self._read(task_id)
            if record is not None and record["status"] in (CREATED, RUNNING) and str(record["attempt"]) == attempt:
                self._do(task_id, record)

    def _do(self, task_id: str, record: dict[str, Any]) -> None:
        done = threading.Event()
        record |= {"status": RUNNING, "at": time.time()}
        self._write(task_id, record)
        beat = threading.Thread(target=self._renew, args=(task_id, record, done), daemon=True)
        beat.start()
        try:
            result = self.on_task(task_id, record["payload"])
            end = {"status": SUCCESS, **({"result": result} if self.save_result else {})}
            json.dumps(end)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            end = {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
        done.set()
        beat.join()
        try:
            self._write(task_id, {**record, **end, "at": time.time()})
        except ValueError as error:  # a result over the KV's size
            self._write(task_id, {**record, "status": FAILED, "error": f"the result cannot be kept: {error}"})

    def _renew(self, task_id: str, record: dict[str, Any], done: threading.Event) -> None:
        while not done.wait(self.lease_s / 3):
            self._write(task_id, {**record, "at": time.time()})

    def _look_after(self) -> None:
        """Give tasks whose worker died to another. Several may look: equal messages are one message."""
        while True:
            try:
                self._requeue_stale()
            except Exception:
                traceback.print_exc(file=sys.stderr)
            time.sleep(self.lease_s / 3)

    def _requeue_stale(self) -> None:
        cursor: Any = 0
        while True:
            page = self._kv.keys(cursor=cursor, prefix="task/")
            for key in page["keys"]:
                self._requeue(key.removeprefix("task/"))
            cursor = page["cursor"]
            if not cursor:
                return

    def _requeue(self, task_id: str) -> None:
        record = self._read(task_id)
        if record is None or record["status"] not in (CREATED, RUNNING) or record["at"] > time.time() - self.lease_s:
            return
        if record["status"] == CREATED and self._queue.length():
            return  # it waits in the queue, not for a dead worker
        if record["attempt"] >= self.max_attempts:
            return self._write(
                task_id, {**record, "status": FAILED, "error": f"its worker died {record['attempt']} times"}
            )
        again = {**record, "status": CREATED, "attempt": record["attempt"] + 1, "at": time.time()}
        self._write(task_id, again)
        self._queue.send(f"{task_id}:{again['attempt']}")
