"""The Python client of a served model. Imports nothing but `base`; contacts nobody until a method needs an answer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import Conflict, InvalidInput, LeptonError, NotFound, Refused, Unavailable, shorten

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 3.0
"""How long a service that does not listen (yet: it may be starting) is tried again."""
_BY_STATUS: dict[int, type[LeptonError]] = {400: InvalidInput, 401: Refused, 403: Refused, 404: NotFound, 409: Conflict}


class Client:
    """`Client("http://host:8080")` or `Client("your_api_key")`; the URL is then `LEPTON_URL`, or this machine's port 8080.

    Connections are kept and re-used; one client may be used by several threads. Only what the server has not begun is tried
    again (no connection, 429), until `timeout_s` has passed.
    """

    def __init__(
        self,
        url_or_key: str | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
    ):
        if url_or_key is not None and not isinstance(url_or_key, str):
            raise InvalidInput("a client needs a URL or a key", received=type(url_or_key).__name__, expected="a text")
        if url_or_key and url_or_key.partition("://")[0] in ("http", "https"):
            url = url or url_or_key
        elif url_or_key:
            token = token or url_or_key
        self.url = (url or os.environ.get("LEPTON_URL") or DEFAULT_URL).rstrip("/")
        self.token = token or os.environ.get("LEPTON_TOKEN") or None
        self.timeout_s = timeout_s
        self._connections: httpx.Client | None = None

    def predict(self, rows: Any) -> dict[str, Any]:
        """One row (a dict) gives `{"request_id", "model", "prediction"}`; a list of rows, or a DataFrame, gives `"predictions"`.

        Raises InvalidInput with the server's sentence for a row that the model cannot read, Unavailable if nobody answers.
        """
        if isinstance(rows, Mapping):
            return self._call("POST", "/predict", dict(rows))
        if hasattr(rows, "to_dict"):
            rows = rows.to_dict("records")
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
            raise InvalidInput(
                "these are no rows", received=type(rows).__name__, expected="a dict, a list of dicts or a DataFrame"
            )
        return self._call("POST", "/predict", {"rows": list(rows)})

    def feedback(
        self,
        request_id: str,
        label: Any = None,
        *,
        row: int = 0,
        correct: bool | None = None,
        rating: int | None = None,
        comment: str | None = None,
    ) -> dict[str, Any]:
        """Say what really happened for a prediction; returns when the server has it safely on disk."""
        given = {"label": label, "correct": correct, "rating": rating, "comment": comment}
        said = {key: value for key, value in given.items() if value is not None}
        return self._call("POST", "/feedback", {"request_id": request_id, "row": row, **said})

    def health(self) -> dict[str, Any]:
        return self._call("GET", "/healthz")

    def model(self) -> dict[str, Any]:
        """What is served: version, columns, classes, metrics, lineage."""
        return self._call("GET", "/model")

    def swap(self, ref: str) -> dict[str, Any]:
        """Serve another version; raises Conflict if clients could break on it (the old one stays)."""
        return self._call("PUT", "/model", {"ref": ref})

    def openapi(self) -> dict[str, Any]:
        return self._call("GET", "/openapi.json")

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"  # never the token

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        import httpx
        import msgspec

        content = None if body is None else _encode(body)
        started, pause_s = time.monotonic(), 0.1
        deadline, connected_by = started + self.timeout_s, started + min(self.timeout_s, CONNECT_S)
        while True:
            try:
                answer = self._open().request(method, path, content=content)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if time.monotonic() + pause_s > connected_by:
                    raise Unavailable(
                        f"no service answers at {self.url} ({error})",
                        fix="Start one with: lep serve MODEL; or give its url.",
                    ) from None
            except httpx.TimeoutException:
                raise Unavailable(f"{self.url} did not answer within {self.timeout_s:g} s") from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise Unavailable(f"the connection to {self.url} failed: {error or type(error).__name__}") from None
            else:
                if answer.status_code != 429 or time.monotonic() + pause_s > deadline:
                    break
                pause_s = max(pause_s, min(float(answer.headers.get("retry-after", 1)), deadline - time.monotonic()))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
        try:
            value = msgspec.json.decode(answer.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Unavailable(f"{self.url} is no Lepton service", received=shorten(answer.text)) from None
        if answer.is_success:
            return value
        raise _error(answer.status_code, value)

    def _open(self) -> httpx.Client:
        if self._connections is None:
            import httpx

            headers = {"content-type": "application/json"} | (
                {"authorization": f"Bearer {self.token}"} if self.token else {}
            )
            try:
                self._connections = httpx.Client(
                    base_url=self.url, headers=headers, timeout=self.timeout_s, trust_env=False
                )
            except (httpx.InvalidURL, ValueError) as error:
                raise InvalidInput(
                    "this is no URL of a service", received=self.url, expected="http://host:port"
                ) from error
        return self._connections


class Rejected(LeptonError):
    """An answer of the server that has no error class of its own; `status` is the server's."""

    def __init__(self, sentence: str, status: int):
        super().__init__(sentence)
        self.status = status


def _error(status: int, value: Any) -> LeptonError:
    sentence = value.get("error") if isinstance(value, dict) else None
    sentence = sentence if isinstance(sentence, str) else f"the server answered {status}"
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return _with_sentence(kind, sentence)
    return _with_sentence(Unavailable, sentence) if status in (429, 502, 503, 504) else Rejected(sentence, status)


def _with_sentence(kind: type[LeptonError], sentence: str) -> LeptonError:
    return kind(sentence.removesuffix("."))


def _encode(body: Any) -> bytes:
    """JSON; numpy scalars and arrays, timestamps and bytes (an image file, as base64) are taken as they come from a DataFrame."""
    import msgspec

    try:
        return msgspec.json.encode(body, enc_hook=_plain)
    except (TypeError, NotImplementedError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInput(
            "a row cannot be sent as JSON", received=str(error), expected="numbers, texts, lists, arrays"
        ) from None


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise NotImplementedError(type(value).__name__)
