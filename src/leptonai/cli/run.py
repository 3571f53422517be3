"""`lep run SCRIPT ARGS…`: a training script as it is, with its output, exit status, time and metrics kept as a run.

The script runs in a process of its own; this one passes its output on and writes it down, forwards signals, and ends with its status.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from ..base.errors import InvalidInput, NotFound
from ..base.home import Home
from ..base.paths import check_name
from .output import print_json

OWN_OPTIONS = ("--name", "--publish", "--no-publish", "--dataset", "--new", "--json")


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--name", metavar="NAME", help="The run's name. Default: the script's name.")
@click.option(
    "--publish", metavar="MODEL", help="Publish what a Keras script trains as MODEL. Default: the script's name."
)
@click.option("--no-publish", is_flag=True, help="Publish nothing that the script does not publish itself.")
@click.option(
    "--dataset", metavar="DATASET", help="The dataset that the script reads. Default: found by comparing rows."
)
@click.option("--new", is_flag=True, help="Begin a new run, also where a stopped one could be continued.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the run's record as JSON; the script's output goes to stderr."
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    name: str | None,
    publish: str | None,
    no_publish: bool,
    dataset: str | None,
    new: bool,
    as_json: bool,
    script: Path,
    arguments: tuple[str, ...],
) -> None:
    """Run a training script with its metrics tracked and its model published.

    Options of lep stand before SCRIPT; all that follows SCRIPT is passed to it. Keras models are tracked and published without
    a change to the script; a PyTorch loop is, with la.Run; of any other script the log, the time and the exit status are kept.
    """
    from ..train.launch import run_script

    script = check_script(script)
    plain = model_name(script)
    name = check_name(name or plain, "run")
    publish = "" if no_publish else check_name(publish or plain, "model")
    for argument in arguments:
        if argument.split("=")[0] in OWN_OPTIONS:
            click.echo(
                f"Note: {argument} was passed to {script.name}. Options of lep stand before the script.", err=True
            )
            break
    settings = {"LEPTON_RUN_PUBLISH": publish, "LEPTON_RUN_DATASET": dataset or ""}
    # With --json our stdout holds the record and nothing else.
    output = sys.stderr.buffer if as_json else sys.stdout.buffer
    status, record = run_script(
        script, arguments, name=name, new=new, settings=settings, home=Home.current(), output=output
    )
    if as_json:
        print_json(record)
    else:
        report(record)
    sys.exit(status)


def check_script(script: Path) -> Path:
    if script.suffix != ".py":
        raise InvalidInput(
            "lep run runs Python scripts", received=str(script), expected="a .py file", fix="Try: lep run train.py."
        )
    if not script.is_file():
        raise NotFound("there is no such script", received=str(script), fix="Check the path, seen from this folder.")
    return script


def model_name(script: Path) -> str:
    """`my script_v2.py` → `my-script-v2`: the script's name as a run and a model may be named."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", script.stem).strip("-.")
    return words or "script"


def report(record: dict[str, Any]) -> None:
    """On stderr: stdout is the script's."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in record.get("metrics", {}).items() if is_number(value))
    status = "" if record["status"] == "finished" else f" (exit status {record['exit_status']})"
    click.echo(f"\nRun {record['id']} {record['status']}{status} in {record['elapsed_s']:.1f} s", err=True)
    if metrics:
        click.echo(f"  metrics  {metrics}", err=True)
    click.echo(f"  folder   {record['folder']}", err=True)
    if ref := record.get("model"):
        verb = "model show" if is_external(ref) else "serve"
        click.echo(f"  model    {ref}\n  next     lep {verb} {ref}", err=True)


def is_external(ref: str) -> bool:
    """Whether Lepton keeps this model but cannot build it."""
    from ..zoo.store import ModelStore

    return ModelStore().resolve(ref).manifest.network["kind"] == "external"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
