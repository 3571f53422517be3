"""The route table as a file: what the plane tells the gateway. Replaced whole and atomically; the gateway goes on with the last one.

Secrets are not in it: tokens and keys are SHA-256 sums. `Endpoint.version` is the version of the resource that it was made from: a
worker reports which one it acts on, so that a controller knows when no worker sends requests to a draining replica any more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from ...base.errors import Corrupt
from ...base.files import write_atomic
from ...base.structs import prepare


class Replica(msgspec.Struct, frozen=True, omit_defaults=True):
    """`address`: `host:port`, or `unix:/path`. A draining one gets no new requests; its open ones go on."""

    id: str
    address: str
    draining: bool = False


class Revision(msgspec.Struct, frozen=True, omit_defaults=True):
    """`weight`: share of the traffic, relative to the other revisions that have replicas."""

    id: str
    replicas: tuple[Replica, ...] = ()
    weight: int = 100


class Token(msgspec.Struct, frozen=True, omit_defaults=True):
    """`hash`: SHA-256 of the token, hexadecimal. `id` names the caller in usage facts. `expires_at`: seconds since 1970."""

    id: str
    hash: str
    expires_at: float | None = None
    requests_per_minute: int | None = None


class Key(Token, frozen=True, omit_defaults=True):
    """An API key that may call every endpoint of its workspace."""

    workspace: str = ""


class Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """`tokens` are the endpoint's own; the workspace's keys are accepted too. `allow`: networks, empty for all."""

    public: bool = False
    tokens: tuple[Token, ...] = ()
    allow: tuple[str, ...] = ()
    keep_authorization: bool = False
    """Whether the replica is shown the token that opened the door to it."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    timeout_s: float = 300.0
    """From the request to the head of the answer, and between two parts of it."""
    body_bytes: int = 1 << 30
    requests_per_minute: int | None = None
    """Of each caller: key, token, or address if neither."""
    hold_s: float = 60.0
    """How long a request waits for a replica; 0 answers 503 at once."""
    held: int = 1000
    concurrency: int | None = None
    """Open requests per replica; more wait in line."""


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    workspace: str
    name: str
    version: int = 0
    revisions: tuple[Revision, ...] = ()
    access: Access = Access()
    limits: Limits = Limits()
    balance: Literal["least", "sticky"] = "least"
    header_routing: bool = False
    count_paths: tuple[str, ...] = ()
    """Requests that count for the autoscaler: those under these paths and of these methods; empty for all."""
    count_methods: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    endpoint: str
    weight: int = 100


class Ingress(msgspec.Struct, frozen=True, omit_defaults=True):
    """A domain whose requests are shared among endpoints of one workspace."""

    host: str
    workspace: str
    targets: tuple[Target, ...] = ()
    allow: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """`plane`: address of the API, for every path that is no endpoint's. `trusted_proxies`: networks whose X-Forwarded-For counts."""

    format: int = 1
    version: int = 0
    plane: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    ingresses: tuple[Ingress, ...] = ()
    keys: tuple[Key, ...] = ()
    trusted_proxies: tuple[str, ...] = ()


prepare(Table)


def write_table(path: Path, table: Table) -> None:
    """Put `table` in force: workers read it within a tenth of a second."""
    write_atomic(path, msgspec.json.encode(table))


def read_table(path: Path) -> Table:
    """Raises Corrupt if the file is no route table; FileNotFoundError if there is none."""
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"{path.name} is not a route table ({error})", fix="Restart the plane: it writes it anew."
        ) from error
    if table.format != 1:
        raise Corrupt(f"{path.name} is of another release", received=f"format {table.format}", expected="format 1")
    return table


def hash_token(token: str | bytes) -> str:
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).hexdigest()
