"""The folder of a dataset: a Lance table and `versions/<n>.json`. A version exists if, and only if, its file does.

    datasets/<name>/table.lance/     all versions share it; Lance keeps old files as long as the folder lives
                    versions/3.json  written last, after everything it names is on disk: the commit point
                    versions/2.removed   a number is never given twice
                    .lock            held while a version is being made

A crash leaves at most files that no version names. The next writer takes the table back to the newest version and goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import pyarrow as pa

from ..base.errors import Corrupt, DiskFull, NotFound, did_you_mean, disk_errors
from ..base.files import fsync_file, fsync_folder, write_atomic
from ..base.home import Home
from ..base.paths import check_name

FULL = re.compile(r"os error (28|27|122)\b")
"""How Lance words ENOSPC, EFBIG and EDQUOT."""


def physical(name: str) -> str:
    """The column's name in the table: Lance gives dots and some names with a leading underscore a meaning, so they are quoted."""
    quoted = name.replace("%", "%25").replace(".", "%2E")
    return "%5F" + quoted[1:] if quoted.startswith("_") else quoted


def logical(name: str) -> str:
    """The inverse of `physical`."""
    return unquote(name)


class Store:
    """The versions of one dataset."""

    def __init__(self, name: str, home: Home):
        self.name, self.home = check_name(name, "dataset"), home
        self.folder = home.datasets / self.name
        self.table = self.folder / "table.lance"

    def versions(self) -> list[int]:
        return sorted(self._numbers(".json"))

    def read(self, version: int) -> dict[str, Any]:
        path = self.folder / "versions" / f"{version}.json"
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(
                f"dataset {self.name} has no version {version}",
                fix=f"There is: {', '.join(map(str, self.versions())) or 'none'}.",
            ) from None
        except ValueError as error:
            raise Corrupt(
                f"{path.name} of dataset {self.name} is damaged",
                fix="Restore it from a backup, or import the data again.",
            ) from error
        if record.get("name") != self.name or record.get("version") != version:
            raise Corrupt(f"{path.name} of dataset {self.name} belongs to another version", received=record.get("name"))
        return record

    def open(self, lance_version: int):
        import lance

        try:
            return lance.dataset(str(self.table), version=lance_version)
        except (OSError, ValueError) as error:
            raise Corrupt(
                f"the table of dataset {self.name} is damaged or gone",
                received=str(error),
                fix="Import the data again.",
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time, in all processes. What a crashed writer left in the table is taken back first."""
        with disk_errors(f"dataset {self.name}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self._is_current(lock):
                    # The dataset was removed while this writer waited: its lock went with it.
                    with self.writing():
                        yield
                    return
                self._take_back()
                yield

    def _is_current(self, lock: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(lock.fileno()), os.stat(self.folder / ".lock"))
        except FileNotFoundError:
            return False

    def _take_back(self) -> None:
        import lance

        versions = self.versions()
        if not versions:
            # Only a crashed first import can have left a table.
            shutil.rmtree(self.table, ignore_errors=True)
            return
        committed = self.read(versions[-1])["lance_version"]
        if self.open(committed).latest_version != committed:
            lance.dataset(str(self.table), version=committed).restore()

    @contextmanager
    def durable(self) -> Iterator[None]:
        """Around writes to the table: on success its new files are fsynced, on failure they are removed; a full disk is DiskFull."""
        before = set(self._files())
        try:
            yield
            with disk_errors(f"dataset {self.name}"):
                new = set(self._files()) - before
                for file in new:
                    fsync_file(file)
                for folder in {file.parent for file in new}:
                    fsync_folder(folder)
        except BaseException as error:
            for file in set(self._files()) - before:
                file.unlink(missing_ok=True)
            if not before:
                shutil.rmtree(self.table, ignore_errors=True)
            if isinstance(error, OSError) and FULL.search(str(error)):
                raise DiskFull(
                    f"the disk is full; dataset {self.name} was not changed",
                    fix="Free space, or move LEPTON_HOME to a larger disk, and run the command again.",
                ) from error
            raise

    def commit(self, record: dict[str, Any]) -> int:
        """Give the record the next number and make it a version."""
        version = max([*self._numbers(".json"), *self._numbers(".removed"), 0]) + 1
        record = {"format": 1, "name": self.name, "version": version, **record}
        write_atomic(self.folder / "versions" / f"{version}.json", json.dumps(record, indent=1, ensure_ascii=False))
        return version

    def write(self, data: pa.Table, mode: str) -> int:
        """Write rows (`create`, `overwrite` or `append`) and return the Lance version."""
        import lance

        data = data.rename_columns([physical(name) for name in data.column_names])
        return lance.write_dataset(data, str(self.table), mode=mode).version

    def remove_version(self, version: int) -> None:
        self.read(version)
        path = self.folder / "versions" / f"{version}.json"
        os.replace(path, path.with_suffix(".removed"))
        fsync_folder(path.parent)

    def remove(self) -> None:
        """The whole dataset. It is gone at once, by a rename; its files are deleted after."""
        trash = Path(tempfile.mkdtemp(dir=self.home.datasets, prefix=f".removed-{self.name}."))
        os.rename(self.folder, trash / self.name)
        fsync_folder(self.home.datasets)
        shutil.rmtree(trash, ignore_errors=True)

    def _numbers(self, suffix: str) -> Iterator[int]:
        folder = self.folder / "versions"
        if folder.is_dir():
            yield from (int(file.stem) for file in folder.iterdir() if file.suffix == suffix and file.stem.isdecimal())

    def _files(self) -> list[Path]:
        return [file for file in self.table.rglob("*") if file.is_file()] if self.table.is_dir() else []


def names(home: Home) -> list[str]:
    """Datasets that have a version, sorted."""
    if not home.datasets.is_dir():
        return []
    found = [folder.name for folder in home.datasets.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(name for name in found if Store(name, home).versions())


def existing(name: str, home: Home) -> Store:
    """The store of a dataset that has a version; raise NotFound with the nearest name."""
    store = Store(name, home)
    if not store.versions():
        known = names(home)
        fix = did_you_mean(name, known) if known else "Import it: lep data import NAME PATH."
        raise NotFound("there is no such dataset", received=name, fix=fix)
    return store
