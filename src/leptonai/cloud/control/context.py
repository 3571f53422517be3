"""What every controller is given: the store, the compute driver, the vault, this machine's shapes. And what it is: its contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...base.errors import Refused
from ...base.home import Home
from ...base.paths import resolve_within
from ..accounts.secrets import environment
from ..accounts.vault import Vault
from ..compute.driver import Driver, Mount, Resources
from ..resources.fields import Mount as MountSpec
from ..resources.shapes import Shape, shape_named, shapes
from ..store import Resource, Store, Transaction
from ..store.leases import Lease

UID = "uid"
"""The label of a workload by which the loop finds the resource that it belongs to."""


@dataclass
class Context:
    store: Store
    driver: Driver
    home: Home
    vault: Vault
    lease: Lease | None = field(default=None, repr=False)
    """Set by the loop: without it nobody writes."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A change by the plane, refused if another plane has taken over."""
        return self.store.transaction(lease=self.lease)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        with self.store.reading() as tx:
            yield tx

    @property
    def shapes(self) -> dict[str, Shape]:
        total = self.driver.capacity().total
        return shapes(total.cpu, total.memory_bytes, total.gpus)

    def resources(self, shape: str | None) -> Resources:
        """Raises InvalidInput if this machine has no such shape."""
        found = shape_named(shape, self.shapes)
        return Resources(found.cpu, found.memory_bytes, int(found.accelerators))

    def environment(self, resource: Resource) -> dict[str, str]:
        """`spec.envs` with secrets opened. Raises NotFound or Refused."""
        with self.reading() as tx:
            return environment(tx, self.vault, resource)

    def mounts(self, resource: Resource, mounts: list[MountSpec] | None) -> tuple[Mount, ...]:
        """Storage of this machine is the workspace's own files, wherever `from` says that it lies."""
        root = files_of(self.home, resource.workspace)
        found = []
        for mount in mounts or []:
            source = resolve_within(root, (mount.path or "/").lstrip("/"))
            if ".." in Path(mount.mount_path).parts:
                raise Refused("a mount path may not go up", received=mount.mount_path)
            source.mkdir(parents=True, exist_ok=True)
            found.append(Mount(source, mount.mount_path, bool(mount.mount_options and mount.mount_options.read_only)))
        return tuple(found)


def files_of(home: Home, workspace: str) -> Path:
    """The folder that `lep storage` shows of a workspace."""
    folder = Home(home.root, workspace).folder / "files"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class Controller(Protocol):
    """One per kind; made with the context. Never called for one resource by two threads at once."""

    def __init__(self, context: Context): ...

    def reconcile(self, resource: Resource) -> float | None:
        """Bring what is nearer to what is wanted; seconds until it wants to be asked again, None: when something changes.

        May be called at any time, and any number of times. A Conflict it raises means: read again; other errors: back off."""
