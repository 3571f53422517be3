"""`lep storage`: the files of a workspace."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import click

from ..base.errors import Conflict, InvalidInput, NotFound
from .output import print_json, print_table
from .resources import here, json_option


@click.group()
def storage() -> None:
    """Files of the workspace; a job or endpoint sees them as a mount (--mount /:/mnt/files:node-local)."""


def _url(path: str) -> str:
    return f"/storage/default/{quote(path.strip('/'))}"


@storage.command("ls")
@click.argument("path", default="/")
@json_option
def ls(path, as_json):
    """What a folder holds."""
    found = here().get(_url(path))
    if as_json:
        return print_json(found)
    return print_table(("", "path"), [("folder" if one["type"] == "dir" else "", one["path"]) for one in found])


@storage.command("upload")
@click.argument("local", type=click.Path(exists=True, path_type=Path))
@click.argument("remote", default="/")
@click.option("--recursive", "-r", is_flag=True, help="A folder and all in it.")
def upload(local, remote, recursive):
    """Copy a file, or a folder, there."""
    if local.is_dir() and not recursive:
        raise InvalidInput(f"{local} is a folder", fix="Add --recursive.")
    where, count = here(), 0
    if not local.is_dir():
        target = f"{remote}/{local.name}" if remote.endswith("/") else remote
        _make_folders(where, target.rpartition("/")[0])
        _send(where, local, target)
        return click.echo(f"{local} is {target.strip('/')}.")
    for folder, _, names in os.walk(local):
        inside = Path(folder).relative_to(local).as_posix()
        target = f"{remote.rstrip('/')}/{local.resolve().name}/{'' if inside == '.' else inside}".rstrip("/")
        _make_folders(where, target)
        for name in sorted(names):
            # A link could lead to what nobody meant to copy.
            if not (Path(folder) / name).is_symlink():
                _send(where, Path(folder) / name, f"{target}/{name}")
                count += 1
    return click.echo(f"{count} files copied.")


def _make_folders(where, path: str) -> None:
    if path.strip("/"):
        where.call("PUT", _url(path))


def _send(where, local: Path, target: str) -> None:
    with open(local, "rb") as file:
        where.send("POST", _url(target), files={"file": (local.name, file, "application/octet-stream")})


@storage.command("download")
@click.argument("remote")
@click.argument("local", required=False, type=click.Path(path_type=Path))
def download(remote, local):
    """Copy a file here."""
    import httpx

    local = local or Path(remote.strip("/").rpartition("/")[2])
    local = local / remote.strip("/").rpartition("/")[2] if local.is_dir() else local
    where = here()
    name = remote.strip("/").rpartition("/")[2]
    parent = where.get(_url(remote.strip("/").rpartition("/")[0]))
    kinds = {one["name"]: one["type"] for one in parent}
    if name not in kinds:
        raise NotFound(f"there is no file {remote!r}")
    if kinds[name] == "dir":
        raise InvalidInput(f"{remote!r} is a folder", fix="Download its files one by one.")
    if local.exists():
        raise Conflict(f"{local} is there already", fix="Name another file.")
    temporary = local.with_name(f".{local.name}.part")
    headers = {"authorization": f"Bearer {where.key}"}
    try:
        with (
            httpx.stream("GET", f"{where.url}{_url(remote)}", headers=headers, timeout=120) as answer,
            open(temporary, "wb") as file,
        ):
            if answer.status_code != 200:
                raise NotFound(f"there is no file {remote!r}")
            for chunk in answer.iter_bytes(1 << 20):
                file.write(chunk)
        os.replace(temporary, local)
    finally:
        temporary.unlink(missing_ok=True)
    click.echo(f"{remote.strip('/')} is {local}.")


@storage.command("mkdir")
@click.argument("path")
def mkdir(path):
    """Make a folder, and those above it."""
    here().call("PUT", _url(path))
    click.echo(f"Made {path}.")


@storage.command("mv")
@click.argument("source")
@click.argument("target")
def mv(source, target):
    """Give a file or folder another path."""
    here().call("PATCH", _url(source), {"to": target.strip("/")})
    click.echo(f"{source} is {target}.")


@storage.command("rm")
@click.argument("path")
@click.option("--recursive", "-r", is_flag=True, help="A folder and all in it.")
def rm(path, recursive):
    """Remove a file or an empty folder."""
    here().call("DELETE", _url(path), query={"removeall": "true"} if recursive else None)
    click.echo(f"Removed {path}.")


@storage.command("du")
def du():
    """How much there is."""
    click.echo(f"{here().get('/storage/du')['status']['total_usage_bytes'] / (1 << 20):.1f} MiB")
