"""From a version to a file or folder that others read: the format is the ending of the path. Whole or absent, never over another file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from ..base.errors import Conflict, InvalidInput, disk_errors
from ..base.files import folder_atomic, fsync_file, fsync_folder
from ..base.paths import resolve_within
from .dataset import Dataset
from .fields import is_raw, to_array
from .images import encode
from .schema import SPLIT

BINARY = ("image", "audio", "tensor")
ENDINGS = {".csv", ".tsv", ".jsonl", ".parquet", ".arrow", ".feather"}


def export(dataset: Dataset, path: str | os.PathLike[str]) -> Path:
    """Write `dataset` to `path`: .csv, .tsv, .jsonl, .parquet, .arrow or .feather; a path without ending is a folder of images or WAV files."""
    path = Path(path).expanduser()
    if path.exists() or path.is_symlink():
        raise Conflict(
            "there is something at this path", received=str(path), fix="Choose another path, or remove it first."
        )
    if not path.suffix:
        return _folder(dataset, path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InvalidInput(
            "this format is not written", received=path.suffix, expected=", ".join(sorted(ENDINGS)) + ", or a folder",
            fix="Choose one of these endings.",
        )  # fmt: skip
    if ending in (".csv", ".tsv", ".jsonl"):
        for column in dataset.schema:
            if column.type in BINARY:
                raise InvalidInput(
                    f"column {column.name!r} of type {column.type} does not fit into {ending}",
                    fix="Export to .parquet, or to a folder (a path without ending).",
                )
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            _write(dataset, temporary, ending)
            fsync_file(temporary)
            # A link, unlike a rename, fails if someone made the path meanwhile.
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
    return path


def _write(dataset: Dataset, path: Path, ending: str) -> None:
    table = dataset.table()
    if ending in (".csv", ".tsv"):
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter="\t" if ending == ".tsv" else ","))
    elif ending == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif ending == ".jsonl":
        with open(path, "w", encoding="utf-8") as file:
            for batch in table.to_batches(8192):
                file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in batch.to_pylist())
    else:
        pyarrow.feather.write_feather(table, path, compression="uncompressed" if ending == ".arrow" else "lz4")


def _folder(dataset: Dataset, path: Path) -> Path:
    """`[part/][label/]file`, as an import reads it back."""
    kind = next((column for column in dataset.schema if column.type in ("image", "audio")), None)
    if kind is None:
        raise InvalidInput(
            f"{dataset.ref} holds no images and no sounds",
            received=str(path),
            expected="a path with an ending: " + ", ".join(sorted(ENDINGS)),
        )
    names = [name for name in ("file", "label", SPLIT) if name in dataset.schema]
    table = dataset.table(names) if names else None
    facts = {name: table.column(name).to_pylist() for name in names}
    try:
        with folder_atomic(path) as temporary:
            for row, content in enumerate(_contents(dataset, kind.name)):
                if content is None:
                    continue
                target = resolve_within(temporary, _place(facts, row, content))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    except FileExistsError as error:
        raise Conflict("there is something at this path", received=str(path), fix="Choose another path.") from error
    return path


def _contents(dataset: Dataset, name: str):
    for batch in dataset.batches([name], 256):
        column = batch.column(0)
        if not is_raw(column.type):
            yield from column.to_pylist()
            continue
        missing = column.is_null().to_pylist()
        yield from (
            None if gone else encode(image)
            for gone, image in zip(missing, to_array(column, dataset.schema[name].shape), strict=True)
        )


def _place(facts: dict[str, list], row: int, content: bytes) -> str:
    folders = [str(facts[SPLIT][row] or "train")] if SPLIT in facts else []
    if "label" in facts:
        label = facts["label"][row]
        folders.append(_safe(str(label)) if label is not None else "unlabelled")
    name = Path(facts["file"][row]).name if facts.get("file") and facts["file"][row] else f"{row:06}{_ending(content)}"
    return "/".join([*folders, name])


def _safe(label: str) -> str:
    """A folder's name that reads like the label: only what would make another path of it, or hide it, is quoted."""
    text = "".join(quote(mark, safe="") if mark in '/\\:*?"<>|%' or ord(mark) < 32 else mark for mark in label)
    return text.replace(".", "%2E", 1) if text.startswith(".") else text or "_"


def _ending(content: bytes) -> str:
    for start, ending in (
        (b"\x89PNG", ".png"),
        (b"\xff\xd8", ".jpg"),
        (b"RIFF", ".wav"),
        (b"GIF8", ".gif"),
        (b"BM", ".bmp"),
    ):
        if content.startswith(start):
            return ".webp" if content[8:12] == b"WEBP" else ending
    return ".bin"
