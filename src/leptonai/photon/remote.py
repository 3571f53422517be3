"""Remote: a photon class that runs as a deployment of the workspace while the object lives; without a server, as a process of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from ..base.errors import LeptonError, Unavailable
from ..client.client import Client
from ..client.workspace import Workspace
from ..state.backend import remote
from .framework.deploying import deploy, remove, wait_ready
from .framework.models import create
from .framework.package import write
from .framework.photon import Photon

_URL = re.compile(r"is served on (http://\S+)")


class Remote:
    """`with Remote(MyPhoton) as remote: remote.method(x=1)`. `photon`: a class, an object or a model string. `close()` removes it.

    Where one is logged in to a workspace (or the environment names one) it is a deployment there; else a process of this machine.
    """

    def __init__(
        self,
        photon: type[Photon] | Photon | str,
        deployment_name: str | None = None,
        *,
        timeout_s: float = 600,
        **options: Any,
    ):
        made = create(None, photon) if isinstance(photon, str) else photon() if isinstance(photon, type) else photon
        self.name = deployment_name or f"{made._photon_name[:20].rstrip('-')}-{uuid.uuid4().hex[:8]}"
        self._process: subprocess.Popen | None = None
        self._workspace: Workspace | None = None
        self._closed = False
        with tempfile.TemporaryDirectory() as folder:
            package = write(made, Path(folder) / f"{made._photon_name}.photon")
            server = remote()
            if server is not None:
                self.client = self._deploy(server, package, timeout_s, options)
            else:
                self.client = self._start(package, timeout_s)

    def _deploy(self, server: Workspace, package: Path, timeout_s: float, options: dict[str, Any]) -> Client:
        self._workspace = server
        with open(package, "rb") as file:
            sent = self._workspace.send(
                "POST", "/photons/private", files={"file": (package.name, file, "application/zip")}
            )
        deploy(self._workspace, sent.json()["id"], self.name, **options)
        try:
            return Client(wait_ready(self._workspace, self.name, timeout_s), token=self._workspace.key)
        except LeptonError:
            self.close()
            raise

    def _start(self, package: Path, timeout_s: float) -> Client:
        command = [sys.executable, "-m", "leptonai.cli.main", "photon", "runlocal", "-f", str(package), "-p", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout or ():
                if match := _URL.search(line):
                    threading.Thread(target=self._drain, daemon=True).start()
                    return Client(match[1])
        finally:
            timer.cancel()
        raise Unavailable(
            "the photon did not start; its reason is above", received=f"exit status {self._process.wait()}"
        )

    def _drain(self) -> None:
        """What the photon prints goes on to our output; a full pipe would stop it."""
        for line in self._process.stdout or ():  # type: ignore[union-attr]
            print(line, end="")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "client":
            raise AttributeError(name)
        return getattr(self.client, name)

    def close(self) -> None:
        """Remove the deployment, or end the process. Once; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if self._workspace is not None:
            remove(self._workspace, self.name)
        elif self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
