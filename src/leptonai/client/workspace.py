"""A workspace of a Lepton server: the API's calls with its errors as Lepton's. Finds server and key by itself where it can."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ..base.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    LeptonError,
    NotFound,
    Refused,
    TooMany,
    Unauthenticated,
    Unavailable,
    shorten,
)
from ..base.files import write_atomic
from ..base.home import Home
from ..base.paths import check_name

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
        """`LEPTON_WORKSPACE_URL` and `LEPTON_WORKSPACE_TOKEN`, or else what `lep login` chose, or else the `lep up` of this home with
        its admin's key. Raises Unavailable if there is none."""
        url, key = os.environ.get("LEPTON_WORKSPACE_URL"), os.environ.get("LEPTON_WORKSPACE_TOKEN")
        if url and key:
            return cls(url, key)
        home = home or Home.current()
        chosen = logins(home)
        if chosen.current and not url:
            login = chosen.workspaces[chosen.current]
            return cls(login.url, key or login.token)
        try:
            server = json.loads((home.root / "cloud" / "server.json").read_bytes())["url"]
            key = key or (home.root / "admin.key").read_text().strip()
        except (FileNotFoundError, KeyError, ValueError):
            raise Unavailable(
                "no Lepton server is known",
                fix="Start one with `lep up`, or log in: lep login -c WORKSPACE:TOKEN -u URL.",
            ) from None
        return cls(url or f"{server}/api/v2/workspaces/{home.workspace}", key)

    @classmethod
    def named(cls, name: str, home: Home | None = None) -> Workspace:
        """The workspace `name`: one that `lep login` knows, or one of the server that `current` finds. Raises as `current`."""
        home = home or Home.current()
        login = logins(home).workspaces.get(name)
        if login is not None:
            return cls(login.url, login.token)
        current = cls.current(home)
        return cls(f"{current.server}/api/v2/workspaces/{check_name(name, 'workspace')}", current.key)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

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


class Login(msgspec.Struct):
    url: str
    token: str


class Logins(msgspec.Struct):
    """What `lep login` keeps in `LEPTON_HOME/logins.json` (0600)."""

    current: str | None = None
    workspaces: dict[str, Login] = {}


def logins(home: Home) -> Logins:
    path = home.root / "logins.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Logins)
    except FileNotFoundError:
        return Logins()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Corrupt(f"{path} cannot be read", fix="Remove it and log in again.") from None
    return found if found.current in found.workspaces else Logins(None, found.workspaces)


def keep_logins(home: Home, kept: Logins) -> None:
    home.root.mkdir(parents=True, exist_ok=True)
    write_atomic(home.root / "logins.json", msgspec.json.encode(kept))  # made with mode 0600


def _error(answer: httpx.Response) -> LeptonError:
    try:
        sentence = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        sentence = f"the server answered {answer.status_code}: {shorten(answer.text)}"
    return _BY_STATUS.get(answer.status_code, LeptonError)(sentence.rstrip("."))
