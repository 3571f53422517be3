"""Secrets: written, listed without their values, removed. The value is sealed; the resource says whose it is."""

from __future__ import annotations

import builtins
import re
from typing import Any

from ...base.errors import InvalidInput, NotFound
from ..accounts.secrets import may_use
from ..accounts.vault import put_secret, remove_secret
from ..resources.registry import KINDS
from .call import Answer, Call
from .merge import prune

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,252}\Z")
MAX_BYTES = 64 << 10


def list(call: Call) -> builtins.list[dict[str, Any]]:
    """One's own and the public ones; an admin sees all names. Nobody sees a value."""
    return [
        {"name": one.name, **one.spec}
        for one in call.tx.list("secret", call.workspace, limit=10_000)
        if may_use(one, call.actor.name) or call.actor.role == "admin"
    ]


def create(call: Call) -> Answer:
    """A list of `{name, value, visibility}`; all are made, or none."""
    body = call.json()
    items = body if isinstance(body, builtins.list) else [body]
    if not items or len(items) > 1000:
        raise InvalidInput("the body has another form", expected='a list of {"name", "value"}')
    for item in items:
        if (
            not isinstance(item, dict)
            or not isinstance(item.get("name"), str)
            or not isinstance(item.get("value"), str)
        ):
            raise InvalidInput("this cannot be a secret", expected='{"name": TEXT, "value": TEXT}')
        unknown = set(item) - {"name", "value", "visibility", "tags", "owner"}
        if unknown:
            raise InvalidInput("a secret has a field that is not known", received=min(unknown))
        if not NAME.match(item["name"]) or len(item["value"].encode()) > MAX_BYTES:
            raise InvalidInput(
                "this cannot be a secret",
                received=item["name"],
                expected=f"a name of letters, digits, '_', '-', '.' and a value of at most {MAX_BYTES >> 10} KiB",
            )
        spec = prune(
            {"owner": call.actor.name, "visibility": item.get("visibility") or "private", "tags": item.get("tags")}
        )
        KINDS["secret"].read_spec(spec)
        call.tx.create("secret", call.workspace, item["name"], spec)
        put_secret(call.tx.connection, call.plane.vault, call.workspace, item["name"], item["value"])
    return Answer([{"name": item["name"]} for item in items], 201)


def delete(call: Call) -> Answer:
    secret = call.tx.get("secret", call.workspace, call.path["name"], lock=True)
    if secret.spec["owner"] != call.actor.name and call.actor.role != "admin":
        raise NotFound(f"there is no secret {secret.name!r} in workspace {call.workspace!r}")
    remove_secret(call.tx.connection, call.workspace, secret.name)
    # Nothing runs for a secret, so nobody else would clean up.
    call.tx.purge(call.tx.mark_deleted(secret))
    return Answer({})
