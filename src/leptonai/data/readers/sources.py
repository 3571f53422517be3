"""Where bytes come from: a file, or a member of a folder or zip, unpacked if it is gzipped. Which format a name speaks of."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ...base.errors import InvalidInput, Refused
from ..archive import Tree

TABULAR = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".arrows": "arrow", ".ipc": "arrow",
    ".npz": "npz", ".txt": "text",
}  # fmt: skip
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
AUDIO = {".wav", ".wave"}
PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".dill"}
PACKED: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open}
ACCEPTED = "csv, tsv, jsonl, json, parquet, arrow, feather, npz, idx, txt (csv, tsv, json and txt also .gz), wav, a zip, or a folder of images, WAV files or text files"


@dataclass(frozen=True)
class Source:
    """One file that can be opened again and again. `name` is what messages call it."""

    name: str
    format: str
    begin: Callable[[], BinaryIO]
    packed: str = ""
    path: Path | None = None
    """Where the file lies by itself, so that Arrow's own readers can open it without Python between."""

    def open(self) -> BinaryIO:
        file = self.begin()
        return PACKED[self.packed](file) if self.packed else file

    def native(self) -> Any:
        """For pyarrow: its own file where that is possible, a Python file elsewhere."""
        import pyarrow as pa

        return pa.OSFile(str(self.path)) if self.path is not None and not self.packed else self.open()


def format_of(name: str) -> tuple[str, str]:
    """(`csv`, `.gz`) for `a.csv.gz`; (``, …) for a name that says nothing; raise Refused for a pickle's."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    suffix = suffixes[-1] if suffixes else ""
    if suffix in PICKLES:
        raise refused_pickle(name)
    return TABULAR.get(suffix, ""), packed


def refused_pickle(name: str) -> Refused:
    return Refused(
        "a pickle can run code when it is read, so it is not read", received=name, expected="data in an open format",
        fix="Load it where you trust it and save it as Parquet, CSV or npz.",
    )  # fmt: skip


def is_pickle(head: bytes) -> bool:
    """Protocol 2 and later begin with 0x80 and the protocol's number, then a frame or an opcode."""
    return len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def file_source(path: Path) -> Source:
    kind, packed = format_of(path.name)
    return _checked(Source(path.name, kind, lambda: open(path, "rb"), packed, path))


def member_source(tree: Tree, name: str) -> Source:
    kind, packed = format_of(name)
    return _checked(Source(tree.label(name), kind, lambda: tree.open(name), packed))


def _checked(source: Source) -> Source:
    with source.begin() as file:
        head = file.read(8)
    if is_pickle(head):
        raise refused_pickle(source.name)
    if not head:
        raise InvalidInput(
            f"{source.name} is empty", expected="a file with data", fix="Check how it was written or downloaded."
        )
    if source.packed == ".gz" and head[:2] != b"\x1f\x8b":
        raise InvalidInput(f"{source.name} is not gzipped, though its name says so", fix="Rename it without .gz.")
    return source
