"""What every benchmark shares: the machine it ran on, and where its result goes (`bench/results/NAME.json`)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"


def machine() -> dict:
    """Processor, cores, Python and the versions that decide the figures."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), cpu
        )
    packages = {}
    for name in ("torch", "pyarrow", "pylance", "scikit-learn", "lightgbm"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **packages}


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def save(name: str, rows: list[dict], note: str = "") -> None:
    """Keep the rows with the machine and the date; each row has `what`, `ours`, `unit`, and, where there is one, `peer`, `ratio`, `target`."""
    folder = ROOT / "bench" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "name": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "machine": machine(),
        "note": note,
        "rows": rows,
    }
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def show(rows: list[dict]) -> None:
    """Print the rows as an aligned table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = [
        keys,
        *[
            [f"{row.get(key):.4g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in keys]
            for row in rows
        ],
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(keys))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)
