"""`lep job`: batch jobs, with the official client's words and options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from . import workload
from .resources import JOB, change, everything, group_of, here, matches

if TYPE_CHECKING:
    from ..client.workspace import Workspace

job = group_of(JOB, "job")


@job.command("create")
@click.option("--name", "-n", required=True)
@click.option(
    "--file", "-f", type=click.Path(exists=True, dir_okay=False), help="A spec (JSON, YAML); options come on top."
)
@click.option("--command", help="What to run.")
@workload.options(workload.image, workload.shape, workload.env, workload.secret, workload.mount, *workload.PLACEMENT)
@click.option("--num-workers", "-w", type=click.IntRange(1), help="Workers; they start together. Default: 1.")
@click.option("--container-port", "--port", multiple=True)
@click.option("--max-failure-retry", type=click.IntRange(0), help="How often a worker is started again.")
@click.option("--max-job-failure-retry", type=click.IntRange(0), help="How often the whole job is.")
@click.option("--ttl-seconds-after-finished", type=click.IntRange(0), help="Until it moves to the archive.")
@workload.options(workload.shared_memory, workload.visibility)
def create_job(name, file, command, **given):
    """Run a command on one or more workers."""
    workers = given["num_workers"]
    spec = workload.from_file(file) | workload.prune(
        {
            "container": {
                "image": given["container_image"] or "host",
                "command": workload.command(command),
                "ports": workload.ports(given["container_port"]),
            }
            if command or not file
            else None,
            "resource_shape": given["resource_shape"],
            "completions": workers,
            "parallelism": workers,
            "envs": workload.envs(given["env"], given["secret"]),
            "mounts": workload.mounts(given["mount"]),
            "affinity": workload.affinity(given["node_group"]),
            "queue_config": workload.queue(given["queue_priority"], given["can_be_preempted"], given["can_preempt"]),
            "max_failure_retry": given["max_failure_retry"],
            "max_job_failure_retry": given["max_job_failure_retry"],
            "ttl_seconds_after_finished": given["ttl_seconds_after_finished"],
            "shared_memory_size": given["shared_memory_size"],
        }
    )
    spec.setdefault("ttl_seconds_after_finished", 259_200)
    about = workload.prune({"id": name, "visibility": given["visibility"]})
    made = here().call("POST", "/jobs", {"metadata": about, "spec": spec})["metadata"]["id"]
    click.echo(f"Job {made} is created. Follow it: lep job log -i {made}")


@job.command("stop")
@click.option("--id", "-i", "id", required=True)
def stop_job(id):
    """Stop it; `lep job start` begins it again."""
    change(JOB, id, {"stopped": True}, "stops")


@job.command("start")
@click.option("--id", "-i", "id", required=True)
def start_job(id):
    """Start one that was stopped."""
    change(JOB, id, {"stopped": False}, "starts")


@job.command("clone")
@click.option("--id", "-i", "id", required=True)
def clone_job(id):
    """The same job again, under a new id."""
    found = here().get(f"/jobs/{id}")
    spec = {key: value for key, value in found["spec"].items() if key != "stopped"}
    made = here().call("POST", "/jobs", {"metadata": {"id": found["metadata"]["name"]}, "spec": spec})
    click.echo(f"Job {made['metadata']['id']} is created.")


def _several(word: str, done: str, act: Callable[[Workspace, str], Any]) -> None:
    @job.command(f"{word}-all")
    @click.option("--state", "-s", "states", multiple=True)
    @click.option("--user", "-u", "users", multiple=True, required=True)
    @click.option("--name", "-n", "search")
    @click.option("--yes", "-y", is_flag=True, help="Do not ask.")
    def all_(states, users, search, yes):
        ids = [one["metadata"]["id"] for one in everything(JOB) if matches(one, search, states, users)]
        if not ids:
            return click.echo("No job is meant.")
        if not yes:
            click.confirm(f"{word.capitalize()} {len(ids)} jobs: {', '.join(ids)}?", abort=True)
        for id in ids:
            act(here(), id)
        return click.echo(f"{len(ids)} jobs {done}.")

    all_.help = f"{word.capitalize()} all jobs of a user."


_several("stop", "stop", lambda where, id: where.call("PATCH", f"/jobs/{id}", {"spec": {"stopped": True}}))
_several("remove", "removed", lambda where, id: where.call("DELETE", f"/jobs/{id}"))
