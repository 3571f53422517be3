"""Packages of photons on this machine: `photons/<name>/<time>-<hash>.photon`. A name can have several; the newest counts."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import NotFound, did_you_mean
from ...base.files import folder_atomic, sha256_file
from ...base.home import Home
from .package import read_metadata, write
from .photon import check_photon_name


@dataclass(frozen=True)
class Package:
    name: str
    path: Path
    created_ms: int

    @property
    def id(self) -> str:
        return f"{self.name}-{self.path.parent.name.partition('-')[2]}"

    @property
    def metadata(self) -> dict[str, Any]:
        return read_metadata(self.path)


def _folder(home: Home | None) -> Path:
    return (home or Home.current()).folder / "photons"


def keep(photon: Any, home: Home | None = None) -> Package:
    """Pack a photon and keep it under its name; equal content is the package that exists."""
    name = check_photon_name(photon._photon_name)
    draft = _folder(home) / f".{name}-{time.time_ns()}.photon"
    try:
        write(photon, draft)
        return add(draft, home)
    finally:
        draft.unlink(missing_ok=True)


def add(path: Path, home: Home | None = None) -> Package:
    """Keep a package that came from elsewhere; its bytes stay as they are."""
    name = check_photon_name(read_metadata(path)["name"])
    digest = sha256_file(path)[:8]
    for one in versions(name, home):
        if one.path.parent.name.endswith(digest):
            return one
    now = time.time_ns() // 1_000_000
    with folder_atomic(_folder(home) / name / f"{now}-{digest}") as folder:
        shutil.copyfile(path, folder / f"{name}.photon")
    return Package(name, _folder(home) / name / f"{now}-{digest}" / f"{name}.photon", now)


def versions(name: str, home: Home | None = None) -> list[Package]:
    """Newest first."""
    folder = _folder(home) / check_photon_name(name)
    found = [one for one in folder.glob("[0-9]*-*") if (one / f"{name}.photon").is_file()] if folder.is_dir() else []
    packages = [Package(name, one / f"{name}.photon", int(one.name.partition("-")[0])) for one in found]
    return sorted(packages, key=lambda one: (one.created_ms, one.path), reverse=True)


def packages(home: Home | None = None) -> list[Package]:
    folder = _folder(home)
    names = (
        sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        if folder.is_dir()
        else []
    )
    return [one for name in names for one in versions(name, home)]


def find(name: str, home: Home | None = None) -> Package:
    """By name (the newest) or by id. Raises NotFound."""
    known = packages(home)
    for one in known:
        if name in (one.name, one.id):
            return one
    raise NotFound(f"there is no photon {name!r} on this machine", fix=did_you_mean(name, {one.name for one in known}))


def remove(name: str, home: Home | None = None, *, all_versions: bool = False) -> int:
    """How many packages went: the newest of the name, or the one of that id; or all of the name."""
    chosen = find(name, home)
    gone = versions(chosen.name, home) if all_versions else [chosen]
    for one in gone:
        shutil.rmtree(one.path.parent)
    if not versions(chosen.name, home):
        shutil.rmtree(_folder(home) / chosen.name, ignore_errors=True)
    return len(gone)
