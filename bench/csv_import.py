"""Import of a CSV against `pyarrow.csv.read_csv` + `lance.write_dataset`, which only read and write: no types, hash, profile or fsync.

usage: python -m bench.csv_import [--rows 1000000] [--repeat 5]

20 columns: 8 float, 6 integer, 4 category, 1 timestamp, 1 text. Ours and the peer alternate; medians are compared. The physical limit
is the time that writing and syncing the table's bytes takes. Target: within 2 × of the peer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.csv

from leptonai.base.home import Home
from leptonai.data.importing import import_data

from .common import save, show


def make_csv(path: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    columns = {f"number_{i}": random.normal(size=rows).round(6) for i in range(8)}
    columns |= {f"integer_{i}": random.integers(0, 10 ** (i + 1), rows) for i in range(6)}
    words = np.array([f"value {i}" for i in range(200)])
    columns |= {f"category_{i}": words[random.integers(0, 10 * (i + 1), rows)] for i in range(4)}
    columns["moment"] = np.datetime64("2020-01-01T00:00:00") + random.integers(0, 10**8, rows).astype("timedelta64[s]")
    columns["note"] = np.char.add("order number ", random.integers(0, 10**9, rows).astype(str))
    pyarrow.csv.write_csv(pa.table(columns), path)


def peer(path: Path, folder: Path) -> None:
    lance.write_dataset(pyarrow.csv.read_csv(path), str(folder / "peer.lance"))


def ours(path: Path, folder: Path) -> None:
    import_data("bench", path, home=Home(folder / "home"))


def timed(run, path: Path, root: str) -> tuple[float, float, int]:
    """Wall and CPU seconds, and bytes on disk."""
    folder = Path(tempfile.mkdtemp(dir=root))
    wall, cpu = time.perf_counter(), time.process_time()
    run(path, folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder)
    return wall, cpu, size


def write_s(root: str, size: int) -> float:
    """Seconds to write and fsync `size` bytes."""
    block = os.urandom(1 << 20)
    started = time.perf_counter()
    with open(Path(root) / "limit.bin", "wb") as file:
        for _ in range(max(size >> 20, 1)):
            file.write(block)
        os.fsync(file.fileno())
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    runs: dict[str, list[tuple[float, float, int]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "table.csv"
        make_csv(path, arguments.rows)
        timed(peer, path, root)  # the first run pays for imports and a cold file cache
        for _ in range(arguments.repeat):
            runs["peer"].append(timed(peer, path, root))
            runs["ours"].append(timed(ours, path, root))
        limit = write_s(root, runs["ours"][0][2])
    rows = []
    for place, unit in ((0, "s"), (1, "CPU s")):
        mine, theirs = (statistics.median(run[place] for run in runs[name]) for name in ("ours", "peer"))
        rows.append({"what": f"CSV, {arguments.rows:,} rows × 20", "ours": mine, "peer": theirs, "ratio": mine / theirs, "target": "≤ 2", "unit": unit})  # fmt: skip
    rows[0]["limit"] = f"write + fsync {limit:.2f} s"
    show(rows)
    save("csv_import", rows, "peer: pyarrow.csv.read_csv + lance.write_dataset, alternating, medians")


if __name__ == "__main__":
    main()
