"""Folders and zips of images, WAV files or texts: `[part/]class/file`. A class is the folder's name; without one, there is no label.

Columns: image | audio | text, `file` (the relative path), `label` where there are class folders, `split` where there are parts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import pyarrow as pa

from ...base.errors import InvalidInput
from ..archive import Tree
from ..fields import field_of
from ..infer import PARTS
from ..schema import SPLIT, Column
from .documents import read_text
from .sources import AUDIO, IMAGES, member_source

Progress = Callable[[str, int, int], None]
CHUNK_BYTES = 256 << 20


def suffix_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def files_of(tree: Tree, suffixes: set[str]) -> list[str]:
    return [name for name in tree.names if suffix_of(name) in suffixes]


def read_media(tree: Tree, progress: Progress) -> pa.Table | None:
    """The table of a tree that holds mostly images or WAV files; None if it holds neither."""
    images, sounds = files_of(tree, IMAGES), files_of(tree, AUDIO)
    if not images and not sounds:
        return None
    if images and sounds:
        raise InvalidInput(
            f"{tree.path.name} holds images and sounds", received=f"{len(images)} images, {len(sounds)} WAV files",
            expected="one kind", fix="Import each kind from its own folder.",
        )  # fmt: skip
    names, kind = (images, "image") if images else (sounds, "audio")
    return _with_places(names, field_of(Column(kind, kind), pa.binary()), _contents(tree, names, kind, progress))


def join_facts(media: pa.Table, tables: list[pa.Table]) -> pa.Table:
    """Columns of a table that lies beside the files and names each of them (`metadata.csv`, `pairs.jsonl`), joined to the files.

    A table that does not name every file once is about something else and is left out.
    """
    files = media.column("file").to_pylist()
    for table in tables:
        for key in (field.name for field in table.schema if pa.types.is_string(field.type)):
            listed = {name: row for row, name in enumerate(table.column(key).to_pylist())}
            for named in (files, [PurePosixPath(file).name for file in files]):
                if len(listed) != table.num_rows or not all(name in listed for name in named):
                    continue
                facts = table.take(pa.array([listed[name] for name in named], pa.int64()))
                for name in facts.column_names:
                    if name != key and name not in ("image", "audio", "file"):
                        place = media.schema.get_field_index(name)
                        field = facts.schema.field(name)
                        media = (
                            media.set_column(place, field, facts.column(name))
                            if place >= 0
                            else media.append_column(field, facts.column(name))
                        )
                return media
    return media


def read_texts(tree: Tree) -> pa.Table:
    """Texts in class folders: one row per file, with its label. Texts without: one row per line, with its file."""
    names = files_of(tree, {".txt"})
    if any(_places(name)[1] for name in names):
        texts = [tree.read(name).decode("utf-8", "strict") if _is_utf8(tree, name) else "" for name in names]
        return _with_places(names, pa.field("text", pa.string()), pa.chunked_array([pa.array(texts, pa.string())]))
    tables = []
    for name in names:
        table = read_text(member_source(tree, name))
        tables.append(table.append_column("file", pa.array([name] * table.num_rows, pa.string())))
    return pa.concat_tables(tables)


def _is_utf8(tree: Tree, name: str) -> bool:
    try:
        tree.read(name).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{tree.label(name)} is not UTF-8 (byte {error.start})", fix="Save it as UTF-8.") from error
    return True


def _places(name: str) -> tuple[str | None, str | None]:
    """(part, class) of `train/cat/1.png`; a top folder with a part's name is a part if a class follows it."""
    folders = PurePosixPath(name).parts[:-1]
    part = PARTS.get(folders[0].lower()) if folders else None
    folders = folders[1:] if part else folders
    return part, "/".join(folders) or None


def _with_places(names: list[str], field: pa.Field, contents: pa.ChunkedArray) -> pa.Table:
    parts, labels = zip(*(_places(name) for name in names), strict=True)
    if len(set(labels)) == 1:
        # One folder for all is where the files lie, not what they are.
        labels = (None,) * len(names)
    fields, columns = (
        [field, pa.field("file", pa.string(), metadata={b"lepton.type": b"text"})],
        [contents, pa.array(names, pa.string())],
    )
    if any(labels):
        alone = next((name for name, label in zip(names, labels, strict=True) if label is None), None)
        if alone is not None:
            raise InvalidInput(
                "a file lies in no class folder, others do", received=alone, fix="Move it into the folder of its class."
            )
        fields.append(field_of(Column("label", "category"), pa.string()))
        columns.append(pa.array(labels, pa.string()))
    if len(set(parts)) > 1:
        fields.append(field_of(Column(SPLIT, "text"), pa.string()))
        # A file outside of the part folders is for training.
        columns.append(pa.array([part or "train" for part in parts], pa.string()))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _contents(tree: Tree, names: list[str], kind: str, progress: Progress) -> pa.ChunkedArray:
    """The files as they are; an empty or cut one is refused with its name."""
    chunks, chunk, size = [], [], 0
    for number, name in enumerate(names, 1):
        content = tree.read(name)
        if kind == "audio" and (content[:4] != b"RIFF" or content[8:12] != b"WAVE"):
            raise InvalidInput(
                f"{tree.label(name)} is not a WAV file", received=content[:12], fix="Convert it to WAV, or remove it."
            )
        if not content:
            raise InvalidInput(f"{tree.label(name)} is empty", fix="Remove it, or copy it again.")
        chunk.append(content)
        size += len(content)
        if size > CHUNK_BYTES:
            chunks.append(pa.array(chunk, pa.binary()))
            chunk, size = [], 0
        if number % 500 == 0:
            progress("reading files", number, len(names))
    if chunk:
        chunks.append(pa.array(chunk, pa.binary()))
    return pa.chunked_array(chunks, pa.binary())
