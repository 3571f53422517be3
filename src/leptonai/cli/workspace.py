"""`lep workspace`, `members`, `keys`: the accounts of a workspace, through its API."""

from __future__ import annotations

import datetime

import click

from ..base.errors import InvalidInput
from .output import print_json, print_table

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _current():
    from ..client.workspace import Workspace

    return Workspace.current()


@click.group()
def workspace() -> None:
    """Workspaces: show and change one; make and list them (operators: admins of `default`)."""


@workspace.command("show")
@json_option
def show(as_json: bool) -> None:
    """What is in the workspace, and what it may use."""
    found = _current().get("/workspace")
    if as_json:
        return print_json(found)
    used, limit = found["resource_quota"]["used"], found["resource_quota"]["limit"]
    rows = [(key.removeprefix("num_"), value) for key, value in found["workloads"].items()]
    rows += [(key, f"{used[key]:g} of {limit[key]:g}") for key in ("cpu", "memory", "accelerator_num")]
    rows += [(key, "on" if value else "off") for key, value in found["features"].items()]
    return print_table(("", found["workspace_name"]), [("state", found["workspace_state"]), *rows])


@workspace.command("set")
@click.option("--display-name")
@click.option("--new-api/--no-new-api", default=None, help="Whether official clients use /endpoints and /devpods.")
@click.option(
    "--secure-defaults/--no-secure-defaults", default=None, help="Whether an endpoint without a token gets one."
)
@click.option("--cpu", type=click.FloatRange(0), help="Quota in cores; 0: the machine's.")
@click.option("--memory-gib", type=click.FloatRange(0), help="Quota of memory; 0: the machine's.")
@click.option("--accelerators", type=click.IntRange(0), help="Quota of GPUs; 0: the machine's.")
@click.option("--endpoints", type=click.IntRange(0), help="How many endpoints and pods; 0: any number.")
@click.option("--jobs", type=click.IntRange(0), help="How many jobs that have not ended; 0: any number.")
@click.option("--storage-gib", type=click.FloatRange(0), help="Quota of files; 0: the disk's.")
def set_(display_name, new_api, secure_defaults, cpu, memory_gib, accelerators, endpoints, jobs, storage_gib) -> None:
    """Change settings of the workspace; what is not named stays."""
    features = {"enable_new_deployment_api": new_api, "enable_secure_endpoint_defaults": secure_defaults}
    memory, storage = (None if gib is None else int(gib * (1 << 30)) for gib in (memory_gib, storage_gib))
    quota = {
        "cpu": cpu, "memory_bytes": memory, "accelerators": accelerators,
        "endpoints": endpoints, "jobs": jobs, "storage_bytes": storage,
    }  # fmt: skip
    body = {"features": _given(features), "quota": _given(quota), **_given({"display_name": display_name})}
    body = {key: value for key, value in body.items() if value}
    if not body:
        raise InvalidInput("nothing to change", fix="See lep workspace set --help.")
    _current().call("PATCH", "/workspace", body)
    click.echo("Changed.")


def _given(values: dict) -> dict:
    return {key: value for key, value in values.items() if value is not None}


@workspace.command("create")
@click.argument("name")
@click.option("--admin", help="Its first member. Default: you.")
def create(name: str, admin: str | None) -> None:
    """Make a workspace; prints its admin's key, once."""
    made = _current().call("POST", "/api/v2/workspaces", _given({"name": name, "admin": admin}))
    click.echo(made["key"])


@workspace.command("list")
@json_option
def list_workspaces(as_json: bool) -> None:
    """All workspaces of the server."""
    found = _current().get("/api/v2/workspaces")
    if as_json:
        return print_json(found)
    return print_table(
        ("name", "shown as", "state", "made"),
        [(w["name"], w["display_name"], w["state"], _time(w["created_at"])) for w in found],
    )


@workspace.command("audit")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@json_option
def audit(limit: int, as_json: bool) -> None:
    """Who changed what, the newest first."""
    found = _current().get("/audit", limit=limit)["items"]
    if as_json:
        return print_json(found)
    return print_table(
        ("at", "who", "did", "to"),
        [(one["at"], one["actor"], one["action"], f"{one['kind']}/{one['name']}") for one in found],
    )


@click.group()
def members() -> None:
    """Members of the workspace and their roles: admin, developer, viewer, billing."""


@members.command("list")
@json_option
def list_members(as_json: bool) -> None:
    found = _current().get("/members")
    if as_json:
        return print_json(found)
    return print_table(
        ("name", "role", "added by", "added"),
        [(m["name"], m["role"], m["added_by"], _time(m["added_at"])) for m in found],
    )


@members.command("add")
@click.argument("name")
@click.option("--role", default="developer", show_default=True)
def add_member(name: str, role: str) -> None:
    """Add a member; prints a first key for him, once."""
    click.echo(_current().call("POST", "/members", {"name": name, "role": role})["key"])


@members.command("role")
@click.argument("name")
@click.argument("role")
def change_role(name: str, role: str) -> None:
    """Give a member another role."""
    _current().call("PATCH", f"/members/{name}", {"role": role})
    click.echo(f"{name} is {role}.")


@members.command("remove")
@click.argument("name")
def remove_member(name: str) -> None:
    """Remove a member; his keys end at once."""
    _current().call("DELETE", f"/members/{name}")
    click.echo(f"Removed {name}.")


@click.group()
def keys() -> None:
    """API keys. A key may do what its member's role and one of its scopes allow."""


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    found = _current().get("/keys")
    if as_json:
        return print_json(found)
    rows = [
        (k["prefix"], k["member"], k["label"], ", ".join(k["scopes"]), _time(k["expires_at"]) or "never") for k in found
    ]
    return print_table(("prefix", "member", "label", "scopes", "expires"), rows)


@keys.command("create")
@click.option("--scope", "scopes", multiple=True, help="As `endpoints.*`, `*.read`. Default: those of your key.")
@click.option("--days", type=click.IntRange(1, 3650), help="Expires after so many days. Default: as your key.")
@click.option("--label", default="", help="What it is for.")
@click.option("--member", help="Whose key it is (admins). Default: yours.")
def create_key(scopes: tuple[str, ...], days: int | None, label: str, member: str | None) -> None:
    """Make a key; it is printed once and cannot be read again."""
    expires_at = None
    if days is not None:
        expires_at = int((datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)).timestamp() * 1000)
    body = _given({"scopes": list(scopes) or None, "expires_at": expires_at, "label": label or None, "member": member})
    click.echo(_current().call("POST", "/keys", body)["key"])


@keys.command("revoke")
@click.argument("prefix")
def revoke_key(prefix: str) -> None:
    """End a key at once."""
    _current().call("DELETE", f"/keys/{prefix}")
    click.echo(f"Revoked {prefix}.")


def _time(ms: int | None) -> str:
    return datetime.datetime.fromtimestamp(ms / 1000).isoformat(" ", "minutes") if ms else ""
