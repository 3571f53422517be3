"""Who may use which secret, and the environment that a spec asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...base.errors import NotFound, Refused
from ..store import Resource, Transaction
from .vault import Vault, get_secret


def may_use(secret: Resource, user: str) -> bool:
    """A private secret is its owner's alone; a public one is for every member of the workspace."""
    return secret.spec.get("visibility") == "public" or secret.spec["owner"] == user


def check_references(tx: Transaction, workspace: str, envs: Iterable[dict[str, Any]] | None) -> None:
    """Raises Refused if the actor names a secret that is somebody else's. One that is not there yet may come."""
    for name in references(envs):
        try:
            secret = tx.get("secret", workspace, name)
        except NotFound:
            continue
        if not may_use(secret, tx.actor.name):
            raise Refused(f"the secret {name!r} is private to somebody else", fix="Use one of your own.")


def environment(tx: Transaction, vault: Vault, resource: Resource) -> dict[str, str]:
    """For controllers: the values of `spec.envs`, secrets opened, as the last author of the spec may see them.

    Raises NotFound or Refused, to become a ConfigError of the replica.
    """
    found = {}
    for env in resource.spec.get("envs") or []:
        name = (env.get("value_from") or {}).get("secret_name_ref")
        if not name:
            found[env["name"]] = env.get("value") or ""
            continue
        if not may_use(tx.get("secret", resource.workspace, name), resource.modified_by):
            raise Refused(f"the secret {name!r} is private to somebody else than {resource.modified_by}")
        found[env["name"]] = get_secret(tx.connection, vault, resource.workspace, name)
    return found


def references(envs: Iterable[dict[str, Any]] | None) -> list[str]:
    return [
        env["value_from"]["secret_name_ref"]
        for env in envs or []
        if (env.get("value_from") or {}).get("secret_name_ref")
    ]
