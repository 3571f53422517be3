"""`lep train --on WORKSPACE`: the recipe as a job of the cloud. Run and model land in that workspace, which is the job's own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput, LeptonError
from .following import follow_job
from .output import print_json

if TYPE_CHECKING:
    from ..client.workspace import Workspace
    from ..train.recipe import Recipe

MAX_RECIPE_BYTES = 256 << 10
COMMAND = 'printf %s "$LEPTON_RECIPE" > recipe.yaml && exec lep train recipe.yaml'


def train_on(recipe: Recipe, workspace: str, resource_shape: str | None, as_json: bool) -> None:
    """Returns when the job has ended; Ctrl-C leaves it running. Raises LeptonError if it failed."""
    from ..client.workspace import Workspace

    where = Workspace.named(workspace)
    id = start(where, recipe, resource_shape)
    click.echo(f"Job {id} in workspace {where.name}. Ctrl-C stops following, not the job.", err=as_json)
    state = follow_job(where, id, say=lambda line: click.echo(line, err=as_json))
    if state != "Completed":
        raise LeptonError(f"the job {id} ended as {state}", fix=f"See: lep job log -i {id}; lep job events -i {id}.")
    if as_json:
        print_json({"job": id, "workspace": where.name, "state": state})


def start(where: Workspace, recipe: Recipe, resource_shape: str | None) -> str:
    """The id of the job. The recipe travels in the job itself: it is what `lep job get` shows."""
    text = recipe.to_yaml()
    if len(text.encode()) > MAX_RECIPE_BYTES:
        raise InvalidInput("the recipe is too long for a job", received=f"{len(text)} characters")
    spec: dict[str, Any] = {
        "container": {"image": "host", "command": ["/bin/bash", "-c", COMMAND]},
        "envs": [{"name": "LEPTON_RECIPE", "value": text}],
        "completions": 1,
        "parallelism": 1,
        "ttl_seconds_after_finished": 259_200,
    }
    if resource_shape:
        spec["resource_shape"] = resource_shape
    name = re.sub(r"[^a-z0-9]+", "-", f"train-{recipe.model_name}".lower())[:30].strip("-")
    return where.call("POST", "/jobs", {"metadata": {"id": name}, "spec": spec})["metadata"]["id"]
