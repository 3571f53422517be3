"""Batches from arrays. The order of an epoch is computed, not replayed: a pure function of (rows, seed, epoch).

So the state of a Loader is two integers, epoch and batch, and resuming in the middle of an epoch costs nothing. Arrays that
fit in memory are *resident*: one gather per epoch and views of it as batches, about half the cost of a DataLoader's loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.errors import InvalidInput
from ..data.order import permutation
from .seeds import stream

Batch = dict[str, torch.Tensor]
Transform = Callable[[Batch, torch.Generator], Batch]

# An epoch is gathered at once while the copy is small; beyond this, batch by batch, so memory stays flat.
EPOCH_GATHER_BYTES = 256 << 20


class Loader:
    """Batches `{name: tensor (batch, …)}` of `arrays`, all of the same length.

    `rows`: the row numbers to use (None: all). `seed`: of the order (None: the run's, given by `Run.prepare`).
    `transform(batch, generator)`: augmentation; `generator` depends on (seed, epoch, batch) alone, so it resumes exactly.
    `resident`: whether memory-mapped arrays were read into memory; they are when they take less than a quarter of it.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray | torch.Tensor],
        rows: np.ndarray | None = None,
        batch_size: int = 32,
        seed: int | None = None,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        transform: Transform | None = None,
    ):
        lengths = {name: len(array) for name, array in arrays.items()}
        if not lengths or len(set(lengths.values())) != 1:
            raise InvalidInput(
                "the arrays of a Loader differ in length", received=lengths, expected="one length, at least one array"
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInput("this is not a batch size", received=batch_size, expected="a whole number of at least 1")
        total = next(iter(lengths.values()))
        self.rows = None if rows is None else check_rows(rows, total)
        self.num_rows = total if self.rows is None else len(self.rows)
        self.batch_size, self.seed, self.shuffle, self.drop_last, self.transform = (
            batch_size,
            seed,
            shuffle,
            drop_last,
            transform,
        )
        if len(self) == 0:
            raise InvalidInput(
                "there is not one whole batch",
                received=f"{self.num_rows} rows, batches of {batch_size}, drop_last={drop_last}",
                fix="Give more rows, a smaller batch, or drop_last=False.",
            )
        self._load(arrays)

    def _load(self, arrays: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        """Split `arrays` into tensors in memory and maps on disk. An array already in memory is never copied."""
        self.names = list(arrays)
        mapped = {name: array for name, array in arrays.items() if isinstance(array, np.memmap)}
        read_bytes = sum(array.nbytes // max(1, len(array)) for array in mapped.values()) * self.num_rows
        self.resident = read_bytes <= memory_bytes() // 4
        self.maps = {} if self.resident else mapped
        # Of a map that is read into memory only `rows` are; every other array is indexed through them.
        self._numbered = set(self.names) if self.rows is None else set(mapped) - set(self.maps)
        self.tensors: dict[str, torch.Tensor] = {}
        for name in self.names:
            if name not in self.maps:
                array = arrays[name]
                if name in mapped:
                    array = np.array(array if self.rows is None else array[self.rows])
                self.tensors[name] = as_tensor(name, array)
        row_bytes = sum(tensor[:1].nbytes for tensor in self.tensors.values())
        self._gather_epoch = not self.maps and row_bytes * self.num_rows <= EPOCH_GATHER_BYTES

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers of `epoch` in the order they are read, into the arrays that were given."""
        order = self._positions(epoch)
        return order if self.rows is None else self.rows[order]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on."""
        positions = self._positions(epoch)[start * self.batch_size : len(self) * self.batch_size]
        batches = self._epoch_views(positions) if self._gather_epoch else self._gathered(positions)
        return batches if self.transform is None else self._transformed(batches, epoch, start)

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a resumed run to read the same batches."""
        return {
            "rows": self.num_rows,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def _positions(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_rows)
        return permutation(self.num_rows, stream(self.seed or 0, "order"), epoch)

    def _epoch_views(self, positions: np.ndarray) -> Iterator[Batch]:
        if not len(positions):
            return  # torch splits nothing into one empty batch
        whole = self._gather(positions)
        columns = [whole[name].split(self.batch_size) for name in self.names]
        for parts in zip(*columns, strict=True):
            yield dict(zip(self.names, parts, strict=True))

    def _gathered(self, positions: np.ndarray) -> Iterator[Batch]:
        for first in range(0, len(positions), self.batch_size):
            yield self._gather(positions[first : first + self.batch_size])

    def _gather(self, positions: np.ndarray) -> Batch:
        rows = positions if self.rows is None else self.rows[positions]
        index, row_index = torch.from_numpy(positions), torch.from_numpy(rows)
        return {
            name: torch.from_numpy(np.take(self.maps[name], rows, axis=0))
            if name in self.maps
            else self.tensors[name].index_select(0, index if name in self._numbered else row_index)
            for name in self.names
        }

    def _transformed(self, batches: Iterator[Batch], epoch: int, start: int) -> Iterator[Batch]:
        generator, base = torch.Generator(), stream(self.seed or 0, "augment", epoch)
        for number, batch in enumerate(batches, start):
            # torch's CPU generator keeps 32 bits of a seed; an odd multiplier spreads neighbouring batches over them.
            generator.manual_seed((base + number * 0x9E3779B1) & 0x7FFFFFFF)
            yield self.transform(batch, generator)


def check_rows(rows: np.ndarray, total: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (len(rows) and not 0 <= rows.min() <= rows.max() < total):
        raise InvalidInput(
            "these are not row numbers",
            received=f"{rows.dtype} {rows.shape}",
            expected=f"whole numbers from 0 to {total - 1}",
        )
    return rows.astype(np.int64, copy=False)


def as_tensor(name: str, array: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InvalidInput(
            f"column {name!r} has no numbers to train on",
            received=f"{type(array).__name__} of {getattr(array, 'dtype', 'objects')}",
            expected="an array of numbers",
            fix="Encode it with the task first.",
        )
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total
