"""What the store hands out: resources as plain values, and who acts."""

from __future__ import annotations

from typing import Any

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """Who acts. `key`: the public prefix of the API key; None for controllers and the machine's own commands."""

    name: str
    workspace: str | None = None
    role: str = "viewer"
    scopes: tuple[str, ...] = ()
    key: str | None = None


SYSTEM = Actor("system", role="system", scopes=("*",))


class Resource(msgspec.Struct, frozen=True):
    """One row of `resources`: what is wanted (`spec`), what is (`status`).

    `version` moves with every write, `generation` with every change of the spec. Times are milliseconds since 1970.
    A deleted resource keeps its row until its controller has cleaned up (`purge`), but its name is free at once: work by `uid`.
    """

    kind: str
    workspace: str
    name: str
    uid: str
    version: int
    generation: int
    spec: dict[str, Any]
    status: dict[str, Any]
    labels: dict[str, str]
    created_by: str
    created_at: int
    modified_by: str
    modified_at: int
    deleted_at: int | None = None
    position: int = 0

    @property
    def state(self) -> str:
        return self.status.get("state") or ""
