"""Writes `routes.json` for the gateway: a function of endpoints, ingresses and keys in the store, and of nothing else.

Follows the store's changes; so whoever was killed, the next writer of the file comes to the same table.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path

import msgspec

from ...base.errors import Corrupt, LeptonError
from ..accounts.keys import calling_keys
from ..gateway.table import (
    Access,
    Endpoint,
    Ingress,
    Key,
    Limits,
    Replica,
    Revision,
    Table,
    Target,
    Token,
    read_table,
    write_table,
)
from ..resources.endpoint import EndpointSpec, EndpointStatus
from ..resources.others import IngressSpec
from ..store import Resource, Store
from . import scaling
from .notes import Notes, replica_name

log = logging.getLogger("lepton.routes")
POLL_S, RESYNC_S = 0.5, 10.0
DEFAULT_TIMEOUT_S = 300.0
TROUBLE_HOLD_S = 10.0
"""How long a request waits for an endpoint whose replicas crash."""


class Routes:
    """`start` writes the table once, then a thread keeps it right."""

    def __init__(self, store: Store, path: Path):
        self._store, self._path = store, path
        self._endpoints: dict[str, Endpoint] = {}
        self._ingresses: dict[str, Ingress] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="routes", daemon=True)
        self._written: Table | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        position, resync_at = -1, 0.0
        while not self._stopping.is_set():
            try:
                if time.monotonic() >= resync_at:
                    position = self._read_all()
                    resync_at = time.monotonic() + RESYNC_S
                else:
                    if not self._store.wait(position, POLL_S):
                        continue
                    changed, position = self._store.changes(position)
                    for resource in changed:
                        self._take(resource)
                self.write(position)
            except (LeptonError, OSError) as error:
                log.warning("the routes cannot be written: %s", error)
                self._stopping.wait(1.0)

    def _read_all(self) -> int:
        """Everything anew: rows that were purged do not show among changes."""
        position = self._store.position()
        self._endpoints, self._ingresses = {}, {}
        with self._store.reading() as tx:
            for kind in ("endpoint", "ingress"):
                offset = 0
                while page := tx.list(kind, None, offset=offset, limit=5000):
                    offset += len(page)
                    for resource in page:
                        self._take(resource)
        return position

    def _take(self, resource: Resource) -> None:
        if resource.kind == "endpoint":
            place, entry = self._endpoints, endpoint_of
        elif resource.kind == "ingress":
            place, entry = self._ingresses, ingress_of  # type: ignore[assignment]
        else:
            return
        place.pop(resource.uid, None)
        if resource.deleted_at is None:
            try:
                place[resource.uid] = entry(resource)  # type: ignore[assignment]
            except (msgspec.ValidationError, LeptonError, ValueError) as error:
                log.error("no route for %s %s/%s: %s", resource.kind, resource.workspace, resource.name, error)

    def write(self, position: int) -> None:
        """Put the table in force if it differs from the one that is."""
        with self._store.connection() as connection:
            keys = tuple(
                Key(
                    f"key:{row.prefix}",
                    row.sha256,
                    row.expires_at / 1000 if row.expires_at else None,
                    workspace=row.workspace,
                )
                for row in calling_keys(connection)
            )
        now = Table()
        with contextlib.suppress(FileNotFoundError, Corrupt):
            now = read_table(self._path)
        table = Table(
            version=now.version,
            plane=now.plane,
            endpoints=tuple(self._endpoints.values()),
            ingresses=tuple(self._ingresses.values()),
            keys=keys,
            trusted_proxies=now.trusted_proxies,
        )
        if table != now:
            write_table(self._path, msgspec.structs.replace(table, version=max(position, now.version + 1)))


def endpoint_of(resource: Resource) -> Endpoint:
    """The route of an endpoint: its ready and its draining replicas, by revision."""
    spec = msgspec.convert(resource.spec, EndpointSpec)
    status = msgspec.convert(resource.status, EndpointStatus)
    notes = msgspec.convert(status.details, Notes)
    auth = spec.auth_config
    kept = (
        auth
        and auth.lepton_workspace_token_auth
        and auth.lepton_workspace_token_auth.remove_authorization_header is False
    )
    access = Access(
        public=bool(spec.allow_unauthenticated_access),
        tokens=tuple(Token(f"token:{one.sha256[:12]}", one.sha256) for one in spec.api_tokens or [] if one.sha256),
        allow=tuple((auth and auth.ip_allowlist) or ()),
        keep_authorization=bool(kept),
    )
    throughput = spec.auto_scaler and spec.auto_scaler.target_throughput
    routing, balance = spec.routing_policy, spec.load_balance_config
    return Endpoint(
        resource.workspace,
        resource.name,
        resource.version,
        _revisions(resource.name, notes) if not spec.is_pod or notes.replicas else (),
        access,
        Limits(timeout_s=_timeout_s(spec), hold_s=_hold_s(spec, notes)),
        "sticky" if balance and balance.maglev is not None else "least",
        bool(routing and routing.enable_header_based_replica_routing),
        tuple((throughput and throughput.paths) or ()),
        tuple((throughput and throughput.methods) or ()),
    )


def _revisions(name: str, notes: Notes) -> tuple[Revision, ...]:
    """Each revision gets its share by the number of its replicas; one without any keeps its counts at the gateway."""
    found = []
    for number in dict.fromkeys((notes.stable, notes.target, *(one.revision for one in notes.replicas))):
        replicas = tuple(
            Replica(replica_name(name, one.serial), f"127.0.0.1:{one.ports[0]}", one.phase == "draining")
            for one in notes.replicas
            if one.revision == number and one.phase in ("ready", "draining") and one.ports
        )
        open_ = sum(not one.draining for one in replicas)
        if number:
            found.append(Revision(str(number), replicas, weight=max(1, open_)))
    return tuple(found)


def _timeout_s(spec: EndpointSpec) -> float:
    return float(spec.ingress_timeout_seconds or DEFAULT_TIMEOUT_S)


def _hold_s(spec: EndpointSpec, notes: Notes) -> float:
    """A stopped endpoint answers 503 at once; one that starts, wakes or replaces its only replica lets requests wait."""
    if scaling.is_stopped(spec, *spec.replicas):
        return 0.0
    return TROUBLE_HOLD_S if notes.crashes >= 3 else _timeout_s(spec)


def ingress_of(resource: Resource) -> Ingress:
    spec = msgspec.convert(resource.spec, IngressSpec)
    targets = tuple(
        Target(one.deployment, 100 if one.weight is None else one.weight)
        for one in spec.endpoints or []
        if one.deployment
    )
    return Ingress(
        spec.domain_name, resource.workspace, targets, tuple((spec.auth_config and spec.auth_config.ip_allowlist) or ())
    )
