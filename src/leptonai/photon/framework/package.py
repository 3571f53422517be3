"""The `.photon` package: a zip of `metadata.json`, source under `src/` and extra files under `extra/`. Owns what may be in one.

Never a pickle: what the official library pickled is here the source it came from. Archives of others are hostile until read: names,
kinds, counts and sizes are checked before anything is written, and again while unpacking.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import stat
import sys
import unicodedata
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused, disk_errors
from ...base.files import folder_atomic, fsync_file, fsync_folder, sha256_file
from ...base.home import Home
from ...base.paths import resolve_within
from .photon import Photon
from .source import class_of, clone, import_file, local_modules

FORMAT = "lepton-source-1"
MAX_MEMBERS, MAX_BYTES, MAX_RATIO, MAX_METADATA = 10_000, 4 << 30, 100, 4 << 20
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # equal content is an equal archive


def write(photon: Any, path: Path) -> Path:
    """Pack a photon (or a model string's, which has no source). The file is whole or absent."""
    import msgspec

    members: dict[str, Path] = {}
    metadata = {**photon.metadata, "format": FORMAT}
    if isinstance(photon, Photon) and type(photon).photon_type == "photon":
        source = inspect.getsourcefile(type(photon))
        if source is None or "<locals>" in type(photon).__qualname__:
            raise InvalidInput(
                f"{type(photon).__name__} has no source file of its own",
                fix="Put the class at the top level of a .py file and pack that.",
            )
        members = {f"src/{file.name}": file for file in (Path(source), *local_modules(Path(source)))}
        metadata["entry"] = f"src/{Path(source).name}:{type(photon).__qualname__}"
        extra = extra_files(type(photon).extra_files, Path.cwd())
        members |= {f"extra/{name}": file for name, file in extra.items()}
        metadata["extra_files"] = sorted(extra)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo("metadata.json", _FIXED_TIME), msgspec.json.encode(metadata))
                for name, file in sorted(members.items()):
                    info = zipfile.ZipInfo(name, _FIXED_TIME)
                    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (file.stat().st_mode & 0o755) << 16
                    with archive.open(info, "w", force_zip64=True) as out, open(file, "rb") as data:
                        shutil.copyfileobj(data, out)
            fsync_file(temporary)
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def extra_files(declared: Mapping[str, str] | list[str], root: Path) -> dict[str, Path]:
    """Name in the package → file. A folder is taken whole; a link is refused, since it could bring a file that was not meant."""
    pairs = declared.items() if isinstance(declared, Mapping) else [(one, one) for one in declared]
    found: dict[str, Path] = {}
    for name, local in pairs:
        name, path = str(PurePosixPath(str(name))), root / local
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise Refused(
                "an extra file has to be inside the working folder",
                received=name,
                expected="a relative path without '..'",
            )
        if not path.exists():
            raise NotFound("an extra file is not there", received=str(local))
        files = (
            sorted(one for one in path.rglob("*") if not one.is_dir() or one.is_symlink())
            if path.is_dir() and not path.is_symlink()
            else [path]
        )
        for file in files:
            if file.is_symlink():
                raise Refused("an extra file is a link", received=str(file), fix="Copy the file that it points at.")
            found[str(PurePosixPath(name, *file.relative_to(path).parts)) if file != path else name] = file
    return found


def read_metadata(path: Path) -> dict[str, Any]:
    """The manifest; nothing else of the archive is read. Raises Corrupt, or InvalidInput for what is no photon."""
    import msgspec

    try:
        with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as member:
            text = member.read(MAX_METADATA + 1)
        found = msgspec.json.decode(text)
    except FileNotFoundError:
        raise NotFound("there is no such photon file", received=str(path)) from None
    except Exception as error:  # zipfile and its decompressors raise classes of many kinds
        raise Corrupt(f"{path.name} is not a photon: a zip with metadata.json", received=type(error).__name__) from None
    if len(text) > MAX_METADATA or not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise Corrupt(f"{path.name} has no usable metadata.json")
    return found


def unpack(path: Path, home: Home | None = None) -> Path:
    """The package's files in a folder of the cache, named by its hash; done once. Refuses the whole archive for one bad member."""
    folder = (home or Home.current()).cache / "photons" / sha256_file(path)
    if folder.is_dir():
        return folder
    with zipfile.ZipFile(path) as archive, folder_atomic(folder) as target:
        members = check_members(archive, path.stat().st_size)
        for info in members:
            if info.filename.endswith(".pkl"):
                continue  # an official package's pickle stays where it is
            to = resolve_within(target, info.filename)
            to.parent.mkdir(parents=True, exist_ok=True)
            _extract(archive, info, to)
    return folder


def check_members(archive: zipfile.ZipFile, packed_bytes: int) -> list[zipfile.ZipInfo]:
    """Every member if all are plain files with plain names, within bounds; raise Refused otherwise."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise Refused("the package holds too many files", received=len(infos), expected=f"at most {MAX_MEMBERS}")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES or total > MAX_RATIO * max(packed_bytes, 1 << 14):
        raise Refused("the package unpacks to too much", received=f"{total} bytes from {packed_bytes}")
    seen: set[str] = set()
    for info in infos:
        name, mode = info.orig_filename, info.external_attr >> 16
        parts = PurePosixPath(name).parts
        bad_name = (
            not name
            or "\0" in name
            or "\\" in name
            or ":" in name
            or name.startswith("/")
            or ".." in parts
            or len(name) > 512
        )
        if bad_name or any(ord(c) < 32 for c in name) or max(map(len, parts), default=0) > 200:
            raise Refused("the package has a member whose name leads elsewhere", received=name)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
            raise Refused("the package has a link, a device or an encrypted member", received=name)
        key = unicodedata.normalize("NFC", "/".join(parts)).casefold()
        if key in seen:
            raise Refused("the package has two members of one name", received=name)
        seen.add(key)
    files = [info for info in infos if not info.is_dir()]
    names = {info.filename for info in files}
    if any(str(parent) in names for info in files for parent in PurePosixPath(info.filename).parents):
        raise Refused("the package has a member that is a file and a folder")
    return files


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, to: Path) -> None:
    left = info.file_size
    try:
        with archive.open(info) as data, open(to, "xb") as out:
            while chunk := data.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise Refused("a member of the package is larger than it says", received=info.filename)
                out.write(chunk)
    except (Refused, OSError):
        raise
    except Exception as error:
        raise Corrupt(f"{info.filename} of the package cannot be unpacked", received=type(error).__name__) from None
    if info.external_attr >> 16 & 0o100:
        to.chmod(0o755)


def photon_class(path: Path, home: Home | None = None) -> tuple[type[Photon], dict[str, Any]]:
    """The class in a package of source, ours or the official library's; its extra files are put into the working folder."""
    metadata = read_metadata(path)
    folder = unpack(path, home)
    entry = metadata.get("entry")
    if metadata.get("vcs_url") and not entry:
        return _from_vcs(metadata, home), metadata
    if entry is None:
        entry = _official_entry(metadata, folder)
    file, _, name = str(entry).partition(":")
    _place_extra(folder / "extra", Path.cwd())
    return class_of(import_file(resolve_within(folder, file)), name or None), metadata


def load(path: Path, home: Home | None = None) -> Any:
    """The photon of a package, ready to be called or launched."""
    metadata = read_metadata(path)
    if metadata.get("type", "photon") != "photon" or (
        metadata.get("entry") is None and metadata.get("format") == FORMAT
    ):
        from .models import create

        return create(metadata["name"], str(metadata["model"]), home)
    found, metadata = photon_class(path, home)
    return found(metadata["name"], metadata.get("model"))


def _official_entry(metadata: dict[str, Any], folder: Path) -> str:
    about = metadata.get("py_obj") or {}
    source = next(
        (
            one
            for one in (about.get("src_file"), "py.py")
            if isinstance(one, str) and (folder / Path(one).name).is_file()
        ),
        None,
    )
    if source is None:
        name = about.get("name") or "CLASS"
        raise Refused(
            f"the package {metadata['name']!r} holds its class only as a pickle, which is never loaded",
            fix=f"Create it again from its source: lep photon create -n {metadata['name']} -m FILE.py:{name}.",
        )
    return f"{Path(source).name}:{about.get('name') or ''}"


def _from_vcs(metadata: dict[str, Any], home: Home | None) -> type[Photon]:
    """`git+URL[@revision][:folder]`: the class is in the repository."""
    text = str(metadata["vcs_url"]).removeprefix("git+")
    scheme, _, rest = text.partition("://")
    rest, _, folder = rest.partition(":")
    rest, _, revision = rest.partition("@")
    about = metadata.get("py_obj") or {}
    where = clone(f"{scheme}://{rest}", revision or None, home)
    return class_of(
        import_file(resolve_within(where, folder, str(about.get("src_file") or "main.py"))), about.get("name")
    )


def _place_extra(extra: Path, target: Path) -> None:
    """Copy into the working folder; a different file of that name is not overwritten."""
    if not extra.is_dir() or extra == target:
        return
    for file in sorted(one for one in extra.rglob("*") if one.is_file()):
        to = resolve_within(target, str(file.relative_to(extra)))
        if to.is_file() and hashlib.sha256(to.read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest():
            continue
        if to.exists():
            raise Conflict(
                "an extra file of the photon would replace a file of yours",
                received=str(to),
                fix="Run it in an empty folder.",
            )
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    if str(target) not in sys.path:
        sys.path.append(str(target))
