"""`lep login`, `lep logout`: which workspace commands mean. Kept in `LEPTON_HOME/logins.json`, readable by its owner alone."""

from __future__ import annotations

import click

from ..base.errors import InvalidInput
from ..base.home import Home


@click.command()
@click.option("--credentials", "-c", metavar="WORKSPACE:TOKEN", help="The workspace and a key of it.")
@click.option(
    "--workspace-url", "-u", help="http://HOST:PORT/api/v2/workspaces/WORKSPACE; HOST:PORT alone is understood."
)
def login(credentials: str | None, workspace_url: str | None) -> None:
    """Choose a workspace for the commands after this one. Without options: the one that is chosen, or one logged in to before.

    \b
    lep login -c default:lep_… -u http://127.0.0.1:8080
    lep login -c other          # again, with the key it was given then
    """
    from ..client.workspace import Login, Logins, Workspace, keep_logins, logins

    home = Home.current()
    known = logins(home)
    name, _, token = (credentials or known.current or "").partition(":")
    if not name:
        raise InvalidInput("which workspace?", fix="lep login -c WORKSPACE:TOKEN -u URL")
    before = known.workspaces.get(name)
    token = token or (before.token if before else "")
    url = _full(workspace_url, name) if workspace_url else before.url if before else _of_this_machine(home, name)
    if not token:
        raise InvalidInput(f"there is no key for workspace {name!r}", fix=f"lep login -c {name}:TOKEN -u {url}")
    found = Workspace(url, token).get("/workspace")  # raises what is wrong with them
    keep_logins(home, Logins(name, {**known.workspaces, name: Login(url, token)}))
    click.echo(f"Logged in to workspace {found['workspace_name']} at {url}")


@click.command()
@click.option("--purge", is_flag=True, help="Forget its key too.")
def logout(purge: bool) -> None:
    """No workspace is chosen after this; its key is kept for `lep login -c WORKSPACE` unless --purge."""
    from ..client.workspace import Logins, keep_logins, logins

    home = Home.current()
    known = logins(home)
    if known.current is None:
        return click.echo("Nobody is logged in.")
    kept = {name: one for name, one in known.workspaces.items() if not (purge and name == known.current)}
    keep_logins(home, Logins(None, kept))
    return click.echo(f"Logged out of {known.current}.")


def _full(url: str, name: str) -> str:
    url = url.rstrip("/")
    url = url if "://" in url else f"http://{url}"
    if not url.startswith(("http://", "https://")):
        raise InvalidInput("this is no URL of a server", received=url, expected="http://HOST:PORT")
    return url if "/api/" in url else f"{url}/api/v2/workspaces/{name}"


def _of_this_machine(home: Home, name: str) -> str:
    from ..client.workspace import Workspace

    return f"{Workspace.current(home).server}/api/v2/workspaces/{name}"
