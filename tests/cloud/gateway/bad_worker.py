"""A worker with one known defect, for the tests of the tests: `python bad_worker.py DEFECT --folder … --port …`."""

import os
import sys

from leptonai.base.errors import DiskFull
from leptonai.cloud.gateway import admission, dispatcher, exchange, front, gateway, heads, link, routing, usage, worker
from leptonai.cloud.gateway.table import Table


def never_tries_again():
    """A replica that cannot be reached fails the request, although others are there."""

    def give_up(self, exchange):
        self.gateway.fail(exchange, 502, "Unavailable", "")

    dispatcher.Dispatcher.try_again = give_up


def always_tries_again():
    """A POST whose replica died is sent once more."""
    exchange.Exchange.may_send_again = lambda self: True


def has_no_patience():
    """A replica that is being replaced is not waited for."""
    dispatcher.REACH_S = 0.0


def skips_the_drain():
    async def drain(self, timeout_s):
        for one in list(self.fronts):
            one.abort()

    gateway.Gateway.drain = drain


def keeps_facts_in_memory():
    """Facts reach the segment when it is sealed, not when the answer leaves."""
    put, seal, held = usage.Segment.put, usage.Segment.seal, {}

    def put_later(self, line):
        held.setdefault(self, []).append(line)
        self.lines += 1

    def seal_all(self):
        for line in held.pop(self, ()):
            put(self, line)
        seal(self)

    usage.Segment.put, usage.Segment.seal = put_later, seal_all


def answers_before_it_records():
    finish_with = usage.Spool.add

    def add_later(self, *values):
        import asyncio

        asyncio.get_running_loop().call_later(0.2, finish_with, self, *values)

    usage.Spool.add = add_later


def serves_what_it_cannot_record():
    """On a full disk requests go on and their facts are forgotten."""
    usage.Spool.ready = True

    def add(self, *values):
        self._facts += 1
        line = self._encode(usage.Fact(f"{self._current.name}-{self._facts}", *values))
        if self._current.end + len(line) < usage.SEGMENT_BYTES or self._turn():
            self._current.put(line)

    usage.Spool.add = add


def uses_draining_replicas():
    apply = routing.RevisionState.apply

    def apply_all(self, revision):
        apply(self, revision)
        for one in self.replicas.values():
            one.draining = False

    routing.RevisionState.apply = apply_all


def reads_on_for_slow_clients():
    front.Front.pause_writing = lambda self: None


def lets_replicas_work_for_nobody():
    """The connection to the replica stays open when the client is gone."""

    def drop(self, exchange, status):
        if exchange is not None:
            exchange.status = status
            self.finish(exchange)

    receive = link.Link.data_received

    def swallow(self, data):
        if self.exchange is not None and not self.exchange.finished:
            receive(self, data)

    gateway.Gateway.drop, link.Link.data_received = drop, swallow


def believes_the_length():
    """Of a length and chunks it takes the length."""
    check = heads._check_request

    def lenient(request, seen, connection):
        if seen & 1 << heads.LENGTH:
            seen &= ~(1 << heads.ENCODING)
        check(request, seen, connection)

    heads._check_request = lenient


def takes_the_last_credential():
    parse = heads.parse_request

    def lenient(head):
        lines = head.split(b"\r\n")
        credentials = [line for line in lines if line.lower().startswith(b"authorization:")]
        return parse(b"\r\n".join(line for line in lines if line not in credentials[:-1]))

    front.parse_request = lenient


def serves_who_came_first():
    """Where there is no room, slow clients keep theirs."""

    def welcome(self, one):
        self.fronts.add(one)
        return len(self.fronts) <= self.max_connections

    gateway.Gateway.welcome = welcome


def counts_for_itself():
    """Each worker has limits of its own."""
    limits = worker.SharedLimits
    worker.SharedLimits = lambda path: limits(path.with_name(f"limits-{os.getpid()}"))


def keeps_every_exchange():
    finish, kept = gateway.Gateway.finish, []

    def finish_and_keep(self, one):
        kept.append((one, bytes(500)))
        finish(self, one)

    gateway.Gateway.finish = finish_and_keep


def loses_connections():
    """Links are neither used again nor closed."""
    kept = []
    dispatcher.Dispatcher.keep = lambda self, one: kept.append(one)


def forgets_routes_it_cannot_read():
    look = worker._Routes.look

    def look_or_clear(self):
        before, self.gateway.wake = self.gateway.wake, _Flag()
        look(self)
        read, self.gateway.wake = self.gateway.wake.was_set, before
        mark = self._seen
        if mark != getattr(self, "mark", None) and not read:
            self.gateway.apply(Table())
        self.mark = mark

    worker._Routes.look = look_or_clear


class _Flag:
    was_set = False

    def set(self):
        self.was_set = True


def forgets_the_disk_is_full():
    """A segment that cannot be made ends the worker."""

    def die(self):
        try:
            return usage.Segment(self.folder)
        except (OSError, DiskFull):
            os._exit(1)

    usage.Spool.prepare = die


def lets_every_caller_in():
    admission.caller_of = lambda routing, endpoint, request, client: ("nobody", None)


if __name__ == "__main__":
    globals()[sys.argv.pop(1)]()
    worker.main()
