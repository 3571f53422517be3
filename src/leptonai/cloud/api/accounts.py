"""Members, keys, the audit log, usage."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, func, select

from ...base.errors import InvalidInput, Refused
from ..accounts import keys, workspaces
from ..store.tables import usage as usage_table
from .call import Answer, Call
from .metadata import iso


def tokens(call: Call) -> list[dict[str, Any]]:
    """The caller's own keys, masked, as the client looks for the expiry of the one it uses."""
    found = keys.list_keys(call.tx.connection, call.workspace, call.actor.name)
    return [{"masked_value": f"lep_{row.prefix}...{row.tail}", "expires_at": row.expires_at} for row in found]


def list_keys(call: Call) -> list[dict[str, Any]]:
    """One's own keys; an admin sees everybody's."""
    member = None if call.actor.role == "admin" else call.actor.name
    return [_key(row) for row in keys.list_keys(call.tx.connection, call.workspace, member)]


def _key(row: Row) -> dict[str, Any]:
    return {
        "prefix": row.prefix,
        "member": row.member,
        "label": row.label,
        "scopes": row.scopes,
        "created_by": row.created_by,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "masked_value": f"lep_{row.prefix}...{row.tail}",
    }


def create_key(call: Call) -> Answer:
    """`{"scopes", "expires_at" (ms), "label", "member"}`, all optional. The key is in this answer and nowhere else."""
    body = _fields(call, {"scopes": list, "expires_at": int, "label": str, "member": str})
    member = body.get("member") or call.actor.name
    if member != call.actor.name and (call.actor.role != "admin" or "*" not in call.actor.scopes):
        raise Refused("only an admin makes keys for others", received=member)
    workspaces.get_member(call.tx.connection, call.workspace, member)
    made = keys.make_key(
        call.tx.connection,
        call.workspace,
        member,
        maker=call.actor,
        scopes=body.get("scopes"),
        expires_at=body.get("expires_at"),
        label=body.get("label") or "",
    )
    call.tx.touch()
    call.tx.audit(call.workspace, "create", "key", made.prefix, {"member": member})
    return Answer({"key": made.key, "prefix": made.prefix, "member": member}, 201)


def delete_key(call: Call) -> Answer:
    member = None if call.actor.role == "admin" else call.actor.name
    keys.revoke_key(call.tx.connection, call.workspace, call.path["prefix"], member)
    call.tx.touch()
    call.tx.audit(call.workspace, "delete", "key", call.path["prefix"][:250])
    return Answer({})


def list_members(call: Call) -> list[dict[str, Any]]:
    return [_member(row) for row in workspaces.list_members(call.tx.connection, call.workspace)]


def _member(row: Row) -> dict[str, Any]:
    return {"name": row.name, "role": row.role, "added_by": row.added_by, "added_at": row.added_at}


def add_member(call: Call) -> Answer:
    """`{"name", "role"}` → the member and a first key for him, which is in this answer and nowhere else."""
    body = _fields(call, {"name": str, "role": str}, required=("name", "role"))
    connection = call.tx.connection
    workspaces.add_member(connection, call.workspace, body["name"], body["role"], maker=call.actor)
    made = keys.make_key(connection, call.workspace, body["name"], maker=call.actor, label="first key")
    call.tx.touch()
    call.tx.audit(call.workspace, "create", "member", body["name"], {"role": body["role"]})
    return Answer({"name": body["name"], "role": body["role"], "key": made.key}, 201)


def change_member(call: Call) -> dict[str, Any]:
    body = _fields(call, {"role": str}, required=("role",))
    workspaces.change_role(call.tx.connection, call.workspace, call.path["name"], body["role"])
    call.tx.touch()
    call.tx.audit(call.workspace, "update", "member", call.path["name"], {"role": body["role"]})
    return _member(workspaces.get_member(call.tx.connection, call.workspace, call.path["name"]))


def remove_member(call: Call) -> Answer:
    workspaces.remove_member(call.tx.connection, call.workspace, call.path["name"])
    call.tx.touch()
    call.tx.audit(call.workspace, "delete", "member", call.path["name"])
    return Answer({})


def audit(call: Call) -> dict[str, Any]:
    """The newest first; `before` is the id that the page before ended with."""
    before = call.number("before", 2**62, most=2**62)
    rows = call.tx.audit_log(call.workspace, before=before, limit=call.number("limit", 100, most=1000, least=1))
    return {
        "items": [
            {
                "id": row.id,
                "at": iso(row.at),
                "actor": row.actor,
                "key": row.key,
                "action": row.action,
                "kind": row.kind,
                "name": row.name,
                "request_id": row.request_id,
                "detail": row.detail,
            }
            for row in rows
        ]
    }


def usage(call: Call) -> dict[str, Any]:
    """Sums per caller (key, token or address), resource and meter between `start` and `end` (ms)."""
    table = usage_table.c
    start, end = call.number("start", 0, most=2**62), call.number("end", 2**62, most=2**62)
    query = (
        select(table.caller, table.resource, table.meter, func.sum(table.quantity).label("quantity"))
        .where(table.workspace == call.workspace, table.at >= start, table.at < end)
        .group_by(table.caller, table.resource, table.meter)
        .order_by(table.resource, table.meter)
    )
    rows = call.tx.connection.execute(query).all()
    return {
        "items": [
            {"caller": row.caller, "resource": row.resource, "meter": row.meter, "quantity": int(row.quantity)}
            for row in rows
        ]
    }


def _fields(call: Call, known: dict[str, type], required: tuple[str, ...] = ()) -> dict[str, Any]:
    body = {key: value for key, value in call.json(dict).items() if value is not None}
    for key, value in body.items():
        if key not in known:
            raise InvalidInput("the body has a field that is not known", received=key, expected=", ".join(known))
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise InvalidInput(f"{key} is not right", received=value, expected=known[key].__name__)
    for key in required:
        if key not in body:
            raise InvalidInput(f"the body needs {key!r}")
    return body
