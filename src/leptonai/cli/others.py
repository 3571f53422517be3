"""`lep secret`, `lep ingress`, `lep node`: with the official client's words and options."""

from __future__ import annotations

import click

from ..base.errors import InvalidInput
from . import workload
from .resources import INGRESS, at, group_of, here, json_option, print_json, print_table


@click.group()
def secret() -> None:
    """Secrets of the workspace; no command shows a value."""


@secret.command("create")
@click.option("--name", "-n", "names", multiple=True, required=True)
@click.option("--value", "-v", "values", multiple=True, help="Beware of the shell's history; without it you are asked.")
@click.option("--public", "visibility", flag_value="public", help="All members may use it. Default: you alone.")
def create_secret(names, values, visibility):
    """Keep one or more secrets."""
    if not values:
        values = tuple(click.prompt(name, hide_input=True) for name in names)
    if len(values) != len(names):
        raise InvalidInput("each secret has a name and a value", received=f"{len(names)} names, {len(values)} values")
    items = [
        workload.prune({"name": name, "visibility": visibility}) | {"value": value}
        for name, value in zip(names, values, strict=True)
    ]
    here().call("POST", "/usersecrets", items)
    click.echo(f"Kept {', '.join(names)}.")


@secret.command("list")
@click.option("--search", "--keyword", "-q", "search")
@json_option
def list_secrets(search, as_json):
    """Their names."""
    found = [one for one in here().get("/usersecrets") if not search or search.lower() in one["name"].lower()]
    if as_json:
        return print_json(found)
    return print_table(
        ("name", "owner", "visibility"), [(o["name"], o.get("owner"), o.get("visibility")) for o in found]
    )


@secret.command("remove")
@click.option("--name", "-n", required=True)
def remove_secret(name):
    """Forget a secret."""
    here().call("DELETE", f"/usersecrets/{name}")
    click.echo(f"Removed {name}.")


# -- ingresses

ingress = group_of(INGRESS, "ingress")
_ingress_name = click.option("--name", "-n", required=True)
_ingress_endpoint = click.option("--endpoint", "-e", required=True)


@ingress.command("create")
@click.option("--domain-name", "-d", required=True)
def create_ingress(domain_name):
    """A domain whose requests go to endpoints."""
    made = here().call("POST", "/ingress", {"metadata": {}, "spec": {"domain_name": domain_name}})
    click.echo(f"Ingress {made['metadata']['name']} is created.")


@ingress.command("delete")
@_ingress_name
def delete_ingress(name):
    """Remove it."""
    here().call("DELETE", f"/ingress/{name}")
    click.echo(f"Removed {name}.")


@click.option("--weight", "-w", default=100, show_default=True, type=click.IntRange(0))
def _weigh(name, endpoint, weight):
    """Give an endpoint its share of the requests."""
    here().call("POST", f"/ingress/{name}/endpoint/deployment", {"deployment": endpoint, "weight": weight})
    click.echo(f"{endpoint} has weight {weight}.")


for _word in ("add-endpoint", "update-endpoint"):
    ingress.command(_word)(_ingress_name(_ingress_endpoint(_weigh)))


@ingress.command("remove-endpoint")
@_ingress_name
@_ingress_endpoint
def remove_endpoint(name, endpoint):
    """It gets no more requests of this domain."""
    here().call("DELETE", f"/ingress/{name}/endpoint/deployment/{endpoint}")
    click.echo(f"{endpoint} is removed.")


@ingress.command("set-endpoints")
@_ingress_name
@click.option("--endpoints", "-e", multiple=True, required=True, metavar="NAME:WEIGHT")
def set_endpoints(name, endpoints):
    """These endpoints and no others, by weight."""
    pairs = [one.partition(":")[::2] for one in endpoints]
    if any(not weight.isdigit() for _, weight in pairs):
        raise InvalidInput("an endpoint and its weight", received=" ".join(endpoints), expected="NAME:WEIGHT")
    shares = [{"deployment": deployment, "weight": int(weight)} for deployment, weight in pairs]
    here().call("PATCH", f"/ingress/{name}", {"spec": {"endpoints": shares}})
    click.echo(f"{name} has {len(shares)} endpoints.")


# -- nodes


@click.group()
def node() -> None:
    """Node groups, their nodes, and the sizes a workload may have."""


@node.command("list")
@json_option
def list_groups(as_json):
    """Node groups."""
    found = here().get("/dedicated-node-groups")
    if as_json:
        return print_json(found)
    return print_table(("id", "name"), [(one["metadata"]["id"], one["metadata"].get("name")) for one in found])


@node.command("list-nodes")
@click.argument("name", required=False)
@click.option("--node-group", "-ng", default="local", show_default=True)
@json_option
def list_nodes(name, node_group, as_json):
    """Nodes of a group."""
    found = here().get(f"/dedicated-node-groups/{name or node_group}/nodes")
    if as_json:
        return print_json(found)
    return print_table(("node", "status"), [(o["metadata"]["id"], ", ".join(o["status"]["status"])) for o in found])


@node.command("resource-shape")
@json_option
def shapes(as_json):
    """Sizes."""
    found = here().get("/shapes")
    if as_json:
        return print_json(found)
    rows = [
        (at(one, "metadata.name"), at(one, "spec.description"), at(one, "spec.cpu"), at(one, "spec.memory_in_mb"))
        for one in found
    ]
    return print_table(("shape", "", "cores", "MiB"), rows)
