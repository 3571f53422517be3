"""The block pool and the scheduler under random use: nothing is lost, doubled or shared by accident."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from leptonai.engine.backend import GenRequest
from leptonai.engine.kvcache import BLOCK, BlockPool, blocks_for, chain, root
from leptonai.engine.params import SamplingParams
from leptonai.engine.scheduler import Scheduler
from leptonai.engine.sequence import Sequence


class Life(RuleBasedStateMachine):
    """Requests come, run, are aborted and preempted; a token of every step is chosen by the machine. Blocks are followed by what they hold."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(12)
        self.scheduler = Scheduler(self.pool, max_tokens=48, max_sequences=4, max_waiting=100)
        self.alive: dict[str, Sequence] = {}
        self.count = 0
        self.content: dict[int, tuple] = {}  # block -> (tenant, tokens before and in it), as far as written

    @rule(
        tenant=st.sampled_from(["a", "b"]),
        kind=st.integers(0, 2),
        length=st.integers(1, 200),
        priority=st.integers(0, 1),
        answer=st.integers(1, 80),
    )
    def submit(self, tenant, kind, length, priority, answer):
        self.count += 1
        tokens = [kind] * length  # few kinds: prefixes are met often
        request = GenRequest(
            id=str(self.count),
            prompt_token_ids=tokens,
            tenant=tenant,
            priority=priority,
            params=SamplingParams(max_tokens=answer),
        )
        sequence = Sequence.of(request, min(length + answer, 12 * BLOCK), self.count)
        self.scheduler.add(sequence)
        self.alive[request.id] = sequence

    @rule(data=st.data())
    def abort(self, data):
        if self.alive:
            self.scheduler.remove(self.alive.pop(data.draw(st.sampled_from(sorted(self.alive)))))

    @rule(data=st.data())
    def preempt(self, data):
        if self.scheduler.running:
            self.scheduler.preempt(data.draw(st.sampled_from(self.scheduler.running)))

    @rule(draft=st.integers(0, 5), good=st.integers(0, 5), token=st.integers(0, 2))
    def step(self, draft, good, token):
        for sequence in self.scheduler.running:
            if sequence.decoding:
                sequence.draft = [token] * draft
        rows = self.scheduler.schedule()
        assert sum(row.count for row in rows) <= 48 and all(row.count > 0 for row in rows)
        assert bool(rows) == bool(self.alive), "somebody always gets on"
        for row in rows:
            self.write(row)
        for row in rows:
            sequence, known = row.sequence, len(row.sequence.tokens)
            if row.context < known:
                self.scheduler.computed(row, row.count)
                continue
            taken = 1 + min(good, len(sequence.draft))
            sequence.tokens += [token] * taken
            sequence.draft = []
            self.scheduler.computed(row, known - row.start + taken - 1)
            if len(sequence.tokens) >= sequence.limit:
                self.scheduler.remove(self.alive.pop(sequence.id))

    def write(self, row):
        """What a forward pass does, and what it would read."""
        sequence = row.sequence
        tokens = sequence.tokens + sequence.draft
        assert len(sequence.table) == blocks_for(row.context)
        for place in range(row.start, row.context):
            block = sequence.table[place // BLOCK]
            assert self.pool.references[block] == 1, "nobody writes into what others read"
            self.content[block] = (sequence.request.tenant, tuple(tokens[: place + 1]))
        for i, block in enumerate(sequence.table):
            tenant, held = self.content[block]
            upto = min((i + 1) * BLOCK, row.context)
            assert (tenant, held[:upto]) == (sequence.request.tenant, tuple(tokens[:upto])), "it reads its own past"

    @invariant()
    def whole(self):
        self.scheduler.check()
        assert {s.id for s in self.scheduler.sequences()} == set(self.alive)

    def teardown(self):
        for sequence in self.alive.values():
            self.scheduler.remove(sequence)
        self.scheduler.check()
        assert self.pool.used == 0


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


def scheduler(blocks=64, **limits):
    return Scheduler(BlockPool(blocks), **{"max_tokens": 64, "max_sequences": 8, "max_waiting": 1000, **limits})


def sequence(order, *, tenant="", priority=0, length=8):
    request = GenRequest(id=str(order), prompt_token_ids=[order] * length, tenant=tenant, priority=priority)
    return Sequence.of(request, length + 50, order)


def test_decoding_goes_before_prompts():
    found = scheduler(max_tokens=16)
    decoding = sequence(1)
    found.add(decoding)
    (row,) = found.schedule()
    found.computed(row, row.count)
    decoding.tokens.append(0)
    for order in (2, 3):
        found.add(sequence(order, length=100))
    rows = found.schedule()
    assert [(row.sequence.order, row.count) for row in rows] == [(1, 1), (2, 15)]


def test_a_tenant_with_many_requests_does_not_hold_up_another():
    found = scheduler(max_sequences=1, max_tokens=8)
    for order in range(1, 6):
        found.add(sequence(order, tenant="many"))
    found.add(sequence(9, tenant="one"))
    served = []
    for _ in range(3):
        (row,) = found.schedule()
        served.append(row.sequence.request.tenant)
        found.remove(row.sequence)
    assert served[:2] == ["many", "one"]


def test_smaller_priorities_are_first_and_preempt_nobody_of_their_own():
    found = scheduler(max_sequences=1, max_tokens=8)
    found.add(sequence(1, priority=5))
    found.add(sequence(2, priority=-1))
    assert found.schedule()[0].sequence.order == 2


def test_the_block_unused_for_longest_is_given_away_first():
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    keys = [chain(root("", None), [1] * BLOCK), chain(root("", None), [2] * BLOCK)]
    pool.publish(first, keys[0])
    pool.publish(second, keys[1])
    pool.release([first])
    pool.release([second])
    pool.take(pool.match(keys[:1]))  # first is used again
    pool.release([first])
    assert pool.allocate(1) == [second]
    assert pool.match(keys[:1]) == [first] and pool.match(keys[1:]) == []


def test_roots_are_told_apart():
    names = ["", "a", "+a", "a+"]
    roots = {root(tenant, adapter) for tenant in names for adapter in (None, *names)}
    assert len(roots) == len(names) * (len(names) + 1)
