"""Options that several kinds of workload share, with the official client's names, and what they become in a spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..base.errors import InvalidInput

many = {"multiple": True}


def options(*wanted: Callable) -> Callable:
    def decorate(command: Callable) -> Callable:
        for one in reversed(wanted):
            command = one(command)
        return command

    return decorate


env = click.option("--env", "-e", **many, metavar="NAME=VALUE", help="Environment variable. Repeatable.")
secret = click.option("--secret", "-s", **many, metavar="NAME|ENV=NAME", help="A secret as variable. Repeatable.")
mount = click.option("--mount", **many, metavar="PATH:MOUNT_PATH:VOLUME", help="Storage as a folder. Repeatable.")
image = click.option("--container-image", default=None, help="An image, or `host`: a plain process. Default: host.")
shape = click.option("--resource-shape", "-rs", default=None, help="Size: see lep node resource-shape.")
group = click.option("--node-group", "-ng", **many, help="Where it may run. Repeatable.")
visibility = click.option("--visibility", type=click.Choice(["public", "private"]))
priority = click.option(
    "--queue-priority", "-qp", metavar="1-9|low|mid|high", help="Who goes first when there is no room."
)
preempted = click.option(
    "--can-be-preempted", "-cbp", is_flag=True, help="It may be stopped for one of higher priority."
)
preempt = click.option("--can-preempt", "-cp", is_flag=True, help="It may stop others.")
shared_memory = click.option("--shared-memory-size", type=click.IntRange(0), help="MiB.")
PLACEMENT = (group, priority, preempted, preempt)


def envs(env: tuple[str, ...], secret: tuple[str, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for text in env:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidInput("this is no environment variable", received=text, expected="NAME=VALUE")
        found.append({"name": name, "value": value})
    for text in secret:
        name, equals, source = text.partition("=")
        found.append({"name": name, "value_from": {"secret_name_ref": source if equals else name}})
    return found


def mounts(given: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for text in given:
        path, _, rest = text.partition(":")
        target, _, volume = rest.partition(":")
        if not path or not target.startswith("/"):
            raise InvalidInput("this is no mount", received=text, expected="/PATH:/MOUNT_PATH:node-local")
        found.append({"path": path, "mount_path": target, "from": volume or "node-local"})
    return found


def command(text: str | None) -> list[str] | None:
    return ["/bin/bash", "-c", text] if text else None


def ports(given: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """`8080`, `8080:tcp`, `8080:tcp:proxy`."""
    found = []
    for text in given:
        number, _, rest = text.partition(":")
        if not number.isdigit() or not 1 <= int(number) <= 65535:
            raise InvalidInput("this is no port", received=text, expected="1 to 65535, like 8080 or 8080:tcp")
        protocol = rest.partition(":")[0]
        found.append({"container_port": int(number), **({"protocol": protocol.upper()} if protocol else {})})
    return found or None


def affinity(group: tuple[str, ...]) -> dict[str, Any] | None:
    return {"allowed_dedicated_node_groups": list(group)} if group else None


def queue(priority: str | None, can_be_preempted: bool, can_preempt: bool) -> dict[str, Any] | None:
    if priority is None and not can_be_preempted and not can_preempt:
        return None
    names = {"low": 2, "mid": 5, "medium": 5, "high": 8}
    number = names.get(str(priority).lower(), priority or 4)
    if not str(number).isdigit() or not 1 <= int(number) <= 9:
        raise InvalidInput("this is no priority", received=priority, expected="1 to 9, low, mid or high")
    band = "low" if int(number) <= 3 else "mid" if int(number) <= 6 else "high"
    return {
        "priority_class": f"{band}-{int(number)}000",
        "can_be_preempted": can_be_preempted,
        "can_preempt": can_preempt,
    }


def prune(value: Any) -> Any:
    """Without what was not given."""
    if isinstance(value, dict):
        return {key: found for key, one in value.items() if (found := prune(one)) not in (None, {}, [])}
    return value


def from_file(path: str | None) -> dict[str, Any]:
    """The spec in a JSON or YAML file, alone or as `{"metadata", "spec"}`."""
    if path is None:
        return {}
    from ..base.yaml import read_yaml

    value = read_yaml(Path(path)).data
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} holds no spec", received=value, expected="an object")
    return value.get("spec", value)
