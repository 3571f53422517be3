"""Zip archives that hold a model. Owns what is read of one: regular members, by their names, to a bound that is kept while reading."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...base.errors import Corrupt, Refused

MAX_MEMBERS = 100_000
MAX_RATIO = 100
"""A member that unpacks to more than this many times its size is a bomb: weights hardly shrink."""


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, read-only. Raises Corrupt for what is none, Refused for one with duplicate or endless members."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Corrupt(f"{path.name} is not a whole archive", received=str(error)) from None
    with archive:
        names = [info.filename for info in archive.infolist()]
        if len(names) > MAX_MEMBERS or len(set(names)) != len(names):
            raise Refused(f"{path.name} has too many members, or two of one name", received=f"{len(names):,} members")
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, limit_bytes: int) -> bytes:
    """One member's bytes, its checksum verified. Raises Refused for one beyond the limit, Corrupt for a damaged one."""
    info = archive.getinfo(name)
    if info.file_size > limit_bytes or info.file_size > MAX_RATIO * max(info.compress_size, 1 << 10):
        raise Refused(f"{name} in the archive is too large", received=f"{info.file_size:,} bytes")
    try:
        with archive.open(info) as file:
            data = file.read(info.file_size + 1)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise Corrupt(f"{name} in the archive cannot be read", received=str(error)) from None
    except Exception as error:  # zlib, lzma and bz2 raise classes of their own
        raise Corrupt(f"{name} in the archive cannot be unpacked", received=str(error)) from None
    if len(data) != info.file_size:
        raise Corrupt(f"{name} in the archive is not as long as it says", received=f"{len(data):,} bytes")
    return data
