"""`lep feedback`: see what served predictions really were, add to it, and make it a dataset version."""

from __future__ import annotations

import datetime

import click

from .output import print_json, print_table


@click.group()
def feedback() -> None:
    """Turn feedback on served predictions into a new dataset version."""


@feedback.command()
@click.argument("service")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(service: str, as_json: bool) -> None:
    """Show the feedback of SERVICE: counts, how often each version was right, the newest rows."""
    from ..photon.collecting import summary

    found = summary(service)
    if as_json:
        return print_json(found)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["feedback"].items()) or "none"
    click.echo(f"{service}: {found['requests']} requests with {found['rows']} rows; feedback: {kinds}")
    if found["models"]:
        rows = [
            (ref, one["known"], one["right"], f"{100 * one['right'] / one['known']:.1f} %")
            for ref, one in found["models"].items()
        ]
        print_table(("model", "truth known", "right", "of these"), rows)
        newest = [
            (one["request_id"], one["row"], one["model"], one["predicted"], _shown(one["really"]), _time(one["time"]))
            for one in found["newest"]
        ]
        print_table(("request", "row", "model", "predicted", "really", "when"), newest, title="Newest")


@feedback.command()
@click.argument("url")
@click.argument("request_id")
@click.argument("label")
@click.option("--row", default=0, show_default=True, type=click.IntRange(0), help="Which row of the request.")
@click.option("--token", envvar="LEPTON_TOKEN", show_envvar=True, help="Token of the service.")
def add(url: str, request_id: str, label: str, row: int, token: str | None) -> None:
    """Tell the service at URL that the prediction REQUEST_ID was really LABEL."""
    from ..client.client import Client
    from ..photon.feedback import from_shell

    with Client(url=url, token=token) as client:
        stored = client.feedback(request_id, from_shell(label, client.model()["classes"]), row=row)
    click.echo(f"Stored for request {stored['request_id']}, row {stored['row']}.")


@feedback.command("to-data")
@click.argument("service")
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def to_data(service: str, dataset: str, as_json: bool) -> None:
    """Append what is new in the feedback of SERVICE to DATASET as a new version. Each row is used once."""
    from ..photon.collecting import gather

    done = gather(service, dataset)
    if as_json:
        return print_json(
            {
                "dataset": done.dataset.ref,
                "rows": done.rows,
                "models": done.models,
                "changed": done.changed,
                "unusable": done.unusable,
            }
        )
    if done.rows:
        click.echo(f"{done.dataset.ref}: {done.rows} rows with what they really were, from {service!r}.")
    else:
        click.echo(f"Nothing new in the feedback of {service!r}; {done.dataset.ref} stays the newest version.")
    if done.changed:
        click.echo(
            f"{done.changed} labels were replaced after they had been used: the dataset keeps the earlier ones.",
            err=True,
        )
    for reason in done.unusable[:10]:
        click.echo(f"Not used: {reason}", err=True)


def _shown(label) -> str:
    return "not that" if label is None else str(label)


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
