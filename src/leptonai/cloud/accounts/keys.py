"""API keys: `lep_<prefix>_<secret>`. Only the SHA-256 of a key is stored; it is found by its prefix and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...base.errors import InvalidInput, NotFound
from ..store import Actor
from ..store.tables import keys, members
from ..store.transaction import now_ms
from .roles import allows, check_no_wider, check_scopes

_KEY = re.compile(r"lep_(?P<prefix>[0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z")
# Compared with where no such key exists, so that an unknown prefix takes as long as a wrong secret.
_NOBODY = hashlib.sha256(b"nobody").hexdigest()
MAX_LIFE_MS = 10 * 366 * 86_400_000


class NewKey(NamedTuple):
    key: str
    prefix: str


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_key(
    connection: Connection,
    workspace: str,
    member: str,
    *,
    maker: Actor,
    scopes: Iterable[str] | None = None,
    expires_at: int | None = None,
    label: str = "",
) -> NewKey:
    """A new key of `member`; the text is returned here and nowhere else. `expires_at`: ms since 1970, None for never.

    Scopes default to the maker's. Raises Refused for wider ones, InvalidInput for a life longer than the maker's own.
    """
    wanted = check_scopes(scopes) if scopes is not None else maker.scopes
    if maker.role != "system":
        check_no_wider(maker.scopes, wanted)
        expires_at = _no_longer(connection, maker, expires_at)
    if expires_at is not None and not now_ms() < expires_at <= now_ms() + MAX_LIFE_MS:
        raise InvalidInput(
            "a key cannot expire then", received=expires_at, expected="a moment in the next ten years, in ms"
        )
    if len(label) > 200:
        raise InvalidInput("the label of a key is too long", received=label, expected="at most 200 characters")
    while True:
        prefix = secrets.token_hex(6)
        key = f"lep_{prefix}_{secrets.token_urlsafe(32)}"
        try:
            with connection.begin_nested():
                connection.execute(
                    insert(keys).values(
                        prefix=prefix,
                        workspace=workspace,
                        member=member,
                        label=label,
                        sha256=sha256(key),
                        tail=key[-4:],
                        scopes=list(wanted),
                        created_by=maker.name,
                        created_at=now_ms(),
                        expires_at=expires_at,
                    )
                )
            return NewKey(key, prefix)
        except IntegrityError:
            continue  # the prefix was taken


def _no_longer(connection: Connection, maker: Actor, expires_at: int | None) -> int | None:
    own = connection.scalar(select(keys.c.expires_at).where(keys.c.prefix == maker.key)) if maker.key else None
    if own is None:
        return expires_at
    if expires_at is not None and expires_at > own:
        raise InvalidInput(
            "a key may not live longer than the one that makes it", received=expires_at, expected=f"at most {own}"
        )
    return expires_at or own


def find_key(connection: Connection, credential: str) -> tuple[Row, str] | None:
    """The key's row and its member's role, or None for one that is not valid now. Takes the same time either way."""
    match = _KEY.match(credential)
    row = None
    if match:
        query = select(keys, members.c.role).join(
            members, (members.c.workspace == keys.c.workspace) & (members.c.name == keys.c.member)
        )
        row = connection.execute(query.where(keys.c.prefix == match["prefix"])).first()
    same = hmac.compare_digest(sha256(credential), row.sha256 if row else _NOBODY)
    if row is None or not same or row.revoked_at is not None:
        return None
    if row.expires_at is not None and row.expires_at <= now_ms():
        return None
    return row, row.role


def list_keys(connection: Connection, workspace: str, member: str | None = None) -> list[Row]:
    query = select(keys).where(keys.c.workspace == workspace, keys.c.revoked_at.is_(None)).order_by(keys.c.created_at)
    return connection.execute(query if member is None else query.where(keys.c.member == member)).all()


def calling_keys(connection: Connection) -> list[Row]:
    """All keys that may call endpoints now, for the gateway: prefix, workspace, sha256, expires_at (ms)."""
    query = select(keys, members.c.role).join(
        members, (members.c.workspace == keys.c.workspace) & (members.c.name == keys.c.member)
    )
    rows = connection.execute(query.where(keys.c.revoked_at.is_(None))).all()
    now = now_ms()
    return [
        row
        for row in rows
        if (row.expires_at is None or row.expires_at > now) and allows(row.role, row.scopes, "endpoints.call")
    ]


def revoke_key(connection: Connection, workspace: str, prefix: str, member: str | None = None) -> None:
    """`member`: only if it is a key of that member. Raises NotFound."""
    query = update(keys).where(keys.c.workspace == workspace, keys.c.prefix == prefix, keys.c.revoked_at.is_(None))
    if member is not None:
        query = query.where(keys.c.member == member)
    if connection.execute(query.values(revoked_at=now_ms())).rowcount != 1:
        raise NotFound(f"there is no key {prefix!r} in workspace {workspace!r}")
