"""Workspaces and members. A workspace always keeps an admin."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...base.errors import Conflict, InvalidInput, NotFound
from ..store import SYSTEM, Actor
from ..store.tables import keys, members, workspaces
from ..store.transaction import now_ms
from .keys import NewKey, make_key
from .roles import check_role

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
# Names are shown in terminals and pages, and become `created_by`.
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,99}\Z")

DEFAULTS: dict[str, Any] = {
    "features": {"enable_new_deployment_api": False, "enable_secure_endpoint_defaults": True},
    # 0: no limit but the machine.
    "quota": {"cpu": 0, "memory_bytes": 0, "accelerators": 0, "endpoints": 0, "jobs": 0, "storage_bytes": 0},
}


def create_workspace(connection: Connection, name: str, admin: str, *, maker: Actor = SYSTEM) -> NewKey:
    """A workspace with its first member, an admin, and that member's key. Raises Conflict if the name is taken."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidInput(
            "this cannot be the name of a workspace",
            received=name,
            expected="1 to 40 of a-z, 0-9 and '-', not '-' at an end",
        )
    check_member(admin)
    try:
        with connection.begin_nested():
            connection.execute(
                insert(workspaces).values(
                    name=name, display_name=name, state="normal", settings=DEFAULTS, created_at=now_ms()
                )
            )
    except IntegrityError:
        raise Conflict(f"there is a workspace {name!r} already") from None
    add_member(connection, name, admin, "admin", maker=maker)
    return make_key(connection, name, admin, maker=SYSTEM, scopes=["*"], label="first key")


def get_workspace(connection: Connection, name: str) -> Row:
    row = connection.execute(select(workspaces).where(workspaces.c.name == name)).first()
    if row is None:
        raise NotFound("there is no such workspace, or this key does not open it")
    return row


def list_workspaces(connection: Connection) -> list[Row]:
    return connection.execute(select(workspaces).order_by(workspaces.c.name)).all()


def change_workspace(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(update(workspaces).where(workspaces.c.name == name).values(**values))


def check_member(name: str) -> str:
    if not isinstance(name, str) or not _MEMBER.match(name) or name == "system":
        raise InvalidInput("this cannot be the name of a member", received=name, expected="a name or an e-mail address")
    return name


def list_members(connection: Connection, workspace: str) -> list[Row]:
    return connection.execute(select(members).where(members.c.workspace == workspace).order_by(members.c.name)).all()


def add_member(connection: Connection, workspace: str, name: str, role: str, *, maker: Actor) -> None:
    check_member(name), check_role(role)
    try:
        with connection.begin_nested():
            connection.execute(
                insert(members).values(
                    workspace=workspace, name=name, role=role, added_by=maker.name, added_at=now_ms()
                )
            )
    except IntegrityError:
        raise Conflict(f"{name!r} is a member of {workspace!r} already", fix="Change the role instead.") from None


def change_role(connection: Connection, workspace: str, name: str, role: str) -> None:
    check_role(role)
    member = get_member(connection, workspace, name)
    if member.role == "admin" and role != "admin":
        _keep_an_admin(connection, workspace)
    connection.execute(
        update(members).where(members.c.workspace == workspace, members.c.name == name).values(role=role)
    )


def remove_member(connection: Connection, workspace: str, name: str) -> None:
    """The member's keys end with the membership."""
    if get_member(connection, workspace, name).role == "admin":
        _keep_an_admin(connection, workspace)
    connection.execute(
        update(keys)
        .where(keys.c.workspace == workspace, keys.c.member == name, keys.c.revoked_at.is_(None))
        .values(revoked_at=now_ms())
    )
    connection.execute(delete(members).where(members.c.workspace == workspace, members.c.name == name))


def get_member(connection: Connection, workspace: str, name: str) -> Row:
    """Raises NotFound."""
    query = select(members).where(members.c.workspace == workspace, members.c.name == name)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"there is no member {name!r} in workspace {workspace!r}")
    return row


def _keep_an_admin(connection: Connection, workspace: str) -> None:
    # The rows are locked, so that two admins cannot remove each other at the same time.
    query = select(members.c.name).where(members.c.workspace == workspace, members.c.role == "admin").with_for_update()
    if len(connection.execute(query).all()) <= 1:
        raise Conflict("this is the last admin of the workspace", fix="Make somebody else an admin first.")


def count_workspaces(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(workspaces)) or 0
