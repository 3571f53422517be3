"""`lep photon`: make, look at, run, push and fetch photons."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput, Missing, NotFound, Unavailable
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..client.workspace import Workspace


_BENCH = ("bench",) if find_spec("leptonai.cli.photon_bench") else ()


class _Group(click.Group):
    """`bench` has a file of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_BENCH})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _BENCH:
            return super().get_command(ctx, name)
        from .photon_bench import bench

        return bench


@click.group(cls=_Group)
def photon() -> None:
    """Photons: Python classes, or models, as HTTP services."""


NAME = click.option("-n", "--name", help="Name of the photon: a-z, 0-9 and '-', at most 32.")
MODEL = click.option(
    "-m",
    "--model",
    help="file.py[:Class], module.Class, git URL, hf:[task:]model, vllm:…, zoo:…, onnx:…, keras:…, llm:…",
)


def _framework() -> Any:
    try:
        from ..photon.framework import models, package, store
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("starlette", "pydantic", "uvicorn", "fastapi"):
            raise Missing(error.name, "photon") from error
        raise
    return models, package, store


@photon.command()
@NAME
@MODEL
def create(name: str | None, model: str | None) -> None:
    """Pack a photon and keep it on this machine. The package holds source, never a pickle."""
    models, _, store = _framework()
    if not name or not model:
        raise InvalidInput("a photon needs a name and a model", fix="lep photon create -n NAME -m FILE.py[:CLASS]")
    kept = store.keep(models.create(name, model))
    click.echo(f"Photon {name} created: {kept.path}")


@photon.command(name="list")
@click.option(
    "-l", "--local", is_flag=True, help="Those on this machine. Default: those of the workspace, if there is one."
)
@click.option("--json", "as_json", is_flag=True)
def list_(local: bool, as_json: bool) -> None:
    """List photons."""
    _, _, store = _framework()
    rows = [] if local else _remote_rows()
    if local or rows is None:
        rows = [(one.name, one.metadata.get("model"), one.id, one.created_ms) for one in store.packages()]
    keys = ("name", "model", "id", "created_at")
    if as_json:
        return print_json([dict(zip(keys, row, strict=True)) for row in rows])
    print_table(keys, [(*row[:3], _date(row[3])) for row in rows])


def _remote_rows() -> list[tuple] | None:
    try:
        found = _workspace().get("/photons/private")
    except Unavailable:
        return None
    return [(one["name"], one["model"], one["id"], one["created_at"]) for one in found]


@photon.command()
@NAME
@click.option("-i", "--id", "photon_id", help="One package, by its id.")
@click.option("-l", "--local", is_flag=True, help="On this machine; default: in the workspace.")
@click.option("-a", "--all", "every", is_flag=True, help="All packages of the name, not only the newest.")
def remove(name: str | None, photon_id: str | None, local: bool, every: bool) -> None:
    """Remove a photon."""
    _, _, store = _framework()
    which = _one_of(name, photon_id)
    if local:
        return click.echo(f"Removed {store.remove(which, all_versions=every)} of {which} from this machine.")
    found = _in_workspace(which)
    for one in found if every else found[:1]:
        _workspace().call("DELETE", f"/photons/private/{one['id']}")
        click.echo(f"Removed {one['id']} from the workspace.")


@photon.command()
@NAME
@click.option("-i", "--id", "photon_id")
def push(name: str | None, photon_id: str | None) -> None:
    """Send a package of this machine to the workspace."""
    _, _, store = _framework()
    click.echo(f"Pushed {push_package(store.find(_one_of(name, photon_id)).path)['id']}.")


def push_package(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return (
            _workspace().send("POST", "/photons/private", files={"file": (path.name, file, "application/zip")}).json()
        )


@photon.command()
@click.option("-i", "--id", "photon_id", required=True)
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), help="Where to; default: kept on this machine.")
def fetch(photon_id: str, path: Path | None) -> None:
    """Bring a package of the workspace to this machine. Nothing in it is run."""
    from tempfile import TemporaryDirectory

    _, _, store = _framework()
    content = _workspace().send("GET", f"/photons/private/{photon_id}", params={"content": "true"}).content
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "fetched.photon"
        draft.write_bytes(content)
        if path is None:
            path = store.add(draft).path
        else:
            from ..base.files import write_atomic

            write_atomic(path, content)
    click.echo(f"Fetched {photon_id}: {path}")


@photon.command()
@NAME
@click.option("-i", "--id", "photon_id")
@click.option("-f", "--file", "path", type=click.Path(path_type=Path))
def metadata(name: str | None, photon_id: str | None, path: Path | None) -> None:
    """Print the manifest of a package. Nothing in it is run."""
    _, package, store = _framework()
    print_json(package.read_metadata(path or store.find(_one_of(name, photon_id)).path))


@photon.command()
@NAME
@click.option("-i", "--id", "photon_id")
@click.option("-f", "--file", "path", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be installed.")
def prepare(name: str | None, photon_id: str | None, path: Path | None, dry_run: bool) -> None:
    """Install what a photon requires into this environment."""
    _, package, store = _framework()
    found = package.read_metadata(path or store.find(_one_of(name, photon_id)).path)
    for command in pip_commands(found.get("requirement_dependency") or []):
        click.echo(" ".join(command))
        if not dry_run and subprocess.run([sys.executable, "-m", *command]).returncode:
            raise Unavailable("pip did not install the requirements", fix="Its reason is above.")
    system = found.get("system_dependency") or []
    missing = [
        one
        for one in system
        if shutil.which("dpkg") and subprocess.run(["dpkg", "-s", one], capture_output=True).returncode
    ]
    if missing:
        click.echo(
            f"Not installed on this system: {' '.join(missing)}. Install with: apt-get install {' '.join(missing)}",
            err=True,
        )


def pip_commands(requirements: list[str]) -> list[list[str]]:
    """In order: installs that stand together are one command; `uninstall X` is its own. An option is no requirement."""
    commands: list[list[str]] = []
    for one in requirements:
        words = one.split()
        if not words or one.startswith("-") or (words[0] == "uninstall" and any(w.startswith("-") for w in words)):
            raise InvalidInput("this is no requirement", received=one)
        if words[0] == "uninstall":
            commands.append(["pip", "uninstall", "-y", *words[1:]])
        elif commands and commands[-1][1] == "install":
            commands[-1].append(one)
        else:
            commands.append(["pip", "install", one])
    return commands


@photon.command()
@NAME
@click.option("-i", "--id", "photon_id")
@MODEL
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), help="A .photon file.")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    envvar="PORT",
    help="Default: the photon's exposed_port; 0: a free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
def runlocal(
    name: str | None, photon_id: str | None, model: str | None, path: Path | None, port: int | None, host: str
) -> None:
    """Serve a photon on this machine, in this process."""
    models, package, store = _framework()
    if model and not (path or photon_id):
        chosen = models.create(name, model)
    else:
        chosen = package.load(path or _path_of(store, _one_of(name, photon_id)))
    chosen.launch(
        host=host,
        port=port,
        ready=lambda url: click.echo(f"{chosen._photon_name} is served on {url}  (docs: {url}/docs)"),
    )


@photon.command()
@NAME
@click.option("-i", "--id", "photon_id", help="A photon of the workspace.")
@MODEL
@click.option("-dn", "--deployment-name", help="Default: the photon's name.")
@click.option("--rerun", is_flag=True, help="Replace a deployment of that name.")
@click.option("--resource-shape", default="cpu.small", show_default=True)
@click.option("--min-replicas", default=1, show_default=True, type=click.IntRange(0))
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE")
@click.option("-s", "--secret", multiple=True, metavar="NAME[=SECRET]")
@click.option("--public", is_flag=True, help="Anyone may call it without a token.")
def run(
    name: str | None,
    photon_id: str | None,
    model: str | None,
    deployment_name: str | None,
    rerun: bool,
    resource_shape: str,
    min_replicas: int,
    env: tuple[str, ...],
    secret: tuple[str, ...],
    public: bool,
) -> None:
    """Deploy a photon on the workspace."""
    from ..photon.framework.deploying import check_free, deploy

    models, _, store = _framework()
    workspace = _workspace()
    if photon_id is None:
        kept = store.keep(models.create(name, model)) if model else store.find(_one_of(name, None))
        if not rerun:
            check_free(workspace, deployment_name or kept.name)
        photon_id = push_package(kept.path)["id"]
    name = deployment_name or photon_id.rpartition("-")[0]
    found = deploy(
        workspace, photon_id, name, resource_shape=resource_shape, min_replicas=min_replicas,
        env=dict(_pair(one) for one in env), secrets=dict(_pair(one) for one in secret), public=public, replace=rerun,
    )  # fmt: skip
    click.echo(f"Deployment {name} of {photon_id}: {found}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else name


@photon.command()
@click.argument("name")
def scaffold(name: str) -> None:
    """Write a folder with a photon to begin with."""
    from ..base.files import write_atomic
    from ..photon.framework.photon import check_photon_name

    folder = Path.cwd() / check_photon_name(name)
    if folder.exists():
        raise InvalidInput("this folder exists already", received=str(folder))
    cls = "".join(part.capitalize() for part in name.split("-"))
    write_atomic(folder / f"{name.replace('-', '_')}.py", _TEMPLATE.format(cls=cls))
    click.echo(f"Written: {folder}. Try it: cd {name} && lep photon runlocal -m {name.replace('-', '_')}.py")


_TEMPLATE = '''from leptonai.photon import Photon


class {cls}(Photon):
    """What this service does."""

    requirement_dependency = []

    def init(self):
        """Load here what the handlers need; this runs once, before the first request."""
        self.greeting = "Hello"

    @Photon.handler(example={{"name": "world"}})
    def greet(self, name: str) -> str:
        """POST /greet"""
        return f"{{self.greeting}}, {{name}}!"


if __name__ == "__main__":
    {cls}().launch()
'''


def _one_of(name: str | None, photon_id: str | None) -> str:
    if not (name or photon_id):
        raise InvalidInput("which photon?", fix="Name one with -n NAME or -i ID; `lep photon list -l` shows them.")
    return photon_id or name or ""


def _path_of(store: Any, which: str) -> Path:
    """A package of this machine, or else of the workspace, kept here from then on."""
    from tempfile import TemporaryDirectory

    try:
        return store.find(which).path
    except NotFound:
        try:
            found = _in_workspace(which)[0]
        except (Unavailable, NotFound):
            found = None
        if found is None:
            raise
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "fetched.photon"
        draft.write_bytes(
            _workspace().send("GET", f"/photons/private/{found['id']}", params={"content": "true"}).content
        )
        return store.add(draft).path


def _in_workspace(which: str) -> list[dict[str, Any]]:
    found = [one for one in _workspace().get("/photons/private") if which in (one["id"], one["name"])]
    if not found:
        raise NotFound(f"the workspace has no photon {which!r}")
    return sorted(found, key=lambda one: -one["created_at"])


def _workspace() -> Workspace:
    from ..client.workspace import Workspace

    return Workspace.current()


def _date(milliseconds: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")
