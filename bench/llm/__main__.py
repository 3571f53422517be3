"""Lepton's LLM server beside its peers on the same random checkpoints, the same two cores and the same token counts.

    python -m bench.llm [--quick] [--prepare] [--only NAME …] [--cache FOLDER] [--no-peers]

    table      int4, int8, bf16 × concurrency 1, 8, 32 × prompt 128 (and 1,024 without --quick), output 128: output tokens/s while all decode,
               TTFT, TPOT, memory, share of the measured read bandwidth, ratio to each peer at equal bits
    prefix     32 requests with a shared prefix of 1,024 tokens, with and without the cache
    start      process start to first token, 100 M parameters, warm file cache
    overhead   engine alone in a process against the engine behind the server, concurrency 32
    trace      arrivals and lengths of real conversations, time-scaled, prefixes shared as they were

`--prepare` builds the peers (once, into --cache) and writes the checkpoints, and measures nothing. Peers: llama.cpp (built from the source
distribution of llama-cpp-python), OpenVINO GenAI (its wheel; IR by optimum-intel), transformers' generate. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

from ..common import save, show
from . import checkpoint, measure, peers

PARTS = ("table", "prefix", "start", "overhead", "trace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="prompt 128 only, one wave a level: about eight minutes on two quiet cores"
    )
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("LEPTON_BENCH_CACHE", Path.home() / ".cache" / "lepton-bench")),
    )
    parser.add_argument("--bits", nargs="+", choices=("int4", "int8", "bf16"), default=("int4", "int8", "bf16"))
    parser.add_argument("--levels", nargs="+", type=int, default=(1, 8, 32))
    options = parser.parse_args()
    random.seed(0)
    begin = time.perf_counter()
    options.cache.mkdir(parents=True, exist_ok=True)
    folders = {
        name: checkpoint.write_checkpoint(options.cache / name, shape) for name, shape in checkpoint.SHAPES.items()
    }
    found = {} if options.no_peers else peers.prepare(options.cache, folders, options.bits)
    if options.prepare:
        return print(json.dumps({name: str(peer) for name, peer in found.items()}, indent=1))
    load = os.getloadavg()[0]
    bandwidth = measure.read_bandwidth()
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s, load {load:.1f}, Python {sys.version.split()[0]}", flush=True)
    rows: list[dict] = []
    for part in options.only:
        new = getattr(measure, part)(
            folders, found, bandwidth, quick=options.quick, bits=options.bits, levels=options.levels
        )
        show(new)
        rows += new
    note = (
        f"Qwen3-0.6B's shape and 100 M, random weights, 2 threads, output 128 tokens, greedy; {'quick' if options.quick else 'full'} run of "
        f"{time.perf_counter() - begin:.0f} s; load average before: {load:.1f}; read bandwidth {bandwidth / 1e9:.1f} GB/s; peers: {peers.versions(found)}."
    )
    save("llm", rows, note)


if __name__ == "__main__":
    main()
