"""What the plane's parts share: store, vault, access, compute. Made once per process."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .. import __version__
from ..base.home import Home
from .accounts.access import Access
from .accounts.vault import Vault
from .resources.shapes import GIB, Shape, shapes
from .store import Store

if TYPE_CHECKING:
    from .compute.driver import Driver


@dataclass
class Plane:
    """`url`: where clients reach the gateway, without a path. `hosts`: names that a request's Host may have; None for any."""

    home: Home
    store: Store
    vault: Vault
    access: Access
    url: str
    driver: Driver | None = None
    hosts: frozenset[str] | None = None
    version: str = __version__
    node: str = field(default_factory=socket.gethostname)

    @property
    def address(self) -> str:
        """The host by which clients reach this machine."""
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def folder(self) -> Path:
        return self.home.root / "cloud"

    def storage(self, workspace: str) -> Path:
        """The files of a workspace: what `/storage` shows, and what `node-local` mounts mean on this machine."""
        return Home(self.home.root, workspace).folder / "files"

    def photons(self, workspace: str) -> Path:
        return Home(self.home.root, workspace).folder / "photons"

    def shapes(self) -> dict[str, Shape]:
        if self.driver is None:
            return shapes(os.cpu_count() or 1, 4 * GIB)
        total = self.driver.capacity().total
        return shapes(total.cpu, total.memory_bytes, total.gpus)

    def endpoint_url(self, workspace: str, name: str) -> str:
        return f"{self.url}/{workspace}/{name}"
