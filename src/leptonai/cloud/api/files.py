"""`/storage`: the files of a workspace, one folder on this machine. Every path is resolved inside it before it is touched."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from ...base.errors import Conflict, InvalidInput, NotFound, Refused, disk_errors
from ...base.files import fsync_folder
from ...base.paths import resolve_within
from ..accounts.quotas import check_storage
from .call import Answer, Call

NAME = "default"
MAX_LISTED = 10_000


def systems(call: Call) -> list[dict[str, Any]]:
    return [_system(call)]


def usage(call: Call) -> dict[str, Any]:
    return _system(call)


def _system(call: Call) -> dict[str, Any]:
    return {
        "metadata": {"name": NAME, "id": NAME},
        "status": {"total_usage_bytes": used_bytes(call.plane.storage(call.workspace))},
    }


def used_bytes(folder: Path) -> int:
    """What the files take on the disk. Links are not followed."""
    total, waiting = 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _path(call: Call, text: str | None = None) -> Path:
    """Raises InvalidInput or Refused for what is not a path inside the workspace's storage."""
    text = call.path["path"] if text is None else text
    parts = [part for part in text.split("/") if part]
    if len(text) > 4096 or any(len(part.encode()) > 255 or part in (".", "..") or "\\" in part for part in parts):
        raise InvalidInput("this is not a path of the storage", received=text, expected="names and '/', without '..'")
    root = call.plane.storage(call.workspace)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    return resolve_within(root, *parts)


def _existing(call: Call) -> tuple[Path, os.stat_result]:
    path = _path(call)
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no file or folder {call.path['path']!r}") from None
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise Refused("this is neither a file nor a folder", received=call.path["path"])
    return path, facts


def get(call: Call) -> Answer:
    """The bytes of a file, or what a folder holds."""
    path, facts = _existing(call)
    if stat.S_ISREG(facts.st_mode):
        return Answer(file=path)
    root = call.plane.storage(call.workspace).resolve()
    found = []
    for entry in sorted(path.iterdir())[:MAX_LISTED]:
        kind = "dir" if entry.is_dir() else "file"
        found.append({"type": kind, "name": entry.name, "path": str(entry.relative_to(root))})
    return Answer(found)


def head(call: Call) -> Answer:
    _existing(call)
    return Answer({})


def upload(call: Call) -> Answer:
    """The file becomes whole or not at all; one that was there is replaced."""
    target = _path(call)
    if target.is_dir():
        if not call.upload_name:
            raise Conflict(f"{call.path['path']!r} is a folder", fix="Give the path of the file.")
        target = _path(call, f"{call.path['path']}/{Path(call.upload_name).name}")
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {Path(call.path['path']).parent}", fix="Make it first.")
    replaced = target.stat().st_size if target.is_file() else 0
    size = os.path.getsize(call.upload) - replaced  # type: ignore[arg-type]
    check_storage(call.tx, call.workspace, lambda: used_bytes(call.plane.storage(call.workspace)), size)
    with disk_errors(target.name):
        temporary = target.parent / f".{target.name[:200]}.{call.request_id}"
        try:
            with open(call.upload, "rb") as source, open(temporary, "xb") as file:  # type: ignore[arg-type]
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(target.parent)
    call.tx.audit(call.workspace, "upload", "file", call.path["path"][:250])
    return Answer({"path": call.path["path"]}, 201)


def make_folder(call: Call) -> Answer:
    target = _path(call)
    if target.is_file():
        raise Conflict(f"{call.path['path']!r} is a file")
    with disk_errors(target.name):
        try:
            target.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Conflict(f"a part of {call.path['path']!r} is a file") from None
    return Answer({"path": call.path["path"]}, 201)


def move(call: Call) -> Answer:
    """`{"to": path}`: ours; the official clients have no move."""
    body = call.json(dict)
    if set(body) != {"to"} or not isinstance(body["to"], str) or not body["to"].strip("/"):
        raise InvalidInput("the body has another form", expected='{"to": PATH}')
    source, _ = _existing(call)
    target = _path(call, body["to"])
    _check_not_root(call, source)
    if target.exists():
        raise Conflict(f"{body['to']!r} is there already", fix="Remove it first.")
    if target.is_relative_to(source):
        raise InvalidInput("a folder cannot move into itself", received=body["to"])
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder for {body['to']!r}", fix="Make it first.")
    os.rename(source, target)
    fsync_folder(target.parent)
    call.tx.audit(call.workspace, "move", "file", call.path["path"][:250], {"to": body["to"][:250]})
    return Answer({"path": body["to"]})


def delete(call: Call) -> Answer:
    """A file, an empty folder, or with `removeall=true` a folder and all in it."""
    path, facts = _existing(call)
    _check_not_root(call, path)
    if stat.S_ISREG(facts.st_mode):
        path.unlink()
    elif call.flag("removeall"):
        shutil.rmtree(path)
    else:
        try:
            path.rmdir()
        except OSError:
            raise Conflict(
                f"the folder {call.path['path']!r} is not empty", fix="Remove what is in it, or ask for removeall."
            ) from None
    call.tx.audit(call.workspace, "delete", "file", call.path["path"][:250])
    return Answer({})


def _check_not_root(call: Call, path: Path) -> None:
    if path == call.plane.storage(call.workspace).resolve():
        raise InvalidInput("this is the storage itself", fix="Name something in it.")
