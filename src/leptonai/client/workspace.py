"""A workspace of a Lepton server: the API's calls with its errors as Lepton's. Finds server and key by itself where it can."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from ..base.errors import (
    Conflict,
    InvalidInput,
    LeptonError,
    NotFound,
    Refused,
    TooMany,
    Unauthenticated,
    Unavailable,
    shorten,
)
from ..base.home import Home

if TYPE_CHECKING:
    import httpx

_BY_STATUS: dict[int, type[LeptonError]] = {
    400: InvalidInput, 401: Unauthenticated, 403: Refused, 404: NotFound, 409: Conflict, 429: TooMany, 503: Unavailable,
}  # fmt: skip
CONNECT_S = 3.0


class Workspace:
    """`url`: `http://host:port/api/v2/workspaces/NAME`. The connection is kept; one object may be used by several threads."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 120.0):
        self.url, self._key, self._timeout_s = url.rstrip("/"), key, timeout_s
        self._connections: httpx.Client | None = None

    @classmethod
    def current(cls, home: Home | None = None) -> Workspace:
        """`LEPTON_WORKSPACE_URL` and `LEPTON_WORKSPACE_TOKEN`, or else the `lep up` of this home with its admin's key.

        Raises Unavailable if there is neither."""
        url, key = os.environ.get("LEPTON_WORKSPACE_URL"), os.environ.get("LEPTON_WORKSPACE_TOKEN")
        if url and key:
            return cls(url, key)
        home = home or Home.current()
        try:
            server = json.loads((home.root / "cloud" / "server.json").read_bytes())["url"]
            key = key or (home.root / "admin.key").read_text().strip()
        except (FileNotFoundError, KeyError, ValueError):
            raise Unavailable(
                "no Lepton server is known",
                fix="Start one with `lep up`, or set LEPTON_WORKSPACE_URL and LEPTON_WORKSPACE_TOKEN.",
            ) from None
        return cls(url or f"{server}/api/v2/workspaces/{home.workspace}", key)

    @property
    def key(self) -> str:
        return self._key

    @property
    def server(self) -> str:
        return self.url.partition("/api/")[0]

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, query=query)

    def call(self, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None) -> Any:
        """`path` below the workspace, or of the server (`/api/…`). Raises what the server says, as a LeptonError."""
        answer = self.send(method, path, params=query or None, json=body)
        return answer.json() if answer.content else None

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer itself, for bodies that are not JSON; `request`: what httpx takes (files, content, params). Raises as `call`."""
        import httpx

        if self._connections is None:
            self._connections = httpx.Client(timeout=self._timeout_s)
        url = f"{self.server if path.startswith('/api/') else self.url}{path}"
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                answer = self._connections.request(
                    method, url, headers={"authorization": f"Bearer {self._key}"}, **request
                )
                break
            except httpx.ConnectError as error:
                # The server may be starting; nothing was sent.
                if time.monotonic() > deadline:
                    raise Unavailable(f"nobody answers at {self.server}", fix="Is `lep up` running there?") from error
                time.sleep(0.1)
            except httpx.HTTPError as error:
                raise Unavailable(f"the call to {self.server} failed ({type(error).__name__})") from error
        if answer.status_code >= 400:
            raise _error(answer)
        return answer


def _error(answer: httpx.Response) -> LeptonError:
    try:
        sentence = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        sentence = f"the server answered {answer.status_code}: {shorten(answer.text)}"
    return _BY_STATUS.get(answer.status_code, LeptonError)(sentence.rstrip("."))
