"""Who may call an endpoint: public, one of its tokens, or a key of its workspace; and from which addresses."""

from __future__ import annotations

import time

from .heads import RequestHead
from .networks import within
from .routing import EndpointState, Routing
from .table import Token, hash_token


class Denied(Exception):
    """`status`, `code` and `message` of the answer."""

    def __init__(self, status: int, code: str, message: str):
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


def client_address(routing: Routing, request: RequestHead, peer: str) -> str:
    """The caller's address: the peer, or what a trusted proxy says about it. Clears what nobody trusted said."""
    if routing.trusted and within(peer, routing.trusted):
        for hop in reversed(request.forwarded_for.decode("latin-1").split(",")):
            hop = hop.strip()
            if hop and not within(hop, routing.trusted):
                return hop
    request.forwarded_for = b""
    return peer


def caller_of(routing: Routing, endpoint: EndpointState, request: RequestHead, client: str) -> tuple[str, Token | None]:
    """(id for facts and limits, token). Raises Denied. Takes the caller's token off the request unless the replica may see it.

    A token is found by its SHA-256 sum, so the time that this takes says nothing about the tokens there are.
    """
    access = endpoint.entry.access
    allowed = within(client, endpoint.allow) and within(client, routing.ingress(request.host))
    if not allowed:
        raise Denied(403, "Refused", "this address may not call this endpoint")
    found = None
    if request.authorization is not None:
        scheme, _, secret = request.authorization.partition(b" ")
        if scheme.lower() == b"bearer" and secret:
            digest = hash_token(secret.strip())
            found = endpoint.by_hash.get(digest) or routing.keys.get(digest)
            if found is not None and not access.keep_authorization:
                request.authorization = None
            workspace = getattr(found, "workspace", endpoint.entry.workspace)
            if found is not None and (workspace != endpoint.entry.workspace or _expired(found)):
                found = None
    if found is not None:
        return found.id, found
    if access.public:
        return client, None
    if request.authorization is None and found is None:
        raise Denied(401, "Unauthorized", "this endpoint needs a token: send `Authorization: Bearer TOKEN`")
    raise Denied(401, "Unauthorized", "this token does not open this endpoint, or it has expired")


def _expired(token: Token) -> bool:
    return token.expires_at is not None and token.expires_at <= time.time()
