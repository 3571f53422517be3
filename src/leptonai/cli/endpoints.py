"""`lep endpoint` (`deployment`) and `lep pod`: with the official client's words and options."""

from __future__ import annotations

from typing import Any

import click

from ..base.errors import InvalidInput, NotFound
from . import workload
from .resources import ENDPOINT, POD, at, change, group_of, here

endpoint = group_of(ENDPOINT, "endpoint")
_named = click.option("--name", "-n", required=True)
_scaling = (
    click.option("--replicas-static", "-r", "-replicas", "static", type=click.IntRange(0), help="So many, always."),
    click.option("--min-replicas", type=click.IntRange(0)),
    click.option("--max-replicas", type=click.IntRange(1)),
    click.option(
        "--autoscale-down", "-ad", metavar="N,SECONDS", help="N replicas; none after so long without a request."
    ),
    click.option("--autoscale-gpu-util", "-agu", metavar="MIN,MAX,PERCENT"),
    click.option("--autoscale-qpm", "-aq", metavar="MIN,MAX,QPM", help="As many as the requests a minute need."),
    click.option(
        "--no-traffic-timeout", type=click.IntRange(0), help="Seconds without a request until it sleeps; 0: never."
    ),
)
_access = (
    click.option("--tokens", multiple=True, help="A token that callers must send. Repeatable."),
    click.option("--public", "--allow-unauthenticated-access", "public", is_flag=True, help="Anybody may call it."),
    click.option("--ip-whitelist", multiple=True, metavar="ADDRESS|NETWORK"),
)
_routing = (
    click.option(
        "--ingress-timeout-seconds", type=click.IntRange(1, 3600), help="The longest that an answer may take."
    ),
    click.option("--load-balance", type=click.Choice(["least-request", "maglev"])),
    click.option("--header-based-routing", type=bool, metavar="true|false"),
)


@endpoint.command("create")
@_named
@click.option(
    "--file", "-f", type=click.Path(exists=True, dir_okay=False), help="A spec (JSON, YAML); options come on top."
)
@click.option("--container-command", help="What to run. As a plain process it listens on $PORT.")
@click.option("--container-port", multiple=True)
@workload.options(workload.image, workload.shape, workload.env, workload.secret, workload.mount, *workload.PLACEMENT)
@workload.options(*_scaling, *_access, *_routing, workload.shared_memory, workload.visibility)
@click.option(
    "--initial-delay-seconds", type=click.IntRange(0), help="How long it may start before it is asked whether it lives."
)
@click.option("--rerun", is_flag=True, help="Remove one of this name first.")
def create(name, file, **given):
    """Make an endpoint from an image, or from a plain command (--container-image host)."""
    spec = workload.from_file(file)
    container = {
        "image": given["container_image"] or (None if file else "host"),
        "command": workload.command(given["container_command"]),
        "ports": workload.ports(given["container_port"]),
    }
    spec = merged(
        spec,
        {
            "container": container,
            "resource_requirement": {"affinity": workload.affinity(given["node_group"])},
            "envs": workload.envs(given["env"], given["secret"]),
            "mounts": workload.mounts(given["mount"]),
            "queue_config": workload.queue(given["queue_priority"], given["can_be_preempted"], given["can_preempt"]),
            "health": {"liveness": {"initial_delay_seconds": given["initial_delay_seconds"]}},
        },
    )
    spec = merged(spec, _changes(given))
    if not file:
        needs = spec.setdefault("resource_requirement", {})
        needs.setdefault("resource_shape", "cpu.small")
        needs.setdefault("min_replicas", 1)
    where = here()
    if given["rerun"]:
        _remove_and_wait(where, name)
    made = where.call(
        "POST",
        "/deployments",
        {"metadata": workload.prune({"name": name, "visibility": given["visibility"]}), "spec": spec},
    )
    click.echo(f"Endpoint {name} is created: {made['status']['endpoint']['external_endpoint']}")
    generated = [
        one["value"] for one in made["spec"].get("api_tokens") or [] if one.get("value") not in given["tokens"]
    ]
    for token in generated:
        click.echo(f"Its token, which was made for it: {token}")


def _remove_and_wait(where: Any, name: str) -> None:
    """The name is free as soon as the old one is marked as removed."""
    try:
        where.call("DELETE", f"/deployments/{name}")
    except NotFound:
        return


@endpoint.command("update")
@_named
@click.option("--container-image", default=None)
@click.option("--container-command", default=None)
@workload.options(workload.shape, *_scaling, *_access, *_routing, workload.shared_memory)
@click.option("--remove-tokens", is_flag=True, help="Callers need a key of the workspace.")
def update(name, container_image, container_command, remove_tokens, **given):
    """Change an endpoint; what needs new replicas is done by a rolling update."""
    spec = merged(
        {"container": workload.prune({"image": container_image, "command": workload.command(container_command)})},
        _changes(given),
    )
    spec = workload.prune(spec)
    if remove_tokens:
        spec["api_tokens"] = None
    if not spec:
        raise InvalidInput("nothing to change", fix="See lep endpoint update --help.")
    change(ENDPOINT, name, spec, "changes")


@endpoint.command("status")
@_named
@click.option("--show-tokens", "-t", is_flag=True)
@click.option("--detail", "-d", is_flag=True, help="Its replicas and how others ended.")
def status(name, show_tokens, detail):
    """Whether it is ready, and where it answers."""
    where = here()
    found = where.get(f"/deployments/{name}")
    for title, path in (
        ("State", "status.state"),
        ("Ready", "status.ready_replicas"),
        ("URL", "status.endpoint.external_endpoint"),
    ):
        click.echo(f"{title:<9} {at(found, path)}")
    if at(found, "status.message"):
        click.echo(f"{'Message':<9} {at(found, 'status.message')}")
    if show_tokens:
        tokens = found["spec"].get("api_tokens") or []
        click.echo(f"{'Tokens':<9} {', '.join(one.get('value') or '?' for one in tokens) or 'none'}")
    if detail:
        for replica, reasons in where.get(f"/deployments/{name}/readiness").items():
            click.echo(f"{replica:<24} {reasons[0]['reason']} {reasons[0]['message']}")
        for replica, ends in where.get(f"/deployments/{name}/termination").items():
            for end in ends:
                click.echo(f"{replica:<24} ended: {end['reason']}, exit code {end['exit_code']} {end['message']}")


@endpoint.command("restart")
@_named
def restart(name):
    """New replicas, by a rolling update."""
    here().call("PUT", f"/deployments/{name}/restart")
    click.echo(f"{name}: restarts.")


@endpoint.command("stop")
@_named
def stop(name):
    """No replicas, until it is updated."""
    change(ENDPOINT, name, {"resource_requirement": {"min_replicas": 0}}, "stops")


deployment = endpoint


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` wins; what it does not say is kept."""
    found = dict(below)
    for key, value in workload.prune(above).items():
        found[key] = (
            merged(found[key], value) if isinstance(value, dict) and isinstance(found.get(key), dict) else value
        )
    return found


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """The part of a spec that both create and update set."""
    spec: dict[str, Any] = {
        "resource_requirement": {
            "resource_shape": given["resource_shape"],
            "shared_memory_size": given["shared_memory_size"],
            "min_replicas": given["min_replicas"],
            "max_replicas": given["max_replicas"],
        },
        "ingress_timeout_seconds": given["ingress_timeout_seconds"],
        "api_tokens": [{"value": token} for token in given["tokens"]],
        "auth_config": {"ip_allowlist": list(given["ip_whitelist"])},
    }
    if given["public"]:
        spec["allow_unauthenticated_access"] = True
    if given["header_based_routing"] is not None:
        spec["routing_policy"] = {"enable_header_based_replica_routing": given["header_based_routing"]}
    spec = merged(spec, _scale(given))
    if given["load_balance"]:  # after pruning: the empty object says which
        spec["load_balance_config"] = {given["load_balance"].replace("-", "_"): {}}
    return spec


def _scale(given: dict[str, Any]) -> dict[str, Any]:
    ways = [
        key for key in ("static", "autoscale_down", "autoscale_gpu_util", "autoscale_qpm") if given[key] is not None
    ]
    if len(ways) > 1:
        raise InvalidInput("an endpoint scales in one way", received=" and ".join(ways).replace("_", "-"))
    needs: dict[str, Any] = {}
    scaler: dict[str, Any] = {}
    if given["static"] is not None:
        needs = (
            {"min_replicas": given["static"], "max_replicas": given["static"]}
            if given["static"]
            else {"min_replicas": 0}
        )
        scaler = {
            "scale_down": {"no_traffic_timeout": 0},
            "target_gpu_utilization_percentage": 0,
            "target_throughput": {"qpm": 0},
        }
    elif given["autoscale_down"]:
        count, seconds = _numbers(given["autoscale_down"], "--autoscale-down", 2)
        needs = {"min_replicas": int(count)}
        scaler = {"scale_down": {"no_traffic_timeout": int(seconds)}}
    elif given["autoscale_gpu_util"] or given["autoscale_qpm"]:
        text, word = (
            (given["autoscale_gpu_util"], "--autoscale-gpu-util")
            if given["autoscale_gpu_util"]
            else (given["autoscale_qpm"], "--autoscale-qpm")
        )
        least, most, target = _numbers(text, word, 3)
        needs = {"min_replicas": int(least), "max_replicas": int(most)}
        scaler = (
            {"target_gpu_utilization_percentage": int(target)}
            if word == "--autoscale-gpu-util"
            else {"target_throughput": {"qpm": target}}
        )
    if given["no_traffic_timeout"] is not None:
        scaler["scale_down"] = {"no_traffic_timeout": given["no_traffic_timeout"]}
    return {"resource_requirement": needs, "auto_scaler": scaler}


def _numbers(text: str, option: str, count: int) -> list[float]:
    parts = text.replace("%", "").removesuffix("s").split(",")
    try:
        found = [float(part) for part in parts]
    except ValueError:
        found = []
    if len(found) != count:
        raise InvalidInput(
            f"{option} takes {count} numbers", received=text, expected="like 1,3,2.5"[: 5 if count == 2 else None]
        )
    return found


pod = group_of(POD, "pod")


@pod.command("create")
@click.option("--name", "-n", required=True)
@click.option(
    "--file", "-f", type=click.Path(exists=True, dir_okay=False), help="A spec (JSON, YAML); options come on top."
)
@click.option("--container-command", "--run", "container_command", help="What runs in it. Default: nothing, it waits.")
@click.option("--container-port", multiple=True, metavar="PORT[:tcp[:proxy]]")
@workload.options(workload.image, workload.shape, workload.env, workload.secret, workload.mount, *workload.PLACEMENT)
def create_pod(name, file, **given):
    """A machine of one's own."""
    spec = workload.from_file(file) | workload.prune(
        {
            "container": {
                "image": given["container_image"] or "host",
                "command": workload.command(given["container_command"] or "exec sleep infinity"),
                "ports": workload.ports(given["container_port"]),
            },
            "resource_requirement": {
                "resource_shape": given["resource_shape"] or "cpu.small",
                "affinity": workload.affinity(given["node_group"]),
                "min_replicas": 1,
            },
            "envs": workload.envs(given["env"], given["secret"]),
            "mounts": workload.mounts(given["mount"]),
            "queue_config": workload.queue(given["queue_priority"], given["can_be_preempted"], given["can_preempt"]),
            "is_pod": True,
        }
    )
    here().call("POST", "/deployments", {"metadata": {"name": name}, "spec": spec})
    click.echo(f"Pod {name} is created.")


@pod.command("stop")
@click.option("--name", "-n", required=True)
def stop_pod(name):
    """Stop it; its files stay."""
    change(POD, name, {"resource_requirement": {"min_replicas": 0}}, "stops")
