"""`lep serve`: serve a model over HTTP; list and stop services."""

from __future__ import annotations

import click

from ..base.errors import InvalidInput, Missing
from .output import print_json, print_table
from .serve_llm import ServeCommand


@click.command(cls=ServeCommand)
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
@click.option(
    "--workers", default=0, type=click.IntRange(0, 256), help="Model processes; 0: in the server's own threads."
)
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Batches computed at once without --workers.",
)
@click.option(
    "--max-batch", default=1024, show_default=True, type=click.IntRange(1), help="Rows that are computed at once."
)
@click.option(
    "--max-delay-ms", default=0.0, type=click.FloatRange(0), help="Wait so long for more rows. Default: not at all."
)
@click.option(
    "--max-wait-ms",
    default=2000.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Refuse (429) what would wait longer.",
)
@click.option("--sample", "sample_path", type=click.Path(), help="CSV or JSON rows that say what a model file takes.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Also speak the Open Inference Protocol over gRPC.")
@click.option(
    "--log-sample",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of requests that is logged.",
)
@click.option("--log-redact", multiple=True, metavar="COLUMN", help="A column that is logged as null. Repeatable.")
@click.option("--log-keep-days", type=click.FloatRange(0, min_open=True), help="Forget requests after so many days.")
@click.option("--log-keep-requests", type=click.IntRange(1), help="Keep no more than the newest N requests.")
@click.option("--ls", "list_", is_flag=True, help="List the services that run.")
@click.option("--stop", metavar="NAME", help="Stop a service.")
@click.option("--json", "as_json", is_flag=True, help="With --ls: print JSON.")
def serve(
    model: str | None,
    name: str | None,
    host: str,
    port: int,
    token: str | None,
    workers: int,
    threads: int,
    max_batch: int,
    max_delay_ms: float,
    max_wait_ms: float,
    sample_path: str | None,
    grpc_port: int | None,
    log_sample: float,
    log_redact: tuple[str, ...],
    log_keep_days: float | None,
    log_keep_requests: int | None,
    list_: bool,
    stop: str | None,
    as_json: bool,
) -> None:
    """Serve MODEL: predictions, feedback, OpenAPI, Open Inference Protocol, metrics, hot swap.

    MODEL is a model of the zoo (name, name@version, name@tag, zoo:name), a folder, or a file: model.onnx, model.keras, model.skops,
    a LightGBM text (lightgbm:model.txt), an exported program of torch (model.pt2). No file is unpickled.

    llm:PATH_OR_REPO is a language model behind OpenAI's API, with options of its own: lep serve llm:MODEL --help.

    The log and the feedback of a service survive restarts and new versions.
    """
    try:
        from ..photon import process, server
        from ..photon.recording import Recording
        from ..photon.served import Placement
        from ..photon.service import Batching
    except ModuleNotFoundError as error:
        raise Missing(error.name or "uvicorn", "serve") from error
    if list_:
        return _print_services(process.running_services(), as_json)
    if stop:
        stopped = process.stop_service(stop)
        return click.echo(f"Stopped {stopped.name} ({stopped.model}).")
    if not model:
        raise InvalidInput("which model?", fix="Name one: lep serve MODEL[@version]. `lep model ls` lists them.")
    server.serve(
        model,
        name=name,
        host=host,
        port=port,
        token=token or None,
        ready=_say_ready,
        placement=Placement(threads, workers),
        batching=Batching(max_batch, max_delay_ms / 1000, max_wait_ms / 1000),
        recording=Recording(
            log_sample, log_redact, None if log_keep_days is None else log_keep_days * 86_400, log_keep_requests
        ),
        sample=_read_sample(sample_path) if sample_path else None,
        grpc_port=grpc_port,
    )


def _read_sample(path: str) -> list[dict]:
    """The first rows of a CSV, JSON or Parquet file, as requests would hold them."""
    from ..data.importing import read_source

    return read_source(path).slice(0, 100).to_pylist()


def _say_ready(state) -> None:
    click.echo(f"{state.model} is served as {state.name!r} on {state.url}")
    click.echo(f"  try it       {state.url}/")
    click.echo(f"  API          {state.url}/openapi.json")
    if state.grpc:
        click.echo(f"  gRPC         {state.grpc}")
    click.echo(
        f"  new version  lep model … then: curl -X PUT {state.url}/model -H 'content-type: application/json' -d '{{\"ref\": \"{state.model}\"}}'"
    )
    click.echo("Ctrl-C stops it; requests in flight are answered first.")


def _print_services(states, as_json: bool) -> None:
    if as_json:
        import msgspec

        return print_json(msgspec.to_builtins(states))
    print_table(("service", "model", "url", "pid"), [(one.name, one.model, one.url, one.pid) for one in states])
