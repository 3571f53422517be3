"""What roles and scopes allow. An action is `<noun>.<verb>`: `endpoints.write`, `logs.read`.

A scope is an action with `*` for either part, or `*` for all. A key may do what its member's role AND one of its scopes allow.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...base.errors import InvalidInput, Refused, did_you_mean

NOUNS = (
    "audit",
    "endpoints",
    "finetune",
    "ingress",
    "jobs",
    "keys",
    "logs",
    "members",
    "nodes",
    "photons",
    "rayclusters",
    "secrets",
    "storage",
    "templates",
    "usage",
    "workspace",
)
VERBS = ("read", "write", "call")
_WORK = ("endpoints", "finetune", "ingress", "jobs", "logs", "nodes", "photons", "rayclusters", "storage", "templates")

ROLES: dict[str, tuple[str, ...]] = {
    "admin": ("*",),
    # A developer owns keys (no wider than himself) and secrets, but neither members nor the workspace itself.
    "developer": (
        *(f"{noun}.{verb}" for noun in _WORK for verb in VERBS if (noun, verb) != ("nodes", "write")),
        "secrets.*",
        "keys.*",
        "members.read",
        "workspace.read",
        "usage.read",
    ),
    "viewer": (*(f"{noun}.read" for noun in _WORK), "secrets.read", "keys.read", "members.read", "workspace.read"),
    "billing": ("workspace.read", "usage.read", "keys.read"),
}


def check_role(role: str) -> str:
    if role not in ROLES:
        raise InvalidInput("there is no such role", received=role, fix=did_you_mean(str(role), ROLES))
    return role


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    scopes = tuple(dict.fromkeys(scopes))
    for scope in scopes:
        noun, dot, verb = scope.partition(".") if isinstance(scope, str) else ("", "", "")
        if scope == "*" or (dot and noun in ("*", *NOUNS) and verb in ("*", *VERBS)):
            continue
        raise InvalidInput(
            "this is not a scope", received=scope, expected="`*` or noun.verb, as `endpoints.write`, `*.read`"
        )
    if not scopes:
        raise InvalidInput("a key without a scope opens nothing", fix="Leave scopes out for all that your role may do.")
    return scopes


def covers(granted: Iterable[str], wanted: str) -> bool:
    """Whether one of `granted` allows all that `wanted` (an action or a scope) means."""
    noun, _, verb = ("*", "", "*") if wanted == "*" else wanted.partition(".")
    for grant in granted:
        if grant == "*":
            return True
        grant_noun, _, grant_verb = grant.partition(".")
        if grant_noun in ("*", noun) and grant_verb in ("*", verb):
            return True
    return False


def allows(role: str, scopes: Iterable[str], action: str) -> bool:
    return covers(ROLES.get(role, ()), action) and covers(scopes, action)


def check_no_wider(scopes: Iterable[str], wanted: Iterable[str]) -> None:
    """Raises Refused unless each wanted scope is inside `scopes`: a key never makes a stronger one. (Its member's role stands anyway.)"""
    scopes = tuple(scopes)
    for scope in wanted:
        if not covers(scopes, scope):
            raise Refused("a key may not have more rights than the one that makes it", received=scope)
