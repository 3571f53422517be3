"""Files of a folder or a zip, by their relative path. A zip is read in place: nothing of it is ever written to disk.

A zip is refused whole if one of its names leads out of it, is a link, or if it unpacks to more than it may.
"""

from __future__ import annotations

import io
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..base.errors import Corrupt, InvalidInput, Refused
from ..base.paths import resolve_within

MOST_BYTES = 64 * 2**30
MOST_MEMBERS = 5_000_000
MOST_RATIO = 100
"""Unpacked over packed bytes; real archives of images, sound and text stay below 30."""
RATIO_MATTERS_FROM = 2**20


@dataclass(frozen=True)
class Tree:
    """`names`: sorted relative paths with '/', hidden files and folders left out, a single top folder stripped."""

    path: Path
    names: tuple[str, ...]
    prefix: str = ""
    archive: zipfile.ZipFile | None = None

    def read(self, name: str) -> bytes:
        if self.archive is None:
            return resolve_within(self.path, self.prefix + name).read_bytes()
        try:
            return self.archive.read(self.prefix + name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise Corrupt(
                f"{name} in {self.path.name} cannot be unpacked ({error})", fix="Download the archive again."
            ) from error

    def open(self, name: str) -> BinaryIO:
        if self.archive is None:
            return open(resolve_within(self.path, self.prefix + name), "rb")
        return io.BytesIO(self.read(name))

    def label(self, name: str) -> str:
        folder = f"{self.path.name}/" if self.path.name else ""  # the folder that we are in has no name
        return f"{folder}{self.prefix}{name}"


def open_tree(path: Path) -> Tree:
    """The files below a folder, or in a zip; raise Refused for a zip that is not safe, InvalidInput for an empty one."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        archive = None
        if len(names) == 1 and names[0].lower().endswith(".zip"):
            return open_tree(path / names[0])
    else:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise Corrupt(f"{path.name} is not a whole zip archive", fix="Download or pack it again.") from error
        names = _check(path, archive)
    names = sorted(name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))
    if not names:
        raise InvalidInput(
            "there are no files in it", received=path.name, fix="Give a folder or archive that holds data."
        )
    prefix = ""
    # An archive, or a download, is often one folder in a folder: that folder is not a class.
    while len(tops := {name[len(prefix) :].split("/")[0] for name in names}) == 1 and all(
        "/" in name[len(prefix) :] for name in names
    ):
        prefix += tops.pop() + "/"
    return Tree(path, tuple(name[len(prefix) :] for name in names), prefix, archive)


def _check(path: Path, archive: zipfile.ZipFile) -> list[str]:
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise Refused(f"{path.name} has too many members", received=len(members), expected=f"at most {MOST_MEMBERS:,}")
    names: dict[str, str] = {}
    total = packed = 0
    for member in members:
        name = member.orig_filename
        parts = PurePosixPath(name.replace("\\", "/"))
        if (
            "\0" in name
            or "\\" in name
            or name.startswith("/")
            or ".." in parts.parts
            or (len(name) > 1 and name[1] == ":")
        ):
            raise Refused(
                f"{path.name} holds a name that leads out of it",
                received=name,
                fix="Pack it again with relative paths.",
            )
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(f"{path.name} holds a link or device", received=name, fix="Pack the files themselves.")
        if member.flag_bits & 1:
            raise InvalidInput(
                f"{path.name} is encrypted", received=name, fix="Unpack it yourself and import the folder."
            )
        if member.is_dir():
            continue
        # Two names that differ in case only are one file on half of the world's disks.
        if name.casefold() in names:
            raise Refused(
                f"{path.name} holds the same name twice", received=name, fix="Pack it again with unique names."
            )
        names[name.casefold()] = name
        total, packed = total + member.file_size, packed + member.compress_size
        if member.file_size > RATIO_MATTERS_FROM and member.file_size > MOST_RATIO * max(member.compress_size, 1):
            raise Refused(
                f"{path.name} unpacks to more than {MOST_RATIO} times its size",
                received=name,
                fix="Unpack it yourself if you trust it.",
            )
    if total > MOST_BYTES:
        raise Refused(
            f"{path.name} unpacks to too much", received=f"{total:,} bytes", expected=f"at most {MOST_BYTES:,}"
        )
    if total > RATIO_MATTERS_FROM and total > MOST_RATIO * max(packed, 1):
        raise Refused(
            f"{path.name} unpacks to more than {MOST_RATIO} times its size", fix="Unpack it yourself if you trust it."
        )
    return list(names.values())
