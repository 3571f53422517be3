"""Paged attention: decode and chunks of prefill, any context, any grouping of heads, all kinds of cache."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leptonai.engine.ops import ref
from leptonai.engine.ops.layout import BLOCK, Batch

# fp32: order of sums. bf16: weights of the sum are rounded to bf16. int8: queries and weights to 15 bits; keys and values as in ref.
TOLERANCE = {"fp32": 2e-5, "bf16": 1e-2, "int8": 2e-3}


def filled(ops, kind, kv_heads, dim, contexts, seed=0):
    """A cache with random keys and values in scattered blocks, and the block tables."""
    torch.manual_seed(seed)
    sizes = [-(-context // BLOCK) for context in contexts]
    order = torch.randperm(sum(sizes) + 2).tolist()
    tables = [[order.pop() for _ in range(size)] for size in sizes]
    kv = ops.KVCache(2, sum(sizes) + 2, kv_heads, dim, kind)
    for context, table in zip(contexts, tables, strict=True):
        slots = torch.tensor([table[i // BLOCK] * BLOCK + i % BLOCK for i in range(context)])
        ops.store_kv(kv, 1, torch.randn(context, kv_heads, dim), torch.randn(context, kv_heads, dim), slots)
    return kv, tables


def compare(cpu, kind, heads, kv_heads, dim, sequences, window=0, seed=0):
    """Largest difference from the reference, relative to its largest value. sequences: (context, new tokens)."""
    contexts = [context for context, _ in sequences]
    results = []
    for ops in (cpu, ref):
        kv, tables = filled(ops, kind, kv_heads, dim, contexts, seed)
        batch = Batch.of([[0] * new for _, new in sequences], contexts, tables)
        torch.manual_seed(seed + 1)
        query = torch.randn(len(batch.tokens), heads, dim)
        results.append(ops.attention(query, kv, 1, batch, dim**-0.5, window))
    ours, theirs = results
    return ((ours - theirs).abs().max() / theirs.abs().max()).item() if theirs.numel() else 0.0


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.sampled_from([(1, 1), (4, 2), (8, 1), (6, 2), (9, 3)]),
    dim=st.sampled_from([8, 16, 24, 32, 64, 80, 128]),
    sequences=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), max_size=4),
    window=st.sampled_from([0, 0, 1, 33, 100]),
    seed=st.integers(0, 99),
)
def test_any_batch_gives_what_torch_gives(cpu, kind, groups, dim, sequences, window, seed):
    sequences = [(context, min(new, context)) for context, new in sequences]
    assert compare(cpu, kind, *groups, dim, sequences, window, seed) <= TOLERANCE[kind]


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_one_long_sequence_is_split_over_threads(cpu, kind):
    """Few tiles and a long context: the parts are computed apart and joined."""
    assert compare(cpu, kind, 8, 1, 64, [(5000, 1)]) <= TOLERANCE[kind]
    assert compare(cpu, kind, 40, 1, 32, [(2100, 1)], window=1500) <= TOLERANCE[kind]


def test_a_sequence_does_not_see_its_neighbours(cpu):
    """Another sequence's blocks hold NaN: nothing of them may arrive."""
    kv, tables = filled(cpu, "fp32", 2, 32, [40, 70])
    batch = Batch.of([[0], [0]], [40, 70], tables)
    query = torch.randn(2, 4, 32)
    before = cpu.attention(query, kv, 1, batch, 0.2)
    kv.keys[1, tables[1]] = torch.nan
    kv.values[1, tables[1]] = torch.nan
    after = cpu.attention(query, kv, 1, batch, 0.2)
    assert torch.equal(after[0], before[0]) and after[1].isnan().all()


def test_a_copied_block_holds_the_same(cpu):
    kv, tables = filled(cpu, "int8", 2, 64, [32])
    spare = next(block for block in range(kv.blocks) if block not in tables[0])
    query, batch = torch.randn(1, 4, 64), Batch.of([[0]], [32], tables)
    before = cpu.attention(query, kv, 1, batch, 0.1)
    kv.copy_block(tables[0][0], spare)
    assert torch.equal(cpu.attention(query, kv, 1, Batch.of([[0]], [32], [[spare]]), 0.1), before)


def test_tokens_without_a_slot_are_not_stored(cpu):
    kv = cpu.KVCache(1, 1, 2, 32, "fp32")
    cpu.store_kv(kv, 0, torch.ones(3, 2, 32), torch.ones(3, 2, 32), torch.tensor([-1, 4, -1]))
    assert kv.keys.sum().item() == 2 * 32


def test_the_cache_takes_memory_only_where_it_is_written():
    cpu = pytest.importorskip("leptonai.engine.ops.cpu")
    kv = cpu.KVCache(4, 4096, 8, 128, "bf16")
    assert kv.nbytes == 4096 * cpu.KVCache.bytes_per_block(4, 8, 128, "bf16")
    before = resident_bytes()
    cpu.KVCache(4, 8192, 8, 128, "bf16")
    assert resident_bytes() - before < 64 << 20


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
