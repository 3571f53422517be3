"""Where state lives: the SQLite file of this workspace, or the server of `LEPTON_WORKSPACE_URL`."""

from __future__ import annotations

import os

from ..base.state import transaction as transaction
from ..client.workspace import Workspace


def remote() -> Workspace | None:
    """The workspace's server, if the environment names one and its key; else state is on this machine."""
    url, key = os.environ.get("LEPTON_WORKSPACE_URL"), os.environ.get("LEPTON_WORKSPACE_TOKEN")
    return Workspace(url, key) if url and key else None
