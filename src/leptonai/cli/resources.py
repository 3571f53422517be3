"""Commands that every kind of resource has, made from one table: list, get, remove, events, replicas, log. The official client's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import print_json, print_table

if TYPE_CHECKING:
    from ..client.workspace import Workspace

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def here() -> Workspace:
    from ..client.workspace import Workspace

    return Workspace.current()


@dataclass(frozen=True)
class Kind:
    """`columns`: (heading, path in the object). `by`: the option that names one."""

    noun: str
    path: str
    by: tuple[str, str]
    columns: tuple[tuple[str, str], ...]
    has: tuple[str, ...] = ("get", "remove")
    keep: Callable[[dict[str, Any]], bool] = lambda one: True


def _is_pod(one: dict[str, Any]) -> bool:
    return bool(one["spec"].get("is_pod"))


_NAME, _ID = ("--name", "-n"), ("--id", "-i")
_COMMON = (("state", "status.state"), ("by", "metadata.created_by"))
ENDPOINT = Kind(
    "endpoint",
    "/deployments",
    _NAME,
    (
        ("name", "metadata.name"),
        *_COMMON,
        ("ready", "status.ready_replicas"),
        ("url", "status.endpoint.external_endpoint"),
    ),
    ("get", "remove", "events", "log"),
    lambda one: not _is_pod(one),
)
POD = Kind("pod", "/deployments", _NAME, (("name", "metadata.name"), *_COMMON), ("get", "remove"), _is_pod)
JOB = Kind(
    "job",
    "/jobs",
    _ID,
    (("name", "metadata.name"), ("id", "metadata.id"), *_COMMON, ("workers", "spec.completions")),
    ("get", "remove", "events", "log", "replicas"),
)
INGRESS = Kind(
    "ingress",
    "/ingress",
    _NAME,
    (("name", "metadata.name"), ("domain", "spec.domain_name"), ("status", "status.validation_status")),
    ("get",),
)


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def show_list(kind: Kind, found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        return print_json(found)
    return print_table(
        [title for title, _ in kind.columns], [[at(one, path) for _, path in kind.columns] for one in found]
    )


def matches(one: dict[str, Any], search: str | None, states: tuple[str, ...], users: tuple[str, ...]) -> bool:
    """Names by a part of them, states and users by their beginning; upper or lower case."""
    about = one["metadata"]
    state, by = str(at(one, "status.state") or "").lower(), str(about.get("created_by") or "").lower()
    return (
        (not search or search.lower() in f"{about.get('name')} {about.get('id')}".lower())
        and (not states or state.replace(" ", "").startswith(tuple(s.lower().replace(" ", "") for s in states)))
        and (not users or by.startswith(tuple(user.lower() for user in users)))
    )


def group_of(kind: Kind, *names: str) -> click.Group:
    """A group with what `kind.has`, and `list`."""
    group = click.Group(names[0], help=f"{kind.noun.capitalize()}s of the workspace.")
    named = click.option(*kind.by, "name", required=True)

    @group.command("list")
    @click.option("--search", "--keyword", "-q", "search", help="Part of the name.")
    @click.option("--name", "-n", "--name-or-id", "part", multiple=True, help="Part of the name.")
    @click.option("--state", "--status", "-s", "states", multiple=True, help="Beginning of the state. Repeatable.")
    @click.option("--created-by", "--user", "-u", "users", multiple=True, help="Who made it. Repeatable.")
    @click.option("--include-archived", "-ia", is_flag=True, hidden=kind is not JOB, help="Archived ones too.")
    @json_option
    def list_(search, part, states, users, include_archived, as_json):
        """List them."""
        found = [one for one in everything(kind, include_archived) if matches(one, search, states, users)]
        found = [one for one in found if not part or any(matches(one, text, (), ()) for text in part)]
        show_list(kind, found, as_json)

    if "get" in kind.has:

        @group.command("get")
        @named
        @click.option("--path", "-p", type=click.Path(path_type=Path), help="Write it there.")
        def get(name, path):
            """Show one as JSON; with --path write it to a file that `create -f` reads."""
            found = here().get(f"{kind.path}/{name}")
            if path is None:
                return print_json(found)
            from ..base.files import write_atomic

            path = path / f"{kind.noun}-{name}.json" if path.is_dir() else path
            write_atomic(path, json.dumps({"spec": found["spec"]}, indent=2))
            return click.echo(f"Written to {path}.")

    if "remove" in kind.has:

        @group.command("remove")
        @named
        def remove(name):
            """Remove it; what runs for it is stopped."""
            here().call("DELETE", f"{kind.path}/{name}")
            click.echo(f"Removed {name}.")

    if "events" in kind.has:

        @group.command("events")
        @named
        @json_option
        def events(name, as_json):
            """What happened to it, the newest last."""
            found = here().get(f"{kind.path}/{name}/events")
            if as_json:
                return print_json(found)
            rows = [
                (one["last_observed_time"], one["type"], one["reason"], one["count"], one.get("message"))
                for one in found
            ]
            return print_table(("at", "", "what", "times", "message"), rows)

    if "replicas" in kind.has:

        @group.command("replicas")
        @named
        @json_option
        def replicas(name, as_json):
            """Its workers."""
            found = here().get(f"{kind.path}/{name}/replicas")
            if as_json:
                return print_json(found)
            rows = [(one["id"], one["status"]["state"], one["status"]["node"]["name"]) for one in found]
            return print_table(("worker", "state", "node"), rows)

    if "log" in kind.has:

        @group.command("log")
        @named
        @click.option("--replica", "-r", help="Of this one only.")
        def log(name, replica):
            """Follow what it writes, of all replicas; Ctrl-C stops following."""
            from .following import follow_endpoint, follow_job

            if kind is JOB:
                follow_job(here(), name, say=click.echo, replica=replica)
            else:
                follow_endpoint(here(), name, replica=replica, say=click.echo)

    return group


def everything(kind: Kind, archived: bool = False) -> list[dict[str, Any]]:
    if kind is not JOB:
        return [one for one in here().get(kind.path) if kind.keep(one)]
    found, page = [], 1
    mode = "alive_and_archive" if archived else "alive_only"
    while some := here().get("/jobs", page=page, page_size=500, job_query_mode=mode)["jobs"]:
        found += some
        page += 1
    return found


def change(kind: Kind, name: str, spec: dict[str, Any], said: str) -> None:
    here().call("PATCH", f"{kind.path}/{name}", {"spec": spec})
    click.echo(f"{name}: {said}.")
