"""Where state lives: the SQLite file of this workspace, or the server of the workspace that is logged in to."""

from __future__ import annotations

import os

from ..base.home import Home
from ..base.state import transaction as transaction
from ..client.workspace import Workspace, logins


def remote() -> Workspace | None:
    """The workspace that the environment names or `lep login` chose; else state is on this machine, also where `lep up` runs on it."""
    url, key = os.environ.get("LEPTON_WORKSPACE_URL"), os.environ.get("LEPTON_WORKSPACE_TOKEN")
    if (url and key) or logins(Home.current()).current:
        return Workspace.current()
    return None
