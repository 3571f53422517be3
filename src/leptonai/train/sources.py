"""Batches that can be resumed. Gives every kind of loader one shape: `batches(epoch, start)`, `len`, and a fingerprint.

A loader whose order cannot be computed again after a crash is refused, with what to do, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)
from torch.utils.data._utils.collate import default_collate

from ..base.errors import InvalidInput
from ..data.order import permutation
from .loader import Loader
from .seeds import RandomState, seed_everything, stream


class Source(Protocol):
    def __len__(self) -> int: ...
    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]: ...
    def fingerprint(self) -> dict[str, Any]: ...


def as_source(loader: Any, seed: int) -> Source:
    """`loader` as a Source; raises InvalidInput, with the fix, if a resumed run could not read the same batches."""
    if isinstance(loader, Loader):
        loader.seed = seed if loader.seed is None else loader.seed
        return loader
    if hasattr(loader, "batches") and hasattr(loader, "fingerprint"):
        return loader
    if isinstance(loader, DataLoader):
        return dataloader_source(loader, seed)
    if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
        raise InvalidInput(
            "this cannot be read again from its beginning, so a resumed run could not find its place",
            received=type(loader).__name__,
            expected="a leptonai Loader, a DataLoader, or a sized iterable of batches",
            fix="Pass the list or the loader itself, not an iterator over it.",
        )
    return IterableSource(loader, seed)


def check_length(loader: Any) -> int:
    try:
        length = len(loader)
    except TypeError:
        raise InvalidInput(
            "this loader has no length, so a resumed run could not find its place",
            received=type(loader).__name__,
            expected="a leptonai Loader, a DataLoader over a map-style dataset, or an iterable with len()",
            fix="Give it a __len__ that is its number of batches, or import the data: `lep data import NAME PATH`.",
        ) from None
    if length == 0:
        raise InvalidInput("the loader has no batch", fix="Give more rows, a smaller batch, or drop_last=False.")
    return length


class IterableSource:
    """A list of batches, or any sized iterable. Its randomness must come from the global generators or `set_epoch`."""

    def __init__(self, iterable: Iterable[Any], seed: int):
        self.iterable, self.seed, self.length = iterable, seed, check_length(iterable)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        if hasattr(self.iterable, "set_epoch"):
            self.iterable.set_epoch(epoch)
        if isinstance(self.iterable, Sequence):
            return islice(self.iterable, start, None)
        # The epoch begins from its own seed, so its shuffle is the same when it is begun again to skip `start` batches.
        seed_everything(stream(self.seed, "order", epoch))
        batches = iter(self.iterable)
        for _ in range(start):
            next(batches)
        return batches

    def fingerprint(self) -> dict[str, Any]:
        return {"batches": self.length}


class DataLoaderSource:
    """A DataLoader of the user's, with the order of its rows computed from (seed, epoch). Everything else is as it was."""

    def __init__(self, loader: DataLoader, order: Callable[[int], list[list[int]]], length: int, seed: int):
        self._order, self._length, self._seed = order, length, seed
        self.dataset, self.batch_size = loader.dataset, loader.batch_size
        self._plan = BatchPlan()
        self._loader = DataLoader(
            loader.dataset if loader.num_workers == 0 else SeededDataset(loader.dataset),
            batch_sampler=self._plan,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
            # Its own generator: beginning an epoch must not move the global one.
            generator=torch.Generator().manual_seed(stream(seed, "worker")),
        )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        batches = self._order(epoch)[start:]
        if self._loader.num_workers:
            batches = [
                (stream(self._seed, "worker", epoch, number), batch) for number, batch in enumerate(batches, start)
            ]
        self._plan.batches = batches
        return iter(self._loader)

    def fingerprint(self) -> dict[str, Any]:
        return {"rows": len(self.dataset), "batches": self._length}


class TensorSource:
    """A DataLoader over a TensorDataset with nothing special: the same batches by one gather, without its per-row work."""

    def __init__(self, dataset: TensorDataset, batch_size: int, order: Callable[[int], list[list[int]]], length: int):
        self.dataset, self.batch_size, self._order, self._length = dataset, batch_size, order, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[torch.Tensor]]:
        for batch in self._order(epoch)[start:]:
            index = torch.tensor(batch)
            yield [tensor.index_select(0, index) for tensor in self.dataset.tensors]

    def fingerprint(self) -> dict[str, Any]:
        return {"rows": len(self.dataset), "batches": self._length}


class BatchPlan(Sampler):
    """The row numbers of each batch still to be read in this epoch."""

    def __init__(self) -> None:
        self.batches: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class SeededDataset:
    """In a worker: seed before each batch, so that random transforms depend on the batch and not on the worker's past."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitems__(self, seeded: tuple[int, list[int]]) -> list[Any]:
        seed, rows = seeded
        seed_everything(seed)
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(rows)
        return [self.dataset[row] for row in rows]


def dataloader_source(loader: DataLoader, seed: int) -> Source:
    if isinstance(loader.dataset, IterableDataset):
        if loader.num_workers == 0 and hasattr(loader.dataset, "__len__"):
            return IterableSource(loader, seed)
        raise InvalidInput(
            "an IterableDataset cannot be resumed exactly",
            received=f"{type(loader.dataset).__name__} with {loader.num_workers} workers",
            expected="a map-style dataset (with __len__ and __getitem__)",
            fix="Give it __len__ and __getitem__, or import the data: `lep data import NAME PATH`.",
        )
    if loader.batch_sampler is None:
        raise InvalidInput(
            "this DataLoader does not make batches", received="batch_size=None", fix="Give it a batch_size."
        )
    length, order = check_length(loader), row_order(loader, seed)
    plain = type(loader.dataset) is TensorDataset and all(
        tensor.device.type == "cpu" for tensor in loader.dataset.tensors
    )
    untouched = loader.collate_fn is default_collate and type(loader.batch_sampler) is BatchSampler
    if plain and untouched and loader.num_workers == 0 and not loader.pin_memory:
        return TensorSource(loader.dataset, loader.batch_size, order, length)
    return DataLoaderSource(loader, order, length, seed)


def row_order(loader: DataLoader, seed: int) -> Callable[[int], list[list[int]]]:
    """Epoch → its batches of row numbers, as a pure function of (seed, epoch)."""
    batch_sampler, sampler = loader.batch_sampler, loader.sampler
    count = len(loader.dataset)
    shuffled = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == count
    if type(batch_sampler) is BatchSampler and (shuffled or type(sampler) is SequentialSampler):
        size, whole = (
            batch_sampler.batch_size,
            count - count % batch_sampler.batch_size if batch_sampler.drop_last else count,
        )
        key = stream(seed, "order")

        def order(epoch: int) -> list[list[int]]:
            rows = permutation(count, key, epoch).tolist() if shuffled else list(range(count))
            return [rows[first : min(first + size, whole)] for first in range(0, whole, size)]

        return order
    own = next((s for s in (batch_sampler, sampler) if not type(s).__module__.startswith("torch.utils.data")), None)
    if own is not None and not hasattr(own, "set_epoch"):
        raise InvalidInput(
            f"the order of {type(own).__name__} cannot be computed again, so a resumed run could not find its place",
            expected="one of torch's samplers, or a sampler with set_epoch(epoch)",
            fix="Give it set_epoch(epoch), and draw from a generator seeded by it.",
        )
    return lambda epoch: drawn(batch_sampler, sampler, stream(seed, "order", epoch), epoch)


def drawn(batch_sampler: Iterable[list[int]], sampler: Any, seed: int, epoch: int) -> list[list[int]]:
    """Ask the samplers for an epoch with every generator that they may use seeded, and leave the global ones as they were."""
    before = RandomState.capture()
    try:
        seed_everything(seed)
        for part in (batch_sampler, sampler):
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(seed)
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        return [list(batch) for batch in batch_sampler]
    finally:
        before.restore()
