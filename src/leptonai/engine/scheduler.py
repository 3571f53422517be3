"""Who computes which tokens in this step. Owns the queues and, with the block pool, which sequence holds which blocks.

There is no prefill phase: every sequence has tokens and a count of computed ones, and a step hands out one budget of tokens so that
the counts catch up. Decoding sequences first, then prompts that are under way, then new ones. When blocks run out, the last
in rank gives all of its blocks back and is computed again later (mostly from the prefix cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.errors import TooMany
from .kvcache import BLOCK, BlockPool, blocks_for
from .sequence import Sequence


@dataclass(frozen=True)
class Row:
    """tokens[start : start + count] of a sequence are computed in this step (draft tokens included), logits wanted of the last `wanted`."""

    sequence: Sequence
    start: int
    count: int
    wanted: int

    @property
    def tokens(self) -> list[int]:
        sequence = self.sequence
        known = sequence.tokens[self.start : self.start + self.count]
        return known + sequence.draft[: self.count - len(known)]

    @property
    def context(self) -> int:
        return self.start + self.count


class Scheduler:
    def __init__(self, pool: BlockPool, *, max_tokens: int, max_sequences: int, max_waiting: int):
        self.pool = pool
        self.max_tokens, self.max_sequences, self.max_waiting = max_tokens, max_sequences, max_waiting
        self.running: list[Sequence] = []
        self.waiting: dict[str, list[Sequence]] = {}  # by tenant, in order of rank
        self.served: dict[str, float] = {}  # tokens given to each tenant that has requests here
        self.preemptions = self.prefix_queries = self.prefix_hits = 0

    @property
    def waiting_count(self) -> int:
        return sum(map(len, self.waiting.values()))

    def sequences(self) -> Iterator[Sequence]:
        yield from self.running
        for queue in self.waiting.values():
            yield from queue

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises TooMany where `max_waiting` wait already."""
        if self.waiting_count >= self.max_waiting:
            raise TooMany(
                "too many requests wait for the engine", received=self.waiting_count, fix="Try again in a moment"
            )
        self.enqueue(sequence)

    def enqueue(self, sequence: Sequence) -> None:
        tenant = sequence.request.tenant
        if tenant not in self.served:
            # Who comes new, or comes back, begins level with the least served: waiting saves up no credit.
            self.served[tenant] = min(self.served.values(), default=0.0)
        queue = self.waiting.setdefault(tenant, [])
        queue.append(sequence)
        queue.sort(key=lambda waiting: waiting.rank)

    def next_waiting(self) -> Sequence | None:
        """Of the most urgent first ones, that of the tenant who was given least."""
        heads = [queue[0] for queue in self.waiting.values() if queue]
        return min(heads, key=lambda s: (s.request.priority, self.served[s.request.tenant], s.order), default=None)

    def remove(self, sequence: Sequence) -> None:
        """The sequence is over: its blocks are free at once. Those others may use stay findable."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.dequeue(sequence)
        self.release(sequence)
        tenant = sequence.request.tenant
        if not any(other.request.tenant == tenant for other in self.sequences()):
            self.served.pop(tenant, None)

    def dequeue(self, sequence: Sequence) -> None:
        tenant = sequence.request.tenant
        self.waiting[tenant].remove(sequence)
        if not self.waiting[tenant]:
            del self.waiting[tenant]

    def release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.table)
        sequence.table, sequence.computed, sequence.published, sequence.draft = [], 0, 0, []

    def schedule(self) -> list[Row]:
        """The rows of the next step; blocks for them are held when this returns."""
        rows: dict[Sequence, Row] = {}
        budget = self.max_tokens
        # Rank order makes preemption take from who comes later; decode before prefill keeps the streams flowing.
        for sequence in sorted(self.running, key=lambda s: (not s.decoding, *s.rank)):
            if budget <= 0:
                break
            if sequence in self.running and (row := self.advance(sequence, budget, rows)):
                rows[sequence] = row
                budget -= row.count
        while budget > 0 and len(self.running) < self.max_sequences and (sequence := self.next_waiting()):
            row = self.admit(sequence, budget)
            if row is None:
                break
            rows[sequence] = row
            budget -= row.count
        for row in rows.values():
            self.served[row.sequence.request.tenant] += row.count
        return list(rows.values())

    def advance(self, sequence: Sequence, budget: int, rows: dict[Sequence, Row]) -> Row | None:
        """A row for a running sequence, preempting whom it must; None if it was preempted itself or must wait a step."""
        if sequence.decoding:
            sequence.draft = sequence.draft[: min(budget, sequence.limit - len(sequence.tokens)) - 1]
        else:
            sequence.draft = []
        count = min(sequence.remaining + len(sequence.draft), budget)
        while (missing := blocks_for(sequence.computed + count) - len(sequence.table)) > 0:
            blocks = self.pool.allocate(missing)
            if blocks is not None:
                sequence.table += blocks
                break
            if sequence.draft:
                count, sequence.draft = 1, []
                continue
            victim = max(self.running, key=lambda s: s.rank)
            if victim in rows:
                # It is later in rank and already in this step: its blocks are written to, so this one waits instead.
                others = [s for s in self.running if s not in rows]
                victim = max(others, key=lambda s: s.rank)
            self.preempt(victim)
            if victim is sequence:
                return None
        return self.row(sequence, count)

    def row(self, sequence: Sequence, count: int) -> Row:
        finishes = sequence.computed + count >= len(sequence.tokens)
        wanted = count if sequence.wants_all_logits else (1 + len(sequence.draft)) * finishes
        return Row(sequence, sequence.computed, count, wanted)

    def preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self.release(sequence)
        self.enqueue(sequence)

    def admit(self, sequence: Sequence, budget: int) -> Row | None:
        """Let a waiting sequence run if its next tokens find blocks now, beside what the running ones will soon need."""
        # At least one token is computed, so that there are logits to choose from.
        full = (len(sequence.tokens) - 1) // BLOCK
        reads = not sequence.wants_all_logits and not sequence.embedding_only
        hits = self.pool.match(sequence.block_keys(full)) if reads else []
        computed = len(hits) * BLOCK
        count = min(len(sequence.tokens) - computed, budget)
        needed = blocks_for(computed + count) - len(hits)
        # The whole prompt must fit beside what the running ones still need: admitting one only to preempt it costs its prefill.
        whole = blocks_for(len(sequence.tokens)) - len(hits)
        spoken_for = sum(max(1, blocks_for(len(other.tokens)) - len(other.table)) for other in self.running)
        if whole + self.pool.cost(hits) + spoken_for > self.pool.free:
            return None
        self.pool.take(hits)
        sequence.table = [*hits, *(self.pool.allocate(needed) or [])]
        sequence.computed, sequence.published = computed, len(hits)
        if not sequence.said_first:
            sequence.cached_tokens = computed
        if reads:
            self.prefix_queries += len(sequence.tokens)
            self.prefix_hits += computed
        self.dequeue(sequence)
        self.running.append(sequence)
        return self.row(sequence, count)

    def computed(self, row: Row, kept: int) -> None:
        """`kept` tokens of the row are now in the cache for good (drafts that were refused are not)."""
        sequence = row.sequence
        sequence.computed = row.start + kept
        full = sequence.computed // BLOCK
        keys = sequence.block_keys(full)
        for index in range(sequence.published, full):
            self.pool.publish(sequence.table[index], keys[index])
        sequence.published = max(sequence.published, full)
        # Blocks that only held refused drafts go back.
        extra = sequence.table[blocks_for(max(sequence.computed, 1)) :]
        if extra:
            del sequence.table[-len(extra) :]
            self.pool.release(extra)

    def check(self) -> None:
        self.pool.check(sequence.table for sequence in self.sequences())
