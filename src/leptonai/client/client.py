"""The Python client of a service: a served model, or a photon by its routes. Contacts nobody until a method needs an answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import Conflict, InvalidInput, LeptonError, NotFound, Refused, Unavailable, shorten

if TYPE_CHECKING:
    import httpx

    from .endpoints import Tree

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 3.0
"""How long a service that does not listen (yet: it may be starting) is tried again."""
_BY_STATUS: dict[int, type[LeptonError]] = {
    400: InvalidInput,
    401: Refused,
    403: Refused,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
}


class Client:
    """`Client("http://host:8080")`, `Client(workspace, deployment)`, or `Client("your_api_key")` with `LEPTON_URL` or this machine's port 8080.

    A photon's routes are methods, from its OpenAPI document: `client.run(x=1)`, `client.a.b()`, `dir(client)`. `stream`: answers come as
    an iterator of bytes. Connections are kept and re-used; one client may be used by several threads. Only what the server has not
    begun is tried again (no connection, 429), until `timeout_s` has passed. `no_check`: nothing is asked before the first call;
    it is accepted for programs that say it, since nothing ever is.
    """

    def __init__(
        self,
        url_or_key: str | Client | None = None,
        deployment: str | None = None,
        token: str | None = None,
        stream: bool = False,
        chunk_size: int | None = None,
        no_check: bool = False,
        http2: bool = False,
        *,
        url: str | None = None,
        timeout_s: float | None = None,
        timeout: float | None = None,
    ):
        if isinstance(url_or_key, Client):
            token, url_or_key = token or url_or_key.token, url_or_key.url
        if url_or_key is not None and not isinstance(url_or_key, str):
            raise InvalidInput("a client needs a URL or a key", received=type(url_or_key).__name__, expected="a text")
        if url_or_key and deployment:
            url, token = _deployment(url_or_key, deployment, token)
        elif url_or_key and url_or_key.partition("://")[0] in ("http", "https"):
            url = url or url_or_key
        elif url_or_key:
            token = token or url_or_key
        self.url = (url or os.environ.get("LEPTON_URL") or DEFAULT_URL).rstrip("/")
        self.token = token or os.environ.get("LEPTON_TOKEN") or None
        self.timeout_s = next((one for one in (timeout_s, timeout) if one is not None), 60.0)
        self.stream, self.chunk_size, self.http2 = stream, chunk_size, http2
        self._connections: httpx.Client | None = None
        self._tree: Tree | None = None
        self._document: Document | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._routes(), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._routes())})

    def _routes(self) -> Tree:
        if self._tree is None:
            from .endpoints import tree_of

            self._tree = tree_of(self.openapi, self._send_route)
        return self._tree

    def paths(self) -> list[str]:
        """The service's paths, as in its OpenAPI document."""
        return list(self.openapi.get("paths", {}))

    def healthz(self) -> bool:
        """Whether the service says it is well (`/healthz`, else `/health`)."""
        for path in ("/healthz", "/health"):
            try:
                self._send("GET", path)
                return True
            except LeptonError:
                continue
        return False

    def get(self, path: str, **query: Any) -> Any:
        return self._send_route("GET", _slashed(path), params=query)

    def post(self, path: str, **arguments: Any) -> Any:
        return self._send_route("POST", _slashed(path), body=arguments)

    def put(self, path: str, **arguments: Any) -> Any:
        return self._send_route("PUT", _slashed(path), body=arguments)

    def delete(self, path: str, **query: Any) -> Any:
        return self._send_route("DELETE", _slashed(path), params=query)

    def predict(self, rows: Any = None, **arguments: Any) -> Any:
        """Arguments by name are those of a photon that has a route /predict. Of a served model: one row (a dict) gives `{"request_id", "model", "prediction"}`; a list of rows, or a DataFrame, gives `"predictions"`.

        Raises InvalidInput with the server's sentence for a row that the model cannot read, Unavailable if nobody answers.
        """
        if arguments or rows is None:
            return self._routes().predict(**arguments, **({} if rows is None else {"rows": rows}))
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

    @property
    def openapi(self) -> Document:
        """The service's OpenAPI document, asked for once; `openapi()` asks anew."""
        if self._document is None:
            self._document = Document(self._call("GET", "/openapi.json"), self)
        return self._document

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
        """The JSON answer of a route of Lepton's own."""
        import msgspec

        answer = self._send(method, path, None if body is None else _encode(body))
        try:
            return msgspec.json.decode(answer.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Unavailable(f"{self.url} is no Lepton service", received=shorten(answer.text)) from None

    def _send_route(
        self, method: str, path: str, *, params: dict[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> Any:
        """What a route answers: JSON as its value, text as str, anything else as bytes; an iterator of bytes with `stream`."""
        from .endpoints import sendable

        content = None if body is None else _encode({key: sendable(value) for key, value in body.items()})
        answer = self._send(method, path, content, params or None, stream=self.stream)
        if self.stream:
            return _parts(answer, self.chunk_size)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if answer.status_code == 204 or (not answer.content and kind != "text/plain"):
            return None
        if kind == "application/json" or kind.endswith("+json"):
            return answer.json()
        return answer.text if kind.startswith("text/") else answer.content

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        params: dict[str, Any] | None = None,
        *,
        stream: bool = False,
    ) -> httpx.Response:
        import httpx

        started, pause_s = time.monotonic(), 0.1
        deadline, connected_by = started + self.timeout_s, started + min(self.timeout_s, CONNECT_S)
        while True:
            try:
                connections = self._open()
                answer = connections.send(
                    connections.build_request(method, path, content=content, params=params), stream=stream
                )
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
                answer.close()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
        if answer.is_success:
            return answer
        answer.read()
        raise _refusal(self.url, answer)

    def _open(self) -> httpx.Client:
        if self._connections is None:
            import httpx

            headers = {"content-type": "application/json"} | (
                {"authorization": f"Bearer {self.token}"} if self.token else {}
            )
            try:
                self._connections = httpx.Client(
                    base_url=self.url, headers=headers, timeout=self.timeout_s, trust_env=False, http2=self.http2
                )
            except (httpx.InvalidURL, ValueError) as error:
                raise InvalidInput(
                    "this is no URL of a service", received=self.url, expected="http://host:port"
                ) from error
        return self._connections


class Document(dict):
    """An OpenAPI document. Called, it is asked for anew."""

    def __init__(self, value: dict[str, Any], client: Client):
        super().__init__(value)
        self._client = client

    def __call__(self) -> dict[str, Any]:
        self._client._document = self._client._tree = None
        return dict(self._client.openapi)


def local(port: int = 8080) -> str:
    """The URL of a service on this machine: `Client(local(port=8080))`."""
    return f"http://127.0.0.1:{port}"


def current() -> Client:
    """A client of the deployment that this program runs in. Raises Unavailable outside of one."""
    name = os.environ.get("LEPTON_DEPLOYMENT_NAME")
    if not name:
        raise Unavailable(
            "this program does not run in a deployment", fix="Give the service's URL: Client('http://…')."
        )
    return Client(os.environ.get("LEPTON_WORKSPACE_ID") or os.environ.get("LEPTON_WORKSPACE") or "default", name)


def _deployment(workspace: str, name: str, token: str | None) -> tuple[str, str | None]:
    """Where the workspace's server says that the deployment answers, and the key to call it with."""
    from ..base.paths import check_name
    from .workspace import Workspace

    found = Workspace.named(workspace)
    status = found.get(f"/deployments/{check_name(name, 'deployment')}").get("status", {})
    url = (status.get("endpoint") or {}).get("external_endpoint")
    if not url:
        raise Unavailable(f"deployment {name!r} has no address yet ({status.get('state', 'unknown')})")
    return url, token or os.environ.get("LEPTON_WORKSPACE_TOKEN") or found.key


def _slashed(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _parts(answer: httpx.Response, size: int | None) -> Iterator[bytes]:
    try:
        yield from answer.iter_bytes(size)
    finally:
        answer.close()


class Rejected(LeptonError):
    """An answer of the server that has no error class of its own; `status` is the server's."""

    def __init__(self, sentence: str, status: int):
        super().__init__(sentence)
        self.status = status


def _refusal(url: str, answer: httpx.Response) -> LeptonError:
    """The server's sentence as the error it means. A photon says `detail`: a text, or what is wrong with which argument."""
    try:
        value = answer.json()
    except ValueError:
        return Unavailable(f"{url} is no Lepton service", received=shorten(answer.text))
    status, sentence = answer.status_code, None
    if isinstance(value, dict):
        sentence = value.get("error") or value.get("message") or value.get("detail")
    if isinstance(sentence, list):
        sentence = "; ".join(f"{'.'.join(map(str, one.get('loc', [])))}: {one.get('msg')}" for one in sentence)
    sentence = sentence if isinstance(sentence, str) else f"the server answered {status}"
    if status == 307:
        return NotFound(sentence.removesuffix("."))
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
