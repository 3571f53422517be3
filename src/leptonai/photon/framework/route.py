"""One handler as the server calls it: bytes in, answer out. Owns its decoder, its numbers and how its work is run."""

from __future__ import annotations

import functools
import inspect
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from ..metrics import LATENCY_BUCKETS
from .arguments import Arguments
from .batching import Collector
from .execution import Slots, until_disconnect
from .handler import Options, plain_function, route_path
from .rates import Rate
from .results import Plain, answer_of, json_answer, response_class_of

if TYPE_CHECKING:
    from .photon import Photon


class Numbers:
    """Counts of one route: answers by status, latencies by bucket. Plain ints, written by the loop's thread only."""

    __slots__ = ("buckets", "statuses", "total_s")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.total_s = 0.0

    def add(self, status: int, seconds: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.total_s += seconds


class Route:
    """`call(body, query, path, receive)` gives a Plain or a Starlette response; it raises what the handler raises, Late or Invalid."""

    def __init__(self, photon: Photon, name: str, options: Options, slots: Slots):
        function = plain_function(type(photon), name)
        self.name, self.options, self.slots = name, options, slots
        self.path, self.method = route_path(name, options), options.method
        self.function = function
        self.doc = inspect.getdoc(function) or ""
        self.arguments = Arguments(function, batched=options.batched)
        self.response_class = response_class_of(self.arguments.result)
        self.timeout_s = float(options.timeout if options.timeout is not None else photon.handler_timeout)
        self.rate = Rate(options.rate_limit) if options.rate_limit else None
        bound = functools.partial(function, photon)
        run = slots.run_async if inspect.iscoroutinefunction(function) else slots.run_sync
        if options.isolate:
            from .isolated import Isolated

            self.isolated = Isolated(type(photon), name)
            bound, run = self.isolated.call, slots.run_async
        self._run = lambda arguments: run(bound, arguments, self.timeout_s)
        self._collector = (
            Collector(self._run, options.max_batch_size or 0, options.max_wait_time or 0) if options.batched else None
        )

    async def call(self, body: bytes, query: dict[str, list[str]], path: dict[str, str], receive: Any) -> Any:
        if self.rate is not None and (wait_s := self.rate.wait_s()):
            seconds = b"%d" % max(1, round(wait_s))
            return json_answer(
                {"error": f"rate limit of {self.options.rate_limit} exceeded"}, 429, ((b"retry-after", seconds),)
            )
        if self.method == "GET":
            arguments = self.arguments.from_query(query, path)
        elif path:
            arguments = self.arguments.from_values({**_object(body), **path}, "body")
        else:
            arguments = self.arguments.from_json(body)
        work = self._run(arguments) if self._collector is None else self._collector.submit(arguments)
        poll_s = self.options.cancel_on_disconnect
        if poll_s is not None:
            try:
                value = await until_disconnect(work, receive, poll_s)
            except ConnectionResetError:
                return json_answer({"error": "the client disconnected"}, 503)
        else:
            value = await work
        return value if type(value) is Plain else answer_of(value, self.response_class)


def _object(body: bytes) -> dict[str, Any]:
    import msgspec

    try:
        value = msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = {}
    return value if isinstance(value, dict) else {}
