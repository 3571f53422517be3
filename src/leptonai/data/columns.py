"""Columns of a version as memory-mapped arrays: what training reads. Each is built once, in batches, and keyed by its content.

    cache/columns/<digest>/meta.json, values.bin                    fixed width: (n, *shape), row after row
                           meta.json, offsets.bin, data.bin[, nulls.bin]   ragged: int64 offsets (n + 1) and bytes

Versions that share a column (a split, a renamed dataset) share its folder. Builders that meet build twice and keep one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..base.errors import InvalidInput
from ..base.files import folder_atomic
from .fields import is_raw, to_array
from .images import decode
from .schema import Column

if TYPE_CHECKING:
    from .dataset import Dataset

LAYOUT = 1
"""Part of the key: a change of layout builds anew."""
BATCH_BYTES = 32 << 20
RAGGED_FILES = ("offsets.bin", "data.bin", "nulls.bin")


@dataclass(frozen=True)
class Ragged:
    """Values of unequal length: row i is `data[offsets[i]:offsets[i + 1]]`. `nulls`: (n,) bool, or None if there are none."""

    offsets: np.ndarray
    data: np.ndarray
    nulls: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        """The bytes of a row; of a null row: none."""
        row = range(len(self))[row]
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def strings(self, rows: np.ndarray | Sequence[int] | None = None) -> list[str | None]:
        """The texts of `rows` (all, if None) in that order; None for a null."""
        array = self.arrow
        return (array if rows is None else array.take(pa.array(np.asarray(rows, np.int64)))).to_pylist()

    @cached_property
    def arrow(self) -> pa.Array:
        """The same memory as an Arrow large_string array."""
        validity = None
        if self.nulls is not None:
            validity = pa.py_buffer(np.packbits(~np.asarray(self.nulls), bitorder="little"))
        buffers = [validity, pa.py_buffer(self.offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)


class Columns(Mapping[str, "np.ndarray | Ragged"]):
    """name → (n, *shape) array or Ragged. A column is built when it is first asked for.

    number: float64 or float32, null = NaN; integer: int64, float64 with NaN if it has nulls; boolean: bool, likewise;
    timestamp: datetime64[us], null = NaT; category, text, audio: Ragged; image: uint8 (n, H, W, C), Ragged (the files' bytes)
    if sizes differ, null = black; tensor: (n, *shape).
    """

    def __init__(self, dataset: Dataset, names: Sequence[str]):
        self.dataset, self.names = dataset, tuple(names)
        self._opened: dict[str, np.ndarray | Ragged] = {}

    def __getitem__(self, name: str) -> np.ndarray | Ragged:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._opened:
            self._opened[name] = self._open(self.dataset.digests[name], lambda folder: self._build(folder, name))
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_rows(self) -> int:
        return self.dataset.num_rows

    def images(self, name: str, *, size: tuple[int, int], channels: int) -> np.ndarray:
        """(n, H, W, channels) uint8 of an image column, resized to `size` (H, W) where it differs; cached like a column."""
        column = self.dataset.schema[name]
        if column.type != "image":
            raise InvalidInput(
                f"column {name!r} does not hold images", received=column.type, expected="an image column"
            )
        if column.shape == (*size, channels):
            return self[name]
        key = f"{self.dataset.digests[name]}-{size[0]}x{size[1]}x{channels}"
        if key not in self._opened:
            self._opened[key] = self._open(key, lambda folder: self._build_images(folder, name, (*size, channels)))
        return self._opened[key]

    def _open(self, key: str, build: Callable[[Path], None]) -> np.ndarray | Ragged:
        folder = self.dataset.home.cache / "columns" / f"{key}-{LAYOUT}"
        if folder.is_dir():
            if (opened := open_folder(folder)) is not None:
                return opened
            # Cut short or edited: what is a cache can be made again.
            shutil.rmtree(folder)
        try:
            with folder_atomic(folder) as temporary:
                build(temporary)
        except OSError:
            # Another builder was first; its folder holds the same bytes.
            if not folder.is_dir():
                raise
        opened = open_folder(folder)
        assert opened is not None, folder
        return opened

    def _build(self, folder: Path, name: str) -> None:
        column, missing = self.dataset.schema[name], self.dataset.profile[name]["missing"]
        if column.type in ("category", "text", "audio") or (column.type == "image" and column.shape is None):
            _write_ragged(folder, self._chunks(name), self.dataset.num_rows, missing > 0)
        elif column.type == "image" and not is_raw(self._storage(name)):
            _write_images(folder, self._chunks(name), column.shape)
        else:
            _write_fixed(folder, self._chunks(name), column, missing > 0)

    def _build_images(self, folder: Path, name: str, shape: tuple[int, int, int]) -> None:
        source = self.dataset.schema[name].shape
        chunks = self._chunks(name)
        if is_raw(self._storage(name)):
            from .images import encode

            chunks = (pa.array([encode(image) for image in to_array(chunk, source)], pa.binary()) for chunk in chunks)
        _write_images(folder, chunks, shape)

    def _chunks(self, name: str) -> Iterator[pa.Array]:
        rows = max(64, min(65536, BATCH_BYTES // max(self._row_bytes(name), 1)))
        return (batch.column(0) for batch in self.dataset.batches([name], rows))

    def _row_bytes(self, name: str) -> int:
        storage, profile = self._storage(name), self.dataset.profile[name]
        if is_raw(storage):
            return storage.list_size * (storage.value_type.bit_width // 8)
        return profile.get("bytes", 0) // max(self.dataset.num_rows, 1) or 64

    def _storage(self, name: str) -> pa.DataType:
        return self.dataset.storage(name)


def open_folder(folder: Path) -> np.ndarray | Ragged | None:
    """The arrays in `folder`; None if a file is not as long as the manifest says."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if any((folder / file).stat().st_size != size for file, size in meta["files"].items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    if meta["kind"] == "fixed":
        return _map(folder / "values.bin", meta["dtype"], tuple(meta["shape"]))
    offsets = _map(folder / "offsets.bin", "int64", (meta["rows"] + 1,))
    data = _map(folder / "data.bin", "uint8", (meta["files"]["data.bin"],))
    nulls = _map(folder / "nulls.bin", "bool", (meta["rows"],)) if "nulls.bin" in meta["files"] else None
    return Ragged(offsets, data, nulls)


def _map(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r", shape=shape) if path.stat().st_size else np.empty(shape, dtype)


def _close(folder: Path, meta: dict[str, Any]) -> None:
    """The manifest, last: sizes tell a file that was cut short."""
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    (folder / "meta.json").write_text(json.dumps({**meta, "files": files}))


def _write_fixed(folder: Path, chunks: Iterator[pa.Array], column: Column, has_nulls: bool) -> None:
    rows, dtype = 0, None
    with open(folder / "values.bin", "wb") as file:
        for chunk in chunks:
            values = np.ascontiguousarray(_fixed(chunk, column, has_nulls))
            dtype = values.dtype
            file.write(memoryview(values).cast("B") if values.dtype.kind != "M" else values.tobytes())
            rows += len(chunk)
    _close(folder, {"kind": "fixed", "dtype": str(dtype), "shape": [rows, *(column.shape or ())]})


def _fixed(chunk: pa.Array, column: Column, has_nulls: bool) -> np.ndarray:
    if is_raw(chunk.type):
        return to_array(chunk, column.shape)
    if column.type == "timestamp":
        return chunk.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False).astype("datetime64[us]")
    if column.type in ("integer", "boolean") and has_nulls:
        # All chunks of a column have one dtype, whether or not this one has a null.
        return chunk.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return chunk.to_numpy(zero_copy_only=False)


def _write_ragged(folder: Path, chunks: Iterator[pa.Array], rows: int, has_nulls: bool) -> None:
    """`nulls.bin` is there only if a row is null."""
    end = 0
    with ExitStack() as files:
        offsets, data, nulls = (files.enter_context(open(folder / name, "wb")) for name in RAGGED_FILES)
        offsets.write(np.zeros(1, np.int64).tobytes())
        for chunk in chunks:
            if has_nulls:
                nulls.write(chunk.is_null().to_numpy(zero_copy_only=False).tobytes())
            chunk = chunk.cast(pa.large_binary())
            if chunk.null_count:
                chunk = chunk.fill_null(b"")
            if not len(chunk):
                continue
            ends = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            if chunk.buffers()[2] is not None:
                data.write(memoryview(chunk.buffers()[2])[ends[0] : ends[-1]])
            offsets.write((ends[1:] - ends[0] + end).tobytes())
            end += int(ends[-1] - ends[0])
    if not has_nulls:
        (folder / "nulls.bin").unlink()
    _close(folder, {"kind": "ragged", "rows": rows})


def _write_images(folder: Path, chunks: Iterator[pa.Array], shape: tuple[int, int, int]) -> None:
    """Decoded, and resized where a size differs; a null is black."""
    from concurrent.futures import ThreadPoolExecutor

    rows, black = 0, np.zeros(shape, np.uint8)
    with open(folder / "values.bin", "wb") as file, ThreadPoolExecutor(2) as pool:
        for chunk in chunks:
            for image in pool.map(lambda c: black if c is None else decode(c, shape[2], shape[:2]), chunk.to_pylist()):
                file.write(np.ascontiguousarray(image))
            rows += len(chunk)
    _close(folder, {"kind": "fixed", "dtype": "uint8", "shape": [rows, *shape]})
