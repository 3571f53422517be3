"""Photons of the 0.27 generation: archives that are kept and handed back as they came. Nothing in one is run by the plane."""

from __future__ import annotations

import builtins
import re
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from ...base.errors import InvalidInput, NotFound, disk_errors
from ...base.files import fsync_file, fsync_folder, sha256_file
from ..resources.registry import KINDS
from ..store import Resource
from .call import Answer, Call

MAX_METADATA_BYTES = 1 << 20
MAX_ARCHIVE_BYTES = 1 << 30
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?\Z")


def show(resource: Resource) -> dict[str, Any]:
    spec = resource.spec
    return {
        "id": resource.name,
        "name": resource.spec["name"],
        "created_at": resource.created_at,
        "model": spec["model"],
        "image": spec.get("image") or "",
        "requirement_dependency": spec.get("requirement_dependency") or [],
        "cmd": spec.get("cmd"),
        "openapi_schema": spec.get("openapi_schema"),
        "exposed_ports": spec.get("exposed_ports"),
    }


def list(call: Call) -> builtins.list[dict[str, Any]]:
    return [show(one) for one in call.tx.list("photon", call.workspace, limit=10_000)]


def get(call: Call) -> Any:
    photon = call.tx.get("photon", call.workspace, call.path["name"])
    return content(call) if call.flag("content") else show(photon)


def content(call: Call) -> Answer:
    photon = call.tx.get("photon", call.workspace, call.path["name"])
    path = call.plane.photons(call.workspace) / f"{photon.spec['sha256']}.photon"
    if not path.is_file():
        raise NotFound(f"the archive of photon {photon.name!r} is gone")
    return Answer(file=path)


def create(call: Call) -> Answer:
    archive: Path = call.upload  # type: ignore[assignment]
    about = _about(archive)
    name = about.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidInput("this cannot be the name of a photon", received=name, expected="a-z, 0-9 and '-'")
    digest = sha256_file(archive)
    spec = {
        "name": name,
        "model": str(about.get("model") or name),
        "sha256": digest,
        "size_bytes": archive.stat().st_size,
        "image": str(about.get("image") or ""),
        "requirement_dependency": about.get("requirement_dependency") or [],
    }
    if isinstance(about.get("cmd"), builtins.list):
        spec["cmd"] = about["cmd"]
    if isinstance(about.get("openapi_schema"), dict):
        spec["openapi_schema"] = about["openapi_schema"]
    KINDS["photon"].read_spec(spec, "the photon's metadata")
    folder = call.plane.photons(call.workspace)
    target = folder / f"{digest}.photon"
    if not target.exists():
        with disk_errors("the photon"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = folder / f".{digest}.{call.request_id}"
            shutil.copyfile(archive, temporary)
            fsync_file(temporary)
            temporary.replace(target)
            fsync_folder(folder)
    resource = call.tx.create("photon", call.workspace, f"{name}-{secrets.token_hex(4)}", spec)
    return Answer(show(resource), 201)


def _about(archive: Path) -> dict[str, Any]:
    """`metadata.json` of the archive; the only member that is read, and that within bounds."""
    if archive.stat().st_size > MAX_ARCHIVE_BYTES:
        raise InvalidInput("the photon is too large", expected=f"at most {MAX_ARCHIVE_BYTES} bytes")
    try:
        with zipfile.ZipFile(archive) as file, file.open("metadata.json") as member:
            text = member.read(MAX_METADATA_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, OSError, EOFError):
        raise InvalidInput("this is not a photon", expected="a zip archive with metadata.json") from None
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidInput("the photon's metadata is too large", expected=f"at most {MAX_METADATA_BYTES} bytes")
    try:
        about = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidInput("the photon's metadata.json is not JSON") from None
    if not isinstance(about, dict):
        raise InvalidInput("the photon's metadata.json is not an object")
    return about


def delete(call: Call) -> Answer:
    """The archive goes with the last photon that has its bytes."""
    photon = call.tx.get("photon", call.workspace, call.path["name"], lock=True)
    call.tx.purge(call.tx.mark_deleted(photon))
    others = call.tx.list("photon", call.workspace, limit=10_000)
    if all(one.spec["sha256"] != photon.spec["sha256"] for one in others):
        (call.plane.photons(call.workspace) / f"{photon.spec['sha256']}.photon").unlink(missing_ok=True)
    return Answer({})
