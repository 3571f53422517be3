"""A photon as a deployment of the workspace: made, waited for, removed. Speaks the workspace's API, nothing else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...base.errors import Conflict, NotFound, Unavailable
from ...base.sockets import is_loopback

if TYPE_CHECKING:
    from ...client.workspace import Workspace


def deploy(
    workspace: Workspace,
    photon_id: str,
    name: str,
    *,
    resource_shape: str = "cpu.small",
    min_replicas: int = 1,
    env: dict[str, str] | None = None,
    secrets: dict[str, str] | None = None,
    public: bool = False,
    replace: bool = False,
) -> str:
    """The URL of the deployment, which may still be starting. Raises Conflict where the name is taken and `replace` is not said."""
    if replace:
        remove(workspace, name)
    check_free(workspace, name)
    envs = [{"name": key, "value": value} for key, value in (env or {}).items()]
    envs += [{"name": key, "value_from": {"secret_name_ref": value}} for key, value in (secrets or {}).items()]
    # On this machine the server's `lep` is this interpreter's; elsewhere it is the one on the image's path.
    local = is_loopback(urlsplit(workspace.server).hostname or "")
    lep = [sys.executable, "-m", "leptonai.cli.main"] if local else ["lep"]
    spec: dict[str, Any] = {
        "photon_namespace": "private",
        "photon_id": photon_id,
        "container": {"image": "host", "command": [*lep, "photon", "runlocal", "-i", photon_id]},
        "resource_requirement": {"resource_shape": resource_shape, "min_replicas": min_replicas},
        "health": {"liveness": {"initial_delay_seconds": 60}},
        "envs": envs,
    }
    if public:
        spec["api_tokens"] = []
    found = workspace.call("POST", "/deployments", {"metadata": {"id": name, "name": name}, "spec": spec})
    return (found or {}).get("status", {}).get("endpoint", {}).get("external_endpoint", "")


def check_free(workspace: Workspace, name: str) -> None:
    """Raises Conflict if a deployment of that name is there; to be asked before anything is pushed for it."""
    try:
        workspace.get(f"/deployments/{name}")
    except NotFound:
        return
    raise Conflict(
        f"a deployment named {name!r} is there already", fix="Say --rerun to replace it, or give another name."
    )


def wait_ready(workspace: Workspace, name: str, timeout_s: float = 600) -> str:
    """Its URL once it answers. Raises Unavailable with what the server says of it."""
    deadline = time.monotonic() + timeout_s
    while True:
        status = workspace.get(f"/deployments/{name}").get("status", {})
        if status.get("state") == "Ready":
            return status["endpoint"]["external_endpoint"]
        if time.monotonic() > deadline or status.get("state") == "Error":
            raise Unavailable(
                f"deployment {name} is {status.get('state', 'not ready')}", received=status.get("message")
            )
        time.sleep(0.2)


def remove(workspace: Workspace, name: str, timeout_s: float = 120) -> None:
    """Remove it and wait until the name is free; nothing happens where there is none."""
    deadline = time.monotonic() + timeout_s
    try:
        workspace.call("DELETE", f"/deployments/{name}")
        while time.monotonic() < deadline:
            workspace.get(f"/deployments/{name}")
            time.sleep(0.2)
    except NotFound:
        return
