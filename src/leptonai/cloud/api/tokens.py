"""Tokens of endpoints: kept encrypted (to show again) and hashed (for the gateway), made where the workspace wants it."""

from __future__ import annotations

import secrets
from typing import Any

from ...base.errors import InvalidInput
from ..accounts.keys import sha256
from ..accounts.roles import allows
from .call import Call

HIDDEN = "***"
MAX_TOKENS = 50


def seal(call: Call, name: str, spec: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """`spec` with its tokens sealed; those that were there before keep their form, so that an equal spec stays equal."""
    if not spec.get("api_tokens"):
        return spec
    known = {token["sha256"]: token for token in (before or {}).get("api_tokens") or [] if token.get("sha256")}
    sealed = []
    if len(spec["api_tokens"]) > MAX_TOKENS:
        raise InvalidInput(
            "an endpoint has too many tokens", received=len(spec["api_tokens"]), expected=f"at most {MAX_TOKENS}"
        )
    for token in spec["api_tokens"]:
        if not isinstance(token, dict) or "sealed" in token or "sha256" in token:
            raise InvalidInput("this cannot be a token of an endpoint", expected='{"value": TEXT}')
        value = token.get("value")
        if value is None:
            sealed.append(token)
            continue
        if not isinstance(value, str) or not 1 <= len(value) <= 512 or value == HIDDEN or not value.isascii():
            raise InvalidInput(
                "this cannot be a token of an endpoint", expected=f"1 to 512 ASCII characters, not {HIDDEN}"
            )
        digest = sha256(value)
        place = f"{call.workspace}/tokens/{name}"
        sealed.append(known.get(digest) or {"sealed": call.plane.vault.seal_text(value, place), "sha256": digest})
    return {**spec, "api_tokens": sealed}


def unseal(call: Call, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """`spec` as the caller may see it: a key that may not change the endpoint sees that there are tokens, not which."""
    if not spec.get("api_tokens"):
        return spec
    may = allows(call.actor.role, call.actor.scopes, "endpoints.write")
    place = f"{call.workspace}/tokens/{name}"
    shown = []
    for token in spec["api_tokens"]:
        if "sealed" in token:
            token = {"value": call.plane.vault.unseal_text(token["sealed"], place) if may else HIDDEN}
        shown.append(token)
    return {**spec, "api_tokens": shown}


def with_default(call: Call, spec: dict[str, Any], secure: bool) -> dict[str, Any]:
    """An endpoint is never open by omission: without a token and without leave to be public it gets a token."""
    if spec.get("is_pod") or spec.get("api_tokens") or spec.get("allow_unauthenticated_access") or not secure:
        return spec
    return {**spec, "api_tokens": [{"value": secrets.token_urlsafe(24)}]}
