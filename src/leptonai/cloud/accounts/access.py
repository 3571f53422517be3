"""One function opens every door: `Access.authorise(credential, action, workspace)`.

Errors tell no more than the caller may know: a credential that is not valid now is 401, whatever it asks for; a valid one of
another workspace is 404 with the words that a workspace which does not exist gets; a right that is missing is 403.
"""

from __future__ import annotations

import threading
import time

from ...base.errors import NotFound, Refused, TooMany, Unauthenticated
from ..store import Actor, Store
from .keys import find_key
from .roles import allows

MAX_FAILURES, WINDOW_S = 10, 60.0
"""Wrong credentials per address and window; then 429. A valid key is still let in, so nobody can lock its owner out."""


class Access:
    def __init__(self, store: Store, *, max_failures: int = MAX_FAILURES):
        self._store, self._max_failures = store, max_failures
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def authorise(self, credential: str | None, action: str, workspace: str, *, address: str = "") -> Actor:
        """Who this is, if the key opens `workspace` for `action`. Raises Unauthenticated, TooMany, NotFound or Refused."""
        if not credential:
            raise Unauthenticated(
                "this needs an API key", fix="Send it as `Authorization: Bearer KEY`; see `lep login`."
            )
        with self._store.reading() as tx:
            found = find_key(tx.connection, credential)
        if found is None:
            self._count_failure(address)
            raise Unauthenticated(
                "this API key is not valid: unknown, revoked or expired", fix="Log in with another key."
            )
        key, role = found
        if key.workspace != workspace:
            raise NotFound("there is no such workspace, or this key does not open it")
        if not allows(role, key.scopes, action):
            raise Refused(f"this key may not do {action}: its role is {role}, its scopes are {', '.join(key.scopes)}")
        return Actor(key.member, key.workspace, role, tuple(key.scopes), key.prefix)

    def _count_failure(self, address: str) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._failures) > 10_000:
                self._failures = {a: f for a, f in self._failures.items() if f[1] > now}
            count, until = self._failures.get(address, (0, 0.0))
            count, until = (count + 1, until) if until > now else (1, now + WINDOW_S)
            self._failures[address] = count, until
        if count > self._max_failures:
            error = TooMany("too many wrong API keys from this address", fix=f"Try again in {until - now:.0f} s.")
            error.retry_after_s = max(1, int(until - now))
            raise error
