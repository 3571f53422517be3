"""`lep deploy`: a model of the zoo as an endpoint of the cloud, and its next version by a rolling update."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput, LeptonError, NotFound, Unavailable
from ..base.home import Home
from .output import print_json

if TYPE_CHECKING:
    from ..client.workspace import Workspace

SHAPE = "cpu.small"
POLL_S = 0.2


@click.command()
@click.argument("model")
@click.option("--name", "-n", help="Name of the endpoint. Default: the model's.")
@click.option("--replicas", default=None, type=click.IntRange(0, 1000), help="Replicas. Default: 1, or as it is.")
@click.option("--max-replicas", type=click.IntRange(1, 1000), help="It grows to so many by requests (--qpm).")
@click.option("--qpm", type=click.FloatRange(0, min_open=True), help="Requests a minute that one replica should get.")
@click.option("--resource-shape", "-rs", help=f"Size of a replica. Default: {SHAPE}, or as it is.")
@click.option("--tokens", multiple=True, help="Clients must send one of these as a Bearer token. Repeatable.")
@click.option(
    "--public", is_flag=True, help="Anybody may call it. Default: only who has a token or key of the workspace."
)
@click.option("--on", "workspace", metavar="WORKSPACE", help="Another workspace than the current one.")
@click.option(
    "--timeout", "timeout_s", default=600.0, show_default=True, type=click.FloatRange(0), help="Seconds to wait."
)
@click.option("--no-wait", is_flag=True, help="Do not wait until it is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def deploy(
    model: str, name: str | None, workspace: str | None, timeout_s: float, no_wait: bool, as_json: bool, **wanted: Any
) -> None:
    """Make MODEL (name, name@version or name@tag) an endpoint, or give an endpoint that is there this version.

    The new version takes over by a rolling update: no request fails, and one that is worse comes back by itself. What is sent to
    /feedback lands in the workspace: lep feedback to-data NAME DATASET.
    """
    from ..client.workspace import Workspace

    where = Workspace.named(workspace) if workspace else Workspace.current()
    ref = pinned(model, where)
    name = name or ref.partition("@")[0]
    put(where, name, ref, **wanted)
    if not no_wait:
        wait_until_ready(where, name, timeout_s, say=None if as_json else click.echo)
    shown = where.get(f"/deployments/{name}")
    url = shown["status"]["endpoint"]["external_endpoint"]
    if as_json:
        tokens = [one["value"] for one in shown["spec"].get("api_tokens") or [] if "value" in one]
        state = shown["status"]["state"]
        return print_json({"name": name, "model": ref, "url": url, "state": state, "tokens": tokens})
    click.echo(f"{ref} answers on {url}" if not no_wait else f"{ref} will answer on {url}")
    token = next((one["value"] for one in shown["spec"].get("api_tokens") or [] if "value" in one), None)
    header = (
        "" if shown["spec"].get("allow_unauthenticated_access") else f" -H 'authorization: Bearer {token or 'KEY'}'"
    )
    click.echo(f"  try it       curl {url}/predict{header} -H 'content-type: application/json' -d '{{…}}'")
    click.echo(f"  look         lep endpoint status -n {name}      lep endpoint log -n {name}")
    return None


def pinned(model: str, where: Workspace) -> str:
    """`model` with its version, so that a tag that moves later cannot make two replicas differ. Raises NotFound if there is none."""
    from ..zoo.store import ModelStore

    home = Home.current()
    if is_here(where, home):
        return ModelStore(Home(home.root, where.name)).resolve(model).ref
    if "@" not in model:
        raise InvalidInput(
            "the models of another machine are not known here",
            received=model,
            fix="Name a version that its workspace has: MODEL@VERSION.",
        )
    return model


def is_here(where: Workspace, home: Home) -> bool:
    """Whether the server of `where` is the `lep up` of this home."""
    from ..cloud import instance

    state = instance.read_state(home)
    return state is not None and state.url == where.server


def command_of(ref: str, name: str) -> list[str]:
    serve = f"exec lep serve {shlex.quote(ref)} --name {shlex.quote(name)} --host 127.0.0.1 --port $PORT"
    return ["/bin/bash", "-c", serve]


def put(
    where: Workspace,
    name: str,
    ref: str,
    *,
    replicas: int | None = None,
    max_replicas: int | None = None,
    qpm: float | None = None,
    resource_shape: str | None = None,
    tokens: tuple[str, ...] = (),
    public: bool = False,
) -> dict[str, Any]:
    """Make the endpoint, or change it: what is not named stays as it is."""
    if qpm is not None and max_replicas is None:
        raise InvalidInput("--qpm says when replicas are added", fix="Say how many there may be: --max-replicas 4.")
    if public and tokens:
        raise InvalidInput("an endpoint is public, or it wants a token", received="--public with --tokens")
    needs = {"min_replicas": replicas, "max_replicas": max_replicas, "resource_shape": resource_shape}
    spec: dict[str, Any] = {
        "container": {"image": "host", "command": command_of(ref, name)},
        "resource_requirement": {key: value for key, value in needs.items() if value is not None},
    }
    if max_replicas is not None:
        spec["auto_scaler"] = {"target_throughput": {"qpm": qpm or 600.0}}
    if tokens:
        spec["api_tokens"] = [{"value": token} for token in tokens]
    if public:
        spec["allow_unauthenticated_access"] = True
    try:
        kept = where.get(f"/deployments/{name}")
    except NotFound:
        spec["resource_requirement"] = {"min_replicas": 1, "resource_shape": SHAPE} | spec["resource_requirement"]
        return where.call("POST", "/deployments", {"metadata": {"name": name}, "spec": spec})
    if "lep serve " not in " ".join((kept["spec"].get("container") or {}).get("command") or []):
        raise InvalidInput(f"the endpoint {name!r} serves something else than a model", fix="Choose another --name.")
    return where.call("PATCH", f"/deployments/{name}", {"spec": spec})


def wait_until_ready(where: Workspace, name: str, timeout_s: float, say: Any = None) -> None:
    """Raises LeptonError if the version was taken back, Unavailable if it is not ready in time."""
    deadline, seen = time.monotonic() + timeout_s, ""
    while True:
        status = where.get(f"/deployments/{name}")["status"]
        message = status.get("message") or ""
        if "was taken back" in message and status["state"] != "Updating":
            raise LeptonError(message, fix=f"The version before still serves. See: lep endpoint log -n {name}.")
        if status["state"] in ("Ready", "Stopped"):
            return
        if say and status["state"] != seen:
            seen = status["state"]
            say(f"{name}: {seen}")
        if time.monotonic() > deadline or status["state"] == "Not Ready":
            words = last_words(where, name)
            raise Unavailable(
                f"{name} is {status['state']}{f' ({message})' if message else ''}{f': {words}' if words else ''}",
                fix=f"See: lep endpoint log -n {name}.",
            )
        time.sleep(POLL_S)


def last_words(where: Workspace, name: str) -> str:
    """The newest line that a replica wrote: most often why it does not start."""
    found = where.get("/logs", deployment=name, limit=1, direction="backward")["data"]["result"]
    return found[0]["values"][0][1].removeprefix("Error: ").strip() if found else ""
