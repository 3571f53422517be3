"""`/object_storage`: objects by key. Bytes go through a signed URL, which carries its own right: method, workspace, object, 15 minutes.

The files are the workspace's `objects/`, where programs on this machine keep theirs.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from ...base.errors import Corrupt, InvalidInput, NotFound, Unauthenticated, disk_errors
from ...base.files import fsync_folder
from ...base.home import Home
from ...base.paths import resolve_within
from ..plane import Plane
from .call import Answer, Call

SIGNED = "/api/v2/objects/"
"""Paths below it need no key."""
LIFE_S = 900
MAX_LISTED = 10_000
_PLACE = "objects/url"


class _Right(msgspec.Struct):
    method: str
    workspace: str
    bucket: str
    key: str
    until: float


def _bucket(call: Call) -> str:
    bucket = call.path["bucket"].removesuffix("_presigned")
    if bucket not in ("public", "private"):
        raise NotFound(f"there is no object store {bucket!r}", fix="There are public and private.")
    return bucket


def _root(plane: Plane, workspace: str, bucket: str) -> Path:
    return Home(plane.home.root, workspace).folder / "objects" / bucket


def _path(plane: Plane, workspace: str, bucket: str, key: str) -> Path:
    """Raises InvalidInput for what cannot be a key, Refused for one that leads elsewhere."""
    parts = key.split("/")
    if len(key) > 1024 or any(
        not part or part.startswith(".") or "\\" in part or len(part.encode()) > 255 for part in parts
    ):
        raise InvalidInput("this cannot be the key of an object", received=key, expected="like 'images/cat.png'")
    return resolve_within(_root(plane, workspace, bucket), *parts)


def _signed(call: Call, method: str, bucket: str, key: str) -> Answer:
    right = _Right(method, call.workspace, bucket, key, time.time() + LIFE_S)
    token = base64.urlsafe_b64encode(call.plane.vault.seal(msgspec.json.encode(right), _PLACE)).decode()
    url = f"{call.plane.url}{SIGNED}{token}"
    return Answer({"url": url}, 307, {"location": url})


def put(call: Call) -> Answer:
    """Where to PUT the bytes."""
    bucket, key = _bucket(call), call.path["key"]
    _path(call.plane, call.workspace, bucket, key)
    call.tx.audit(call.workspace, "upload", "object", f"{bucket}/{key}"[:250])
    return _signed(call, "PUT", bucket, key)


def get(call: Call) -> Answer:
    """Where to GET the bytes; without a key, what there is."""
    bucket, key = _bucket(call), call.path["key"]
    if not key:
        return Answer(_list(call, bucket))
    if not _path(call.plane, call.workspace, bucket, key).is_file():
        raise NotFound(f"there is no object {key!r} in the {bucket} store")
    return _signed(call, "GET", bucket, key)


def _list(call: Call, bucket: str) -> dict[str, Any]:
    root, prefix, items = _root(call.plane, call.workspace, bucket), call.one("prefix") or "", []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in names:
            path = Path(folder) / name
            key = path.relative_to(root).as_posix()
            if name.startswith(".") or path.is_symlink() or not key.startswith(prefix):
                continue
            facts = path.stat()
            items.append({"key": key, "size": facts.st_size, "last_modified": int(facts.st_mtime * 1000)})
    items.sort(key=lambda one: one["key"])
    return {"items": items[:MAX_LISTED], "prefix": prefix, "nextContinuationToken": None}


def delete(call: Call) -> Answer:
    bucket, key = _bucket(call), call.path["key"]
    path = _path(call.plane, call.workspace, bucket, key)
    if not path.is_file():
        raise NotFound(f"there is no object {key!r} in the {bucket} store")
    path.unlink()
    call.tx.audit(call.workspace, "delete", "object", f"{bucket}/{key}"[:250])
    return Answer({})


def opened(plane: Plane, token: str, method: str) -> Path:
    """The file that a signed URL is about. Raises Unauthenticated if it is not one of ours, not for `method`, or too old."""
    try:
        sealed = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        right = msgspec.json.decode(plane.vault.unseal(sealed, _PLACE), type=_Right)
    except (Corrupt, binascii.Error, ValueError, msgspec.MsgspecError):
        raise Unauthenticated("this URL was not signed here") from None
    if right.method != method or right.until < time.time():
        raise Unauthenticated("this URL is for another method, or its time is over")
    return _path(plane, right.workspace, right.bucket, right.key)


def keep(path: Path, source: Path) -> None:
    """`source` (on the same disk) becomes the object, whole; one that was there is replaced."""
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        temporary = path.parent / f".{source.name}"
        os.link(source, temporary)
        os.replace(temporary, path)
        fsync_folder(path.parent)
