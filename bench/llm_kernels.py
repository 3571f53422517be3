"""Linear layers of the LLM engine on the CPU, against what the machine can do and what torch has.

usage: python -m bench.llm_kernels [--quick] [--size 4096]

One layer of size x size in turn over copies that together are far larger than the caches, as in a model. Minimum of many short runs, so
that a busy machine shows its silicon rather than its neighbours. Share of bandwidth: bytes of packed weights over the read probe (the best
of runs spread over the whole bench, since neighbours take bandwidth too). Share of peak: operations over int8 products on registers alone.
Peers inside torch: bf16 `F.linear`, int8 `onednn.qlinear_pointwise` (activations already quantised), int4 `_weight_int4pack_mm`.
Then attention over cached tokens and the choice of a token, per step of Qwen3-0.6B's shape at 32 sequences.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator

import torch

from leptonai.engine.ops import cpu, native
from leptonai.engine.ops.layout import Batch

from .common import save, show

ROWS = (1, 8, 16, 32, 256)
CACHES = 256 << 20  # bytes that the copies of a layer take together


def fastest(calls: Iterator[Callable[[], object]]) -> float:
    """Seconds of the fastest call."""
    best = float("inf")
    for call in calls:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def in_turn(
    layers: list[Callable[[torch.Tensor], object]], x: torch.Tensor, budget_s: float
) -> Iterator[Callable[[], object]]:
    """Calls on one layer after the other until the budget is spent, each layer at least once."""
    end = time.perf_counter() + budget_s
    done = 0
    while done < len(layers) or time.perf_counter() < end:
        layer = layers[done % len(layers)]
        yield lambda layer=layer: layer(x)
        done += 1


class Machine:
    """Read bandwidth and int8 products: the best of all probes so far."""

    def __init__(self) -> None:
        self.memory = cpu.pages(CACHES).fill_(1)
        self.bytes_per_s = self.operations_per_s = 0.0

    def probe(self) -> None:
        library = native.library()
        for _ in range(3):
            took = fastest(iter([lambda: library.lep_read_probe(self.memory.data_ptr(), CACHES)]))
            self.bytes_per_s = max(self.bytes_per_s, CACHES / took)
            begin = time.perf_counter()
            operations = library.lep_multiply_probe(100_000)
            self.operations_per_s = max(self.operations_per_s, operations / (time.perf_counter() - begin))


def ours(weight: torch.Tensor, kind: str) -> tuple[list[Callable], int]:
    layer = cpu.pack_linear(weight, kind)
    copies = [layer]
    for _ in range(CACHES // layer.data.nbytes):
        copy = cpu.PackedLinear(kind, layer.n, layer.k, group=layer.group)
        copy.data.copy_(layer.data)
        copy.scale, copy.struct.scale = layer.scale, layer.struct.scale
        copies.append(copy)
    return [copy.apply for copy in copies], layer.data.nbytes


def theirs(weight: torch.Tensor, kind: str) -> list[Callable[[torch.Tensor], object]]:
    """torch's own path at the same number of bits."""
    n, k = weight.shape
    copies = CACHES * 2 // (n * k * {"bf16": 4, "int8": 2, "int4": 1}[kind]) + 1
    if kind == "bf16":
        weights = [weight.bfloat16() for _ in range(copies)]
        return [lambda x, w=w: torch.nn.functional.linear(x.bfloat16(), w) for w in weights]
    if kind == "int8":
        scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)
        packed = [torch.ops.onednn.qlinear_prepack((weight * 20).to(torch.int8), None) for _ in range(copies)]
        call = torch.ops.onednn.qlinear_pointwise
        rows = {}  # quantised outside of the measured call

        def run(x, w):
            q = rows.setdefault(len(x), (x * 20 + 128).clamp(0, 255).to(torch.uint8))
            return call(q, 1.0, 128, w, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")

        return [lambda x, w=w: run(x, w) for w in packed]
    q = torch.randint(0, 16, (n, k), dtype=torch.int32)
    packed = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1) for _ in range(copies)]
    scales = torch.ones(k // 128, n, 2, dtype=torch.bfloat16)
    return [lambda x, w=w: torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), w, 128, scales) for w in packed]


def linears(size: int, budget_s: float, machine: Machine) -> list[dict]:
    weight, results = torch.randn(size, size), []
    for kind in ("int8", "int4", "bf16"):
        (layers, weight_bytes), peers = ours(weight, kind), theirs(weight, kind)
        for rows in ROWS:
            machine.probe()
            x = torch.randn(rows, size)
            took, peer = (fastest(in_turn(calls, x, budget_s)) for calls in (layers, peers))
            results.append(
                {
                    "kind": kind,
                    "rows": rows,
                    "took": took,
                    "peer": peer,
                    "bytes": weight_bytes,
                    "operations": 2 * rows * size * size,
                }
            )
    return results


def report(results: list[dict], machine: Machine) -> list[dict]:
    rows = []
    for result in results:
        per_s = result["bytes"] / result["took"], result["operations"] / result["took"]
        rows.append({
            "what": f"{result['kind']} linear, {result['rows']} rows",
            "ours": result["took"] * 1e3,
            "peer": result["peer"] * 1e3,
            "ratio": result["peer"] / result["took"],
            "unit": "ms",
            "limit": f"{per_s[0] / 1e9:.1f} GB/s = {per_s[0] / machine.bytes_per_s:.0%} of bandwidth, "
            f"{per_s[1] / 1e9:.0f} GOP/s = {per_s[1] / machine.operations_per_s:.0%} of int8 peak",
        })  # fmt: skip
    return rows


def attention(kind: str, context: int, budget_s: float, machine: Machine) -> dict:
    """One decode step of one layer: 32 sequences, 16 query heads on 8 kv heads of 128; layers in turn, past the caches."""
    sequences, heads, kv_heads, dim = 32, 16, 8, 128
    width = -(-context // native.BLOCK)
    layers = CACHES // (width * sequences * cpu.KVCache.bytes_per_block(1, kv_heads, dim, kind)) + 1
    kv = cpu.KVCache(layers, sequences * width, kv_heads, dim, kind)
    keys = torch.randn(sequences * width * native.BLOCK, kv_heads, dim)
    for layer in range(layers):
        cpu.store_kv(kv, layer, keys, keys, torch.arange(len(keys)))
    tables = [list(range(i * width, i * width + width)) for i in range(sequences)]
    batch, query = Batch.of([[0]] * sequences, [context] * sequences, tables), torch.randn(sequences, heads, dim)
    machine.probe()
    took = fastest(
        in_turn(
            [lambda q, layer=layer: cpu.attention(q, kv, layer, batch, dim**-0.5) for layer in range(layers)],
            query,
            budget_s,
        )
    )
    per_s = kv.nbytes / layers * context / (width * native.BLOCK) / took
    return {
        "what": f"{kind} attention, 32 sequences of {context}", "ours": took * 1e3, "unit": "ms a layer",
        "limit": f"{per_s / 1e9:.1f} GB/s = {per_s / machine.bytes_per_s:.0%} of bandwidth",
    }  # fmt: skip


def choice(budget_s: float) -> list[dict]:
    """Tokens of 32 rows of 151,936 logits."""
    logits = torch.randn(32, 151_936)
    pairs = {
        "greedy token": (cpu.argmax, lambda x: x.argmax(-1)),
        "50 candidates": (lambda x: cpu.top_k(x, 50), lambda x: (x.topk(50), x.logsumexp(-1))),
    }
    rows = []
    for what, (mine, torchs) in pairs.items():
        took, peer = (fastest(in_turn([call], logits, budget_s)) for call in (mine, torchs))
        rows.append(
            {"what": f"{what} of 32 rows", "ours": took * 1e3, "peer": peer * 1e3, "ratio": peer / took, "unit": "ms"}
        )
    return rows


def overhead() -> dict:
    """A native call from Python that does nothing but arrive."""
    library = native.library()
    argument = ctypes.c_void_p(0)
    began = time.perf_counter()
    for _ in range(100_000):
        library.lep_rms_norm(argument, argument, argument, 0, 0, 0.0, argument)
    return {"what": "a native call", "ours": (time.perf_counter() - began) * 10, "unit": "us"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, no results kept")
    parser.add_argument("--size", type=int, default=4096)
    arguments = parser.parse_args()
    budget_s = 0.3 if arguments.quick else 3.0
    machine = Machine()
    results = linears(arguments.size, budget_s, machine)
    extra = [attention(kind, context, budget_s, machine) for kind in ("int8", "bf16") for context in (192, 1024)]
    rows = [*report(results, machine), *extra, *choice(budget_s), overhead()]
    show(rows)
    note = (
        f"{native.library().lep_isa().decode()}, {native.library().lep_threads()} threads; read probe {machine.bytes_per_s / 1e9:.1f} GB/s, "
        f"int8 products on registers {machine.operations_per_s / 1e9:.0f} GOP/s; layer of {arguments.size} x {arguments.size}"
    )
    print(note)
    if not arguments.quick:
        save("llm_kernels", rows, note)


if __name__ == "__main__":
    main()
