"""Shuffled batches of 128 rows of 3,072 bytes: our memory-mapped columns against Lance `take`, Parquet and Hugging Face `datasets`.

usage: python -m bench.shuffled_reads [--rows 20000] [--repeat 5]

Rows per CPU second (all threads of the process), one epoch a run, the runs alternate, medians. Every reader gives a contiguous uint8 array
(128, 3072), and its sum is checked. The physical limit is copying the same rows in order (memcpy). Target: ≥ 300,000.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from leptonai.base.home import Home
from leptonai.data.importing import import_data
from leptonai.data.order import permutation

from .common import save, show

BATCH, WIDTH, TARGET = 128, 3072, 300_000
Reader = Callable[[int], Iterator[np.ndarray]]


def batches(n: int, epoch: int) -> Iterator[np.ndarray]:
    order = permutation(n, seed=0, epoch=epoch)
    yield from (order[start : start + BATCH] for start in range(0, n, BATCH))


def readers(rows: np.ndarray, root: Path) -> dict[str, Reader]:
    """Each reader's data is written first; the order of rows is computed inside the timed epoch, for all alike."""
    n = len(rows)
    dataset = import_data("bench", {"image": rows.reshape(n, 32, 32, 3)}, home=Home(root / "home"))
    images = dataset.columns()["image"].reshape(n, WIDTH)
    fixed = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), WIDTH)})
    binary = pa.table({"x": pa.array([row.tobytes() for row in rows], pa.binary(WIDTH))})
    table = lance.write_dataset(fixed, str(root / "peer.lance"))
    pyarrow.parquet.write_table(binary, root / "peer.parquet", row_group_size=1000)

    def ours(epoch: int) -> Iterator[np.ndarray]:
        yield from (images[batch] for batch in batches(n, epoch))

    def lance_take(epoch: int) -> Iterator[np.ndarray]:
        for batch in batches(n, epoch):
            column = table.take(batch.tolist()).column(0).combine_chunks()
            yield column.values.to_numpy().reshape(-1, WIDTH)

    def parquet(epoch: int) -> Iterator[np.ndarray]:
        """Parquet has no access by row: the file is read, and its rows are taken from memory."""
        column = pyarrow.parquet.read_table(root / "peer.parquet").column(0).combine_chunks()
        for batch in batches(n, epoch):
            taken = column.take(pa.array(batch))
            yield np.frombuffer(taken.buffers()[1], np.uint8).reshape(-1, WIDTH)

    def memcpy(epoch: int) -> Iterator[np.ndarray]:
        yield from (rows[start : start + BATCH].copy() for start in range(0, n, BATCH))

    found: dict[str, Reader] = {"ours": ours, "Lance take": lance_take, "Parquet": parquet, "memcpy in order": memcpy}
    try:
        import datasets
    except ImportError:
        return found
    datasets.disable_progress_bars()
    folder = str(root / "hub")
    datasets.Dataset(fixed).save_to_disk(folder)
    # Its Arrow format is faster than its numpy format, which goes through int64.
    hub = datasets.load_from_disk(folder).with_format("arrow")

    def hf(epoch: int) -> Iterator[np.ndarray]:
        for batch in batches(n, epoch):
            column = hub[batch].column("x").combine_chunks()
            yield column.flatten().to_numpy().reshape(-1, WIDTH)

    return {**found, "HF datasets": hf}


def rate(reader: Reader, n: int, epoch: int, total: int) -> float:
    """Rows per CPU second of one epoch, after an epoch whose every byte is checked."""
    started = time.process_time()
    for batch in reader(epoch):
        last = batch
    spent = time.process_time() - started
    assert last.shape[1] == WIDTH and last.dtype == np.uint8
    assert sum(int(batch.sum(dtype=np.int64)) for batch in reader(epoch)) == total
    return n / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    rows = np.random.default_rng(0).integers(0, 256, (arguments.rows, WIDTH), np.uint8)
    total = int(rows.sum(dtype=np.int64))
    with tempfile.TemporaryDirectory() as root:
        found = readers(rows, Path(root))
        rates = {name: [] for name in found}
        for epoch in range(arguments.repeat):
            for name, reader in found.items():
                rates[name].append(rate(reader, arguments.rows, epoch, total))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours, limit = medians.pop("ours"), medians.pop("memcpy in order")
    result = [
        {"what": f"shuffled rows of {WIDTH} bytes vs {name}", "ours": ours, "peer": theirs, "ratio": ours / theirs, "target": f"≥ {TARGET:,}",
         "unit": "rows per CPU s", "limit": f"memcpy {limit:,.0f}"}
        for name, theirs in medians.items()
    ]  # fmt: skip
    show(result)
    save("shuffled_reads", result, f"batches of {BATCH} of {arguments.rows:,} rows, in the page cache, medians")


if __name__ == "__main__":
    main()
