"""`lep serve`: serve a model over HTTP; list and stop services."""

from __future__ import annotations

import click

from ..base.errors import InvalidInput, Missing
from .output import print_json, print_table


@click.command()
@click.argument("model", required=False)
@click.option(
    "--name", help="Name of the service; its requests and feedback are kept under it. Default: the model's name."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Beyond this machine a token is needed.",
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--token", envvar="LEPTON_TOKEN", show_envvar=True, help="Clients must send it as a Bearer token.")
@click.option("--ls", "list_", is_flag=True, help="List the services that run.")
@click.option("--stop", metavar="NAME", help="Stop a service.")
@click.option("--json", "as_json", is_flag=True, help="With --ls: print JSON.")
def serve(
    model: str | None,
    name: str | None,
    host: str,
    port: int,
    token: str | None,
    list_: bool,
    stop: str | None,
    as_json: bool,
) -> None:
    """Serve MODEL (name, name@version, name@tag or a folder): predictions, feedback, OpenAPI, metrics, hot swap.

    The log and the feedback of a service survive restarts and new versions.
    """
    try:
        from ..photon import process, server
    except ModuleNotFoundError as error:
        raise Missing(error.name or "uvicorn", "serve") from error
    if list_:
        return _print_services(process.running_services(), as_json)
    if stop:
        stopped = process.stop_service(stop)
        return click.echo(f"Stopped {stopped.name} ({stopped.model}).")
    if not model:
        raise InvalidInput("which model?", fix="Name one: lep serve MODEL[@version]. `lep model ls` lists them.")
    server.serve(model, name=name, host=host, port=port, token=token or None, ready=_say_ready)


def _say_ready(state) -> None:
    click.echo(f"{state.model} is served as {state.name!r} on {state.url}")
    click.echo(f"  try it       {state.url}/")
    click.echo(f"  API          {state.url}/openapi.json")
    click.echo(
        f"  new version  lep model … then: curl -X PUT {state.url}/model -H 'content-type: application/json' -d '{{\"ref\": \"{state.model}\"}}'"
    )
    click.echo("Ctrl-C stops it; requests in flight are answered first.")


def _print_services(states, as_json: bool) -> None:
    if as_json:
        import msgspec

        return print_json(msgspec.to_builtins(states))
    print_table(("service", "model", "url", "pid"), [(one.name, one.model, one.url, one.pid) for one in states])
