"""What is measured. Each function returns rows of {what, ours, peer, ratio, target, unit, limit}."""

from __future__ import annotations

import asyncio
import csv
import functools
import gzip
import json
import random
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from leptonai.base.errors import LeptonError

from ..common import DATA, ROOT
from . import engines
from .checkpoint import SHAPES
from .client import Load, closed_loop, complete, open_loop
from .peers import Peer

MAIN = "qwen3-0.6b"
OUTPUT = 128
TARGETS = {"int4": {1: 1.5, 8: 2.0, 32: 2.0}, "int8": {8: 2.0, 32: 2.0}, "bf16": {8: 1.2, 32: 1.2}}


def read_bandwidth() -> float:
    """Bytes/s that the kernels' threads read from memory: the best of several passes over 512 MiB (torch's sum without the kernels)."""
    import torch

    memory = torch.ones(1 << 27, dtype=torch.float32)
    try:
        from leptonai.engine.ops.native import library

        kernels = library()

        def read() -> None:
            kernels.lep_read_probe(memory.data_ptr(), memory.nbytes)

    except (ImportError, OSError, LeptonError):
        torch.set_num_threads(2)

        def read() -> None:
            memory.sum()

    best = 0.0
    for _ in range(12):
        begin = time.perf_counter()
        read()
        best = max(best, memory.nbytes / (time.perf_counter() - begin))
    return best


def prompts(length: int, count: int, seed: int = 0) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(1000, 30000) for _ in range(length)] for _ in range(count)]


def drive(port: int, concurrency: int, requests: int, length: int, output: int = OUTPUT) -> Load:
    given = prompts(length, requests, seed=concurrency)
    return asyncio.run(closed_loop(lambda number: complete(port, given[number], output), concurrency, requests))


def table(
    folders: dict[str, Path], found: dict[str, Peer], bandwidth: float, *, quick: bool, bits, levels
) -> list[dict]:
    rows = []
    for one in bits:
        for length in (128,) if quick else (128, 1024):
            ours = served(engines.lepton(folders[MAIN], one, "--no-prefix-cache"), length, levels, quick)
            others = {name: peer_levels(name, peer, one, length, levels, quick) for name, peer in found.items()}
            for level in levels:
                rows += compare(one, length, level, ours, others, bandwidth)
    return rows


def served(context, length: int, levels, quick: bool) -> dict:
    with context as running:
        drive(running.port, 1, 1, 32, 8)
        result = {level: drive(running.port, level, level * (1 if quick else 4), length).summary() for level in levels}
        return {**result, "peak_bytes": running.peak_bytes()}


def peer_levels(name: str, peer: Peer, bits: str, length: int, levels, quick: bool) -> dict:
    model = peer.models.get((MAIN, bits))
    if model is None:
        return {}
    try:
        if name == "llama.cpp":
            return served(
                engines.llama_cpp(peer.command, model, max(levels), length + OUTPUT + 16), length, levels, quick
            )
        done = engines.script(peer.command, f"peer_{name}.py", str(model), str(length), str(OUTPUT), *map(str, levels))
        return {**{int(level): value for level, value in done["levels"].items()}, "peak_bytes": done["peak_bytes"]}
    except RuntimeError as error:
        print(f"{name} {bits}: {error}", flush=True)
        return {}


def compare(bits: str, length: int, level: int, ours: dict, others: dict[str, dict], bandwidth: float) -> list[dict]:
    shape, mine = SHAPES[MAIN], ours[level]
    if "tok_s" not in mine:
        raise RuntimeError(f"Lepton answered nothing: {mine}")
    where = f"{bits}, prompt {length}, concurrency {level}"
    rows = []
    for key, what, unit, better in (
        ("decode_tok_s", "output while all decode", "tokens/s", 1), ("tok_s", "output, prompts included", "tokens/s", 1), ("ttft_p50_ms", "time to first token", "ms", -1),
    ):  # fmt: skip
        theirs = {name: values[level][key] for name, values in others.items() if key in values.get(level, {})}
        best = (max if better > 0 else min)(theirs, key=theirs.get) if theirs else None
        row = {"what": f"{where}: {what}", "ours": mine[key], "unit": unit}
        if best:
            row |= {"peer": f"{theirs[best]:.4g} ({best})", "ratio": (mine[key] / theirs[best]) ** better}
        if key == "decode_tok_s" and level in TARGETS[bits]:
            row["target"] = f"≥ {TARGETS[bits][level]} ×"
        rows.append(row)
    context = length + OUTPUT / 2
    step_bytes = shape.weight_bytes(bits) + level * shape.kv_bytes(int(context))
    share = step_bytes * mine["decode_tok_s"] / level / bandwidth
    rows.append(
        {
            "what": f"{where}: share of read bandwidth",
            "ours": share,
            "unit": "",
            "target": "≥ 0.75" if (bits, level) == ("int4", 1) else "",
        }
    )
    if level == 32:
        allowed = shape.weight_bytes(bits) + level * shape.kv_bytes(length + OUTPUT)
        rows.append(
            {
                "what": f"{where}: peak memory of all processes",
                "ours": ours["peak_bytes"] / 2**20,
                "unit": "MiB",
                "limit": f"{allowed / 2**20:.0f} weights + KV",
            }
        )
    return rows


def prefix(folders: dict[str, Path], found: dict[str, Peer], bandwidth: float, *, quick: bool, **_) -> list[dict]:
    count, common = 32, prompts(1024, 1, seed=9)[0]
    given = [common + own for own in prompts(64, count, seed=10)]
    means = {}
    for name, option in (("with", ()), ("without", ("--no-prefix-cache",))):
        with engines.lepton(folders[MAIN], "int8", *option) as running:
            asyncio.run(complete(running.port, common, 1))
            ask = functools.partial(ask_of, running.port, given, 8)
            means[name] = asyncio.run(closed_loop(ask, 8 if quick else count, 16 if quick else count)).summary()[
                "ttft_p50_ms"
            ]
    row = {
        "what": "shared prefix of 1,024 tokens + 64 own, int8: time to first token",
        "ours": means["with"],
        "peer": f"{means['without']:.4g} (no cache)",
    }
    return [{**row, "ratio": means["without"] / means["with"], "target": "≥ 5 ×", "unit": "ms"}]


async def ask_of(port: int, given: list[list[int]], output: int, number: int):
    return await complete(port, given[number], output)


def start(folders: dict[str, Path], found: dict[str, Peer], bandwidth: float, **_) -> list[dict]:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with engines.lepton(folders["100m"], "int8") as running:
            timing = asyncio.run(complete(running.port, prompts(16, 1)[0], 1))
            times.append(timing.first_s - begin)
    return [
        {
            "what": "process start to first token, 100 M int8, warm file cache",
            "ours": min(times),
            "unit": "s",
            "target": "≤ 3",
        }
    ]


DIRECT = """
import json, sys, time
sys.path.insert(0, {src!r})
from leptonai.engine.llm import LLM
from leptonai.engine.params import SamplingParams
prompts = json.load(sys.stdin)
llm = LLM({folder!r}, quantization="int8", max_num_seqs=32, enable_prefix_caching=False)
llm.generate(prompts[:1], SamplingParams(max_tokens=4, ignore_eos=True, temperature=0))
begin = time.perf_counter()
out = llm.generate(prompts, SamplingParams(max_tokens={output}, ignore_eos=True, temperature=0))
print(json.dumps(sum(len(one.token_ids) for one in out) / (time.perf_counter() - begin)))
"""


def overhead(folders: dict[str, Path], found: dict[str, Peer], bandwidth: float, *, quick: bool, **_) -> list[dict]:
    """Alternating, best of each: engine alone against engine behind the server; and what the server's process itself used."""
    given, alone, behind, shares = prompts(128, 32, seed=32), [], [], []
    for _ in range(1 if quick else 3):
        code = DIRECT.format(src=str(ROOT / "src"), folder=str(folders[MAIN]), output=OUTPUT)
        environment = {**engines.os.environ, "OMP_NUM_THREADS": engines.THREADS}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        alone.append(json.loads(done.stdout.splitlines()[-1]))
        with engines.lepton(folders[MAIN], "int8", "--no-prefix-cache") as running:
            drive(running.port, 1, 1, 32, 4)
            before = running.front_cpu_s()
            load = drive(running.port, 32, 32, 128)
            behind.append(load.summary()["tok_s"])
            shares.append((running.front_cpu_s() - before) / (load.wall_s * 2))
    loss = 1 - max(behind) / max(alone)
    return [
        {
            "what": "int8, concurrency 32: throughput lost behind the server",
            "ours": loss,
            "peer": f"{max(alone):.4g} tokens/s (engine alone)",
            "unit": "share",
            "target": "≤ 0.05",
        },
        {
            "what": "int8, concurrency 32: processor time of the server's process, of both cores",
            "ours": min(shares),
            "unit": "share",
            "target": "≤ 0.05",
        },
    ]


def trace(folders: dict[str, Path], found: dict[str, Peer], bandwidth: float, *, quick: bool, **_) -> list[dict]:
    """Lengths are divided by 8 and arrivals stretched so that one machine's worth comes; prefixes are shared as hash_ids say."""
    folder = DATA / "llm-request-traces"
    if not folder.exists():
        print("no traces here: the replay is left out")
        return []
    rows = []
    for name, requests in (
        ("azure_conv", azure(folder / "azure_conv.csv")),
        ("mooncake", mooncake(folder / "mooncake_conversation.jsonl.gz")),
    ):
        given = requests[: 40 if quick else 200]
        seconds = 40 if quick else 240
        scale = seconds / max(1e-9, given[-1][0] - given[0][0])
        with engines.lepton(folders["100m"] if quick else folders[MAIN], "int8") as running:
            asks = [
                ((at - given[0][0]) * scale, functools.partial(complete, running.port, prompt, output))
                for at, prompt, output in given
            ]
            result = asyncio.run(open_loop(asks)).summary()
            text = engines.urllib.request.urlopen(f"http://127.0.0.1:{running.port}/metrics").read().decode()
        counts = {
            line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("lepton_prefix")
        }
        asked, hits = (
            counts.get("lepton_prefix_queried_tokens_total", 0),
            counts.get("lepton_prefix_hit_tokens_total", 0),
        )
        where = f"trace {name}, {len(given)} requests in {seconds} s"
        rows += [
            {
                "what": f"{where}: time to first token p50 / p99",
                "ours": f"{result['ttft_p50_ms']:.0f} / {result['ttft_p99_ms']:.0f}",
                "unit": "ms",
            },
            {"what": f"{where}: time per output token", "ours": result["tpot_ms"], "unit": "ms"},
            {"what": f"{where}: failed", "ours": result["failed"], "unit": "requests", "target": "0"},
            {"what": f"{where}: prompt tokens from the cache", "ours": hits / asked if asked else 0.0, "unit": "share"},
        ]
    return rows


def azure(path: Path) -> list[tuple[float, list[int], int]]:
    """(seconds, prompt, output tokens); the trace has lengths only, so no prefix is shared."""
    found, numbers = [], random.Random(1)
    with path.open() as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            prompt = [numbers.randrange(1000, 30000) for _ in range(min(2048, max(1, int(row["ContextTokens"]) // 8)))]
            found.append((at, prompt, min(512, max(1, int(row["GeneratedTokens"]) // 8))))
            if len(found) == 400:
                break
    return found


def mooncake(path: Path) -> list[tuple[float, list[int], int]]:
    """Each hash id is a block of 512 tokens of the trace: 64 here, the same tokens for the same id."""
    found = []
    with gzip.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            prompt = [token for id in row["hash_ids"] for token in block(id)][
                : min(3000, max(1, row["input_length"] // 8))
            ]
            found.append((row["timestamp"] / 1000, prompt, min(512, max(1, row["output_length"] // 8))))
            if len(found) == 400:
                break
    return found


@functools.lru_cache(maxsize=100_000)
def block(id: int) -> tuple[int, ...]:
    numbers = random.Random(id)
    return tuple(numbers.randrange(1000, 30000) for _ in range(64))
