"""What one transaction can do to resources. Every change writes its audit row beside it; controllers (SYSTEM) write events instead."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from ...base.errors import Conflict, NotFound
from . import leases as _leases
from .model import Actor, Resource
from .tables import audit, clock, events, idempotency, resources

MAX_PAGE = 10_000


class Transaction:
    """Made by `Store.transaction` or `Store.reading`. `changed`: the uids written so far; `moved`: something else did."""

    def __init__(self, connection: Connection, actor: Actor, request_id: str, read_only: bool = False):
        self.connection, self.actor, self.request_id, self.read_only = connection, actor, request_id, read_only
        self.changed: dict[str, None] = {}
        self.moved = False

    # -- reading

    def get(self, kind: str, workspace: str, name: str, *, lock: bool = False, deleted: bool = False) -> Resource:
        """The living resource of that name. `deleted`: or else the one that was deleted last. `lock`: nobody else writes it
        until this transaction ends. Raises NotFound."""
        query = select(resources).where(
            resources.c.workspace == workspace, resources.c.kind == kind, resources.c.name == name
        )
        if deleted:
            query = query.order_by(resources.c.deleted_at.is_(None).desc(), resources.c.deleted_at.desc()).limit(1)
        else:
            query = query.where(resources.c.grave == "")
        row = self.connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise NotFound(f"there is no {kind} {name!r} in workspace {workspace!r}")
        return to_resource(row)

    def by_uid(self, uid: str, *, lock: bool = False) -> Resource | None:
        """For controllers, who know their resource by its uid; None once it is purged."""
        query = select(resources).where(resources.c.uid == uid)
        row = self.connection.execute(query.with_for_update() if lock else query).first()
        return to_resource(row) if row else None

    def list(
        self,
        kind: str,
        workspace: str | None,
        *,
        after: str | None = None,
        limit: int = 500,
        labels: Mapping[str, str] | None = None,
        states: Iterable[str] | None = None,
        created_by: Iterable[str] | None = None,
        search: str | None = None,
        deleted: bool | None = False,
        offset: int = 0,
        newest_first: bool = False,
    ) -> list[Resource]:
        """Resources of a kind, in the order of their names (or the newest first).

        `after`: the name that the page before ended with. `states` and `created_by` match beginnings, without regard to case;
        `search` matches any part of the name. `deleted`: False the living, True the deleted, None both.
        `workspace` None: all of them, for controllers only.
        """
        table = resources.c
        query = select(resources).where(table.kind == kind)
        if workspace is not None:
            query = query.where(table.workspace == workspace)
        if deleted is not None:
            query = query.where(table.deleted_at.is_not(None) if deleted else table.deleted_at.is_(None))
        if after is not None:
            query = query.where(table.name > after)
        for key, value in (labels or {}).items():
            query = query.where(table.labels[key].as_string() == value)
        for column, prefixes in ((table.state, states), (table.created_by, created_by)):
            if prefixes:
                lowered = [prefix.lower() for prefix in prefixes]
                query = query.where(
                    or_(*(func.lower(column).startswith(prefix, autoescape=True) for prefix in lowered))
                )
        if search:
            query = query.where(func.lower(table.name).contains(search.lower(), autoescape=True))
        order = (table.created_at.desc(), table.uid) if newest_first else (table.name, table.created_at, table.uid)
        query = query.order_by(*order).limit(min(limit, MAX_PAGE)).offset(offset)
        return [to_resource(row) for row in self.connection.execute(query)]

    def count(self, kind: str, workspace: str | None) -> int:
        query = (
            select(func.count())
            .select_from(resources)
            .where(resources.c.kind == kind, resources.c.deleted_at.is_(None))
        )
        return (
            self.connection.scalar(query if workspace is None else query.where(resources.c.workspace == workspace)) or 0
        )

    # -- writing

    def create(
        self,
        kind: str,
        workspace: str,
        name: str,
        spec: dict[str, Any],
        labels: Mapping[str, str] | None = None,
        status: dict[str, Any] | None = None,
    ) -> Resource:
        """Raises Conflict if a living resource has the name."""
        now, status = now_ms(), status or {}
        resource = Resource(
            kind,
            workspace,
            name,
            uuid.uuid4().hex,
            1,
            1,
            spec,
            status,
            dict(labels or {}),
            self.actor.name,
            now,
            self.actor.name,
            now,
        )
        values = {
            **{field: getattr(resource, field) for field in resource.__struct_fields__},
            "grave": "",
            "state": resource.state,
        }
        try:
            with self.connection.begin_nested():
                self.connection.execute(insert(resources).values(**values))
        except IntegrityError:
            raise Conflict(
                f"the name {name!r} is taken by another {kind} of workspace {workspace!r}",
                fix="Choose another name, or remove the one that has it.",
            ) from None
        self._note(resource, "create", {"spec": sorted(spec)})
        return resource

    def set_spec(self, resource: Resource, spec: dict[str, Any], labels: Mapping[str, str] | None = None) -> Resource:
        """A new generation, if anything differs. Raises Conflict if the resource has moved since it was read."""
        labels = resource.labels if labels is None else dict(labels)
        if spec == resource.spec and labels == resource.labels:
            return resource
        fields = sorted(key for key in {*spec, *resource.spec} if spec.get(key) != resource.spec.get(key))
        new = self._write(resource, generation=resource.generation + 1, spec=spec, labels=labels)
        self._note(new, "update", {"spec": fields})
        return new

    def set_status(self, resource: Resource, status: dict[str, Any]) -> Resource:
        """Raises Conflict if the resource has moved since it was read: reconcile what it is now."""
        if status == resource.status:
            return resource
        return self._write(resource, status=status, state=status.get("state") or "")

    def mark_deleted(self, resource: Resource) -> Resource:
        """What is wanted now is that it is gone: its controller stops what runs and then purges it. Its name is free."""
        if resource.deleted_at is not None:
            return resource
        new = self._write(resource, deleted_at=now_ms(), grave=resource.uid)
        self._note(new, "delete", {})
        return new

    def purge(self, resource: Resource) -> None:
        """Remove the row and its events. Its audit stays."""
        self.connection.execute(delete(events).where(events.c.uid == resource.uid))
        self.connection.execute(delete(resources).where(resources.c.uid == resource.uid))
        _leases.forget(self.connection, f"resource/{resource.uid}")
        self.changed.pop(resource.uid, None)
        self.moved = True

    def _write(self, resource: Resource, **values: Any) -> Resource:
        values |= {"version": resource.version + 1}
        if "spec" in values or "deleted_at" in values:
            values |= {"modified_by": self.actor.name, "modified_at": now_ms()}
        result = self.connection.execute(
            update(resources)
            .where(resources.c.uid == resource.uid, resources.c.version == resource.version)
            .values(**values)
        )
        if result.rowcount != 1:
            raise Conflict(
                f"the {resource.kind} {resource.name!r} has changed since it was read",
                fix="Read it again and repeat the change.",
            )
        self.changed[resource.uid] = None
        return msgspec.structs.replace(resource, **{k: v for k, v in values.items() if k not in ("state", "grave")})

    def touch(self) -> None:
        """Move the position although no resource changed: keys and members are in the route table too."""
        self.moved = True

    def number_changes(self) -> None:
        """Give what was written its place in the order of commits. The last act of a transaction: PostgreSQL's writers queue here."""
        if not self.changed and not self.moved:
            return
        uids = list(self.changed)
        steps = max(1, len(uids))
        last = self.connection.scalar(
            update(clock).where(clock.c.id == 1).values(position=clock.c.position + steps).returning(clock.c.position)
        )
        for offset, uid in enumerate(uids, 1):
            self.connection.execute(
                update(resources).where(resources.c.uid == uid).values(position=last - steps + offset)
            )

    # -- what goes with a change

    def event(self, resource: Resource, type: str, reason: str, message: str = "") -> None:
        """`type`: "Normal" or "Warning". An equal event is counted, not repeated."""
        now, message = now_ms(), message[:4000]
        digest = hashlib.sha256(f"{type}\0{reason}\0{message}".encode()).hexdigest()[:32]
        dialect = postgresql if self.connection.dialect.name == "postgresql" else sqlite
        row = dialect.insert(events).values(
            workspace=resource.workspace, uid=resource.uid, kind=resource.kind, name=resource.name,
            type=type, reason=reason, message=message, digest=digest, count=1, first_at=now, last_at=now,
        )  # fmt: skip
        self.connection.execute(
            row.on_conflict_do_update(
                index_elements=[events.c.uid, events.c.digest], set_={"count": events.c.count + 1, "last_at": now}
            )
        )

    def events(self, resource: Resource, limit: int = 500) -> list[Row]:
        """The newest last: rows with type, reason, message, count, first_at, last_at (ms)."""
        query = select(events).where(events.c.workspace == resource.workspace, events.c.uid == resource.uid)
        rows = self.connection.execute(query.order_by(events.c.last_at.desc(), events.c.id.desc()).limit(limit)).all()
        return rows[::-1]

    def audit(self, workspace: str, action: str, kind: str, name: str, detail: Mapping[str, Any] | None = None) -> None:
        self.connection.execute(
            insert(audit).values(
                workspace=workspace,
                at=now_ms(),
                actor=self.actor.name,
                key=self.actor.key,
                action=action,
                kind=kind,
                name=name,
                request_id=self.request_id,
                detail=dict(detail or {}),
            )
        )

    def audit_log(self, workspace: str, *, before: int | None = None, limit: int = 100) -> list[Row]:
        query = select(audit).where(audit.c.workspace == workspace)
        if before is not None:
            query = query.where(audit.c.id < before)
        return self.connection.execute(query.order_by(audit.c.id.desc()).limit(min(limit, 1000))).all()

    def recall(self, workspace: str, key: str) -> Row | None:
        """What was answered to this idempotency key of this actor before: digest, status, body."""
        table = idempotency.c
        query = select(idempotency).where(
            table.workspace == workspace, table.actor == self.actor.name, table.key == key
        )
        return self.connection.execute(query).first()

    def remember(self, workspace: str, key: str, digest: str, status: int, body: bytes) -> None:
        """Raises Conflict if the same key was answered in parallel."""
        try:
            with self.connection.begin_nested():
                self.connection.execute(
                    insert(idempotency).values(
                        workspace=workspace,
                        actor=self.actor.name,
                        key=key,
                        digest=digest,
                        status=status,
                        body=body,
                        at=now_ms(),
                    )
                )
        except IntegrityError:
            raise Conflict("a request with this idempotency key is being worked on", fix="Send it again.") from None

    def fence(self, lease: _leases.Lease) -> None:
        """Raises Conflict if the lease is no longer its holder's."""
        if not _leases.holds(self.connection, lease):
            raise Conflict(f"the lease {lease.name!r} has been taken by another process")

    def _note(self, resource: Resource, action: str, detail: dict[str, Any]) -> None:
        self.changed[resource.uid] = None
        if self.actor.role != "system":
            self.audit(resource.workspace, action, resource.kind, resource.name, detail)


def to_resource(row: Row) -> Resource:
    return Resource(
        row.kind, row.workspace, row.name, row.uid, row.version, row.generation, row.spec, row.status, row.labels,
        row.created_by, row.created_at, row.modified_by, row.modified_at, row.deleted_at, row.position,
    )  # fmt: skip


def now_ms() -> int:
    return time.time_ns() // 1_000_000
