"""Anything to an Arrow table. `read` chooses the reader by what the source is and by the file's name."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...base.errors import Corrupt, InvalidInput, NotFound
from ..archive import Tree, open_tree
from ..infer import PARTS
from . import delimited, documents, folders, idx, objects, tables
from .folders import Progress, suffix_of
from .objects import join_parts
from .sources import ACCEPTED, AUDIO, IMAGES, TABULAR, Source, file_source, format_of, member_source


def read(source: Any, types: Mapping[str, str], encoding: str | None, progress: Progress) -> pa.Table:
    """The table of `source`, in Arrow's own types; raise InvalidInput, NotFound, Refused or Corrupt."""
    if not isinstance(source, str | os.PathLike):
        return objects.read_object(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFound("there is no such file or folder", received=str(source), fix="Check the path.")
    encoding = delimited.check_encoding(encoding) if encoding else None
    if path.is_dir() or path.suffix.lower() == ".zip":
        return _read_tree(open_tree(path), types, encoding, progress)
    if idx.is_idx(path.name):
        return idx.read_file(path)
    if suffix_of(path.name) in IMAGES | AUDIO:
        return folders.read_media(Tree(path.parent, (path.name,)), progress)
    return _read_file(file_source(path), types, encoding)


def _read_file(source: Source, types: Mapping[str, str], encoding: str | None) -> pa.Table:
    try:
        return _read_format(source, types, encoding)
    except RecursionError as error:
        raise InvalidInput(f"{source.name} is nested too deeply", fix="Flatten it.") from error
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise InvalidInput(
                f"{source.name} cannot be read ({error.strerror})", fix="Check its permissions."
            ) from error
        raise Corrupt(
            f"{source.name} is cut short or damaged", received=str(error), fix="Download or pack it again."
        ) from error


def _read_format(source: Source, types: Mapping[str, str], encoding: str | None) -> pa.Table:
    match source.format:
        case "csv" | "tsv":
            return delimited.tidy_quoted_numbers(delimited.read(source, types, encoding), types)
        case "jsonl":
            return documents.read_jsonl(source, encoding)
        case "json":
            return documents.read_json(source, encoding)
        case "text":
            return documents.read_text(source, encoding)
        case "parquet":
            return tables.read_parquet(source)
        case "arrow":
            return tables.read_arrow(source)
        case "npz":
            return tables.read_npz(source)
    raise InvalidInput(
        "this format is not read", received=source.name, expected=ACCEPTED, fix="Save it as CSV or Parquet."
    )


def _read_tree(tree: Tree, types: Mapping[str, str], encoding: str | None, progress: Progress) -> pa.Table:
    """A folder or zip: idx files, images, sounds, class folders of texts, or tables of one format."""
    if any(idx.is_idx(name) for name in tree.names):
        return idx.read_tree(tree)
    found: dict[str, list[str]] = {}
    for name in tree.names:
        if (kind := format_of(name)[0]) in TABULAR.values():
            found.setdefault(kind, []).append(name)
    media = folders.read_media(tree, progress)
    if media is not None:
        listed = [name for kind, names in found.items() if kind != "text" for name in names]
        tables_beside = [_read_file(member_source(tree, name), types, encoding) for name in listed]
        return folders.join_facts(media, tables_beside)
    for kind in ("parquet", "arrow", "csv", "tsv", "jsonl", "npz", "json"):
        if kind in found:
            return _read_tables(tree, found[kind], types, encoding)
    if "text" in found:
        return folders.read_texts(tree)
    raise InvalidInput(
        f"there is nothing in {tree.path.name} that is read", received=", ".join(tree.names[:5]), expected=ACCEPTED
    )


def _read_tables(tree: Tree, names: list[str], types: Mapping[str, str], encoding: str | None) -> pa.Table:
    """Files of one format as one table; `train.csv` and `test.csv` become parts."""
    read_tables = {name: _read_file(member_source(tree, name), types, encoding) for name in names}
    if len(names) == 1:
        return read_tables[names[0]]
    parts = {Path(name).name.split(".")[0].lower(): table for name, table in read_tables.items()}
    if len(parts) == len(names) and all(part in PARTS for part in parts):
        return join_parts(parts)
    try:
        return pa.concat_tables(read_tables.values(), promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidInput(
            f"the files in {tree.path.name} have different columns",
            received=", ".join(names[:5]),
            fix="Import one of them.",
        ) from error
