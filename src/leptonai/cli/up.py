"""`lep up`, `down`, `status`, `doctor`: the cloud of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from ..base.errors import LeptonError, Missing
from ..base.home import Home
from .output import print_json, print_table

START_TIMEOUT_S = 60.0


def _home(path: str | None) -> Home:
    if path:
        os.environ["LEPTON_HOME"] = path
    return Home.current()


home_option = click.option(
    "--home", type=click.Path(file_okay=False), help="Where all is kept. Default: LEPTON_HOME or ~/.lepton."
)


@click.command()
@home_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. Beyond this machine TLS is needed."
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--database", help="postgresql://user@host/name. Default: SQLite in the home.")
@click.option(
    "--role",
    type=click.Choice(["all", "plane", "gateway"]),
    default="all",
    show_default=True,
    help="Which part to run.",
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Gateway processes on the port."
)
@click.option(
    "--certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TLS certificate chain (PEM)."
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its private key (PEM).")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front does TLS.")
@click.option("--public-url", help="What clients reach this server by, if not host and port.")
@click.option("--detach", "-d", is_flag=True, help="Go on in the background.")
@click.option("--hide-key", is_flag=True, hidden=True, help="Do not print a first key: the output is a log file.")
def up(home: str | None, detach: bool, port: int, host: str, hide_key: bool, **options) -> None:
    """Start the cloud of this machine: API, controllers, gateway. Ctrl-C stops them; workloads run on."""
    server, _ = _server()
    settings = server.Settings(_home(home), host=host, port=port or server.free_port(host), **options)
    settings.check()
    if detach:
        return _detach(settings)
    server.run(settings, click.echo, hide_key=hide_key)
    return None


def _detach(settings) -> None:
    _, instance = _server()
    folder = instance.folder(settings.home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    arguments = [argument for argument in sys.argv[1:] if argument not in ("-d", "--detach")]
    command = [sys.executable, "-m", "leptonai.cli.main", *arguments, "--port", str(settings.port), "--hide-key"]
    key_file = settings.home.root / "admin.key"
    had_key = key_file.exists()
    with open(folder / "plane.log", "ab") as log:
        offset = log.tell()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        state = instance.wait_until_ready(settings.home, START_TIMEOUT_S, lambda: child.poll() is None)
    except LeptonError:
        words = (folder / "plane.log").read_bytes()[offset:].decode(errors="replace").strip().splitlines()
        if child.poll() is None:
            raise
        raise LeptonError(f"it did not start: {words[-1].removeprefix('Error: ') if words else 'no word'}") from None
    click.echo(f"Lepton runs: {state.url}/api/v2/workspaces/default")
    if had_key or not key_file.exists():
        click.echo(f"The admin's key is in {key_file}.")
    else:
        click.echo(f"Admin key (kept in {key_file}): {key_file.read_text().strip()}")
    from ..cloud.compute import sandbox

    if sandbox.bubblewrap() is None:
        click.echo(f"Note: {sandbox.MISSING}")


@click.command()
@home_option
@click.option(
    "--workloads", is_flag=True, help="Stop endpoints' and jobs' processes too; they come back with `lep up`."
)
def down(home: str | None, workloads: bool) -> None:
    """Stop plane and gateway. What runs in endpoints and jobs runs on, and the next `lep up` finds it."""
    _, instance = _server()
    where = _home(home)
    if not instance.is_running(where) and not instance.gateway_workers(where):
        click.echo("Nothing runs.")
    instance.stop(where)
    from ..cloud.compute.local import LocalDriver

    driver = LocalDriver(where)
    running = [one for one in driver.observe().values() if not one.ended]
    if workloads:
        for one in running:
            driver.stop(one.id, 10)
        click.echo(f"Stopped, and {len(running)} workloads with it.")
    else:
        click.echo(f"Stopped. {len(running)} workloads run on." if running else "Stopped.")


@click.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(home: str | None, as_json: bool) -> None:
    """Whether plane and gateway of this home run, and what runs in them. Exit code 8 if the plane does not answer."""
    _, instance = _server()
    where = _home(home)
    state = instance.read_state(where)
    answers = bool(state and instance.is_running(where) and instance.answers(state.url))
    workers = instance.gateway_workers(where)
    facts = {
        "home": str(where.root),
        "plane": "answers"
        if answers
        else "runs, but does not answer"
        if instance.is_running(where)
        else "does not run",
        "url": state.url if state else None,
        "database": state.database if state else None,
        "gateway_workers": len(workers),
    }
    if as_json:
        print_json(facts)
    else:
        print_table(("", ""), facts.items())
    if not answers:
        sys.exit(8)


@click.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(home: str | None, as_json: bool) -> None:
    """Look for what is wrong: files, database, disk, gateway, isolation. Exit code 1 if something must be repaired."""
    _server()
    from ..cloud.checks import examine

    findings = examine(_home(home))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        print_table(("", "what", "found"), [(one.mark, one.what, one.found) for one in findings])
    if any(one.mark == "bad" for one in findings):
        sys.exit(1)


def _server():
    try:
        from ..cloud import instance, server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("leptonai"):
            raise
        raise Missing(error.name or "sqlalchemy", "cloud") from error
    return server, instance
