"""The local zoo: `models/<name>/<version>/`, versions 1, 2, 3 … that never change, and tags that move.

A version exists when its folder does: it gets its name by one rename. `index.json` of a name holds the tags and the highest number
ever given, so a number is never given twice. Writers of one name take turns by a file lock; readers need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..base.errors import Conflict, Corrupt, InvalidInput, NotFound, did_you_mean
from ..base.files import folder_atomic, write_atomic
from ..base.home import Home
from ..base.paths import check_name, parse_ref
from ..base.structs import prepare
from .card import README
from .files import copy_model, read_manifest, verify_model
from .manifest import Manifest

LATEST = "latest"
"""The newest version. It is always there and cannot be moved."""
INDEX = "index.json"


class Index(msgspec.Struct):
    last_version: int = 0
    tags: dict[str, int] = {}


prepare(Index)


@dataclass(frozen=True)
class ModelEntry:
    """One published version. `tags` do not include the implied `latest`."""

    name: str
    version: int
    folder: Path
    manifest: Manifest
    tags: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.manifest.files.values())

    @property
    def card(self) -> str:
        path = self.folder / README
        return path.read_text("utf-8", errors="replace") if path.is_file() else ""


class ModelStore:
    def __init__(self, home: Home | None = None):
        self.home = home or Home.current()

    def push(self, folder: str | Path, name: str, tags: Sequence[str] = ()) -> ModelEntry:
        """Publish the model in `folder` as the next version of `name`, verified before and after copying; then move `tags` to it.

        A model with the same content and lineage as an existing version of `name` is that version: nothing is written but the tags.
        """
        check_name(name, "model")
        tags = [check_tag(tag) for tag in tags if tag != LATEST]
        manifest, tensors = verify_model(folder)
        with self._locked(name) as place:
            index = self._index(place)
            version = self._same(place, manifest)
            if version is None:
                version = max([index.last_version, *versions_in(place)]) + 1
                index.last_version = version
                published = msgspec.structs.replace(manifest, name=name, version=version)
                with folder_atomic(place / str(version)) as temporary:
                    copy_model(Path(folder), temporary, published, tensors)
                    verify_model(temporary)
            index.tags.update(dict.fromkeys(tags, version))
            write_atomic(place / INDEX, msgspec.json.encode(index))
        return self.resolve(f"{name}@{version}")

    def pull(self, ref: str, destination: str | Path) -> Path:
        """Copy a version, verified, into the new or empty folder `destination`."""
        entry, destination = self.resolve(ref), Path(destination)
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise Conflict(
                "the destination exists and is not an empty folder",
                received=str(destination),
                fix=f"Give a new folder, for example {entry.name}-{entry.version}.",
            )
        manifest, tensors = verify_model(entry.folder)
        with folder_atomic(destination.absolute()) as temporary:
            copy_model(entry.folder, temporary, manifest, tensors)
            verify_model(temporary)
            if destination.is_dir():
                destination.rmdir()
        return destination

    def list(self, name: str | None = None) -> list[ModelEntry]:
        """All versions, newest first within a name; of one model if `name` is given."""
        names = [check_name(name, "model")] if name else self.names()
        if name and name not in self.names():
            raise self._unknown(name)
        return [
            self._entry(model, version)
            for model in names
            for version in reversed(versions_in(self.home.models / model))
        ]

    def names(self) -> list[str]:
        models = self.home.models
        return sorted(f.name for f in models.iterdir() if versions_in(f)) if models.is_dir() else []

    def resolve(self, ref: str) -> ModelEntry:
        """`mnist` and `mnist@latest` are the newest version, `mnist@3` the third, `mnist@production` the tagged one."""
        name, version = parse_ref(ref, "model")
        place = self.home.models / name
        versions = versions_in(place)
        if not versions:
            raise self._unknown(name)
        if version is None or version == LATEST:
            return self._entry(name, versions[-1])
        if version.isdecimal() and version.isascii():
            if len(version) > 9 or int(version) not in versions:
                raise NotFound(
                    f"model {name!r} has no version {version}", fix=f"There is: {', '.join(map(str, versions[-20:]))}."
                )
            return self._entry(name, int(version))
        tags = self._index(place).tags
        if tags.get(version) not in versions:
            raise NotFound(f"model {name!r} has no tag {version!r}", fix=did_you_mean(version, [*tags, LATEST]))
        return self._entry(name, tags[version])

    show = resolve

    def tag(self, ref: str, tag: str) -> ModelEntry:
        """Let `tag` of this model mean the version `ref`, whatever it meant before."""
        check_tag(tag)
        entry = self.resolve(ref)
        with self._locked(entry.name) as place:
            index = self._index(place)
            index.tags[tag] = self.resolve(entry.ref).version
            write_atomic(place / INDEX, msgspec.json.encode(index))
        return self.resolve(entry.ref)

    def remove(self, ref: str, force: bool = False) -> ModelEntry:
        """Remove one version; a tagged one only by `force`, and then its tags go first. Its number is never given again."""
        name, version = parse_ref(ref, "model")
        if version is None:
            newest = self.resolve(name).ref
            raise InvalidInput(
                "this names a model, not one of its versions", received=ref, expected=f"a version such as {newest}"
            )
        entry = self.resolve(ref)
        with self._locked(name) as place:
            index = self._index(place)
            tags = sorted(tag for tag, number in index.tags.items() if number == entry.version)
            if tags and not force:
                raise Conflict(
                    f"{entry.ref} is tagged {', '.join(tags)}",
                    fix=f"Move the tag with: lep model tag {name}@VERSION {tags[0]}; or remove both with --force.",
                )
            index.tags = {tag: number for tag, number in index.tags.items() if number != entry.version}
            index.last_version = max([index.last_version, *versions_in(place)])
            write_atomic(place / INDEX, msgspec.json.encode(index))
            # A rename takes the version away at once; what a crash leaves under the dotted name is swept by the next writer.
            doomed = place / f".{entry.version}.removed.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(entry.folder, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return entry

    def _entry(self, name: str, version: int) -> ModelEntry:
        place = self.home.models / name
        tags = tuple(sorted(tag for tag, number in self._index(place).tags.items() if number == version))
        return ModelEntry(name, version, place / str(version), read_manifest(place / str(version)), tags)

    def _same(self, place: Path, manifest: Manifest) -> int | None:
        wanted = manifest.content_hash()
        for version in reversed(versions_in(place)):
            if read_manifest(place / str(version)).content_hash() == wanted:
                return version
        return None

    def _index(self, place: Path) -> Index:
        try:
            return msgspec.json.decode((place / INDEX).read_bytes(), type=Index)
        except FileNotFoundError:
            return Index()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Corrupt(
                f"the tags of model {place.name!r} cannot be read",
                received=str(place / INDEX),
                fix="Remove this file, then set the tags again.",
            ) from None

    def _unknown(self, name: str) -> NotFound:
        return NotFound(f"there is no model {name!r}", fix=did_you_mean(name, self.names()))

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """The folder of `name`, while no other process or thread writes in it; leftovers of killed writers are swept."""
        place = self.home.models / name
        place.mkdir(parents=True, exist_ok=True)
        with open(place / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in place.glob(".*"):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                elif leftover.name.startswith(f".{INDEX}."):
                    leftover.unlink(missing_ok=True)
            yield place


def versions_in(place: Path) -> list[int]:
    """Versions in ascending order."""
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        int(name) for name in names if name.isascii() and name.isdecimal() and name[0] != "0" and len(name) <= 9
    )


def check_tag(tag: str) -> str:
    check_name(tag, "tag")
    if tag == LATEST or tag[0].isdecimal():
        raise InvalidInput(
            "this cannot be a tag",
            received=tag,
            expected="a word such as production",
            fix=f"Numbers and {LATEST!r} name versions already.",
        )
    return tag
