"""Objects by key, public or private: files of the workspace, or the server's object storage."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from ..base.errors import InvalidInput, NotFound, Unavailable
from ..base.files import write_atomic
from ..base.home import Home
from ..base.paths import resolve_within
from .backend import remote


class ObjectStore:
    """`bucket`: "public" or "private". On this machine both are folders; only a server makes a URL of a public object."""

    def __init__(self, bucket: str = "private"):
        if bucket not in ("public", "private"):
            raise InvalidInput("this is no object store", received=bucket, expected="'public' or 'private'")
        self.bucket, self._server = bucket, remote()

    def put(self, key: str, file_like: Any) -> str:
        """`file_like`: a file object, the path of a file, bytes, or a File of a photon. Returns the key."""
        data = _bytes_of(file_like)
        if self._server:
            answer = self._server.send("PUT", f"/object_storage/{self.bucket}_presigned/{quote(key)}")
            _transfer("PUT", self._server, answer, data)
        else:
            write_atomic(self._path(key), data)
        return key

    def get(self, key: str, return_url: bool = False) -> Any:
        """A temporary file with the object, at its beginning; or its URL. Raises NotFound."""
        if self._server:
            where = "public" if self.bucket == "public" else "private_presigned"
            answer = self._server.send("GET", f"/object_storage/{where}/{quote(key)}")
            if return_url:
                return answer.headers.get("location") or answer.json()["url"]
            data = _transfer("GET", self._server, answer)
        else:
            path = self._path(key)
            if not path.is_file():
                raise NotFound(f"there is no object {key!r} in the {self.bucket} store")
            if return_url:
                return path.as_uri()
            data = path.read_bytes()
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        file.write(data)
        file.seek(0)
        return file

    def delete(self, key: str) -> None:
        """Raises NotFound if it is not there."""
        if self._server:
            self._server.send("DELETE", f"/object_storage/{self.bucket}/{quote(key)}")
            return
        path = self._path(key)
        if not path.is_file():
            raise NotFound(f"there is no object {key!r} in the {self.bucket} store")
        path.unlink()

    def list_objects(self, prefix: str = "") -> list[dict[str, Any]]:
        """`{"key", "size", "last_modified"}` of each, by key."""
        if self._server:
            return self._server.get(f"/object_storage/{self.bucket}/", **({"prefix": prefix} if prefix else {}))[
                "items"
            ]
        root = self._root()
        files = (
            sorted(one for one in root.rglob("*") if one.is_file() and not one.name.startswith("."))
            if root.is_dir()
            else []
        )
        found = [
            {
                "key": str(one.relative_to(root)),
                "size": one.stat().st_size,
                "last_modified": int(one.stat().st_mtime * 1000),
            }
            for one in files
        ]
        return [one for one in found if one["key"].startswith(prefix)]

    def _root(self) -> Path:
        return Home.current().folder / "objects" / self.bucket

    def _path(self, key: str) -> Path:
        if (
            not key
            or key.endswith("/")
            or any(part in ("", ".", "..") or part.startswith(".") for part in key.split("/"))
        ):
            raise InvalidInput(
                "this cannot be the key of an object",
                received=key,
                expected="like 'images/cat.png', no part beginning with '.'",
            )
        return resolve_within(self._root(), *key.split("/"))


class PublicObjectStore(ObjectStore):
    def __init__(self) -> None:
        super().__init__("public")


class PrivateObjectStore(ObjectStore):
    def __init__(self) -> None:
        super().__init__("private")


def _transfer(method: str, server: Any, answer: Any, data: bytes | None = None) -> bytes:
    """What a presigned answer leads to; it carries its own right, so the key is not sent along."""
    import httpx

    if answer.status_code not in (301, 302, 307, 308):
        return answer.content
    url = httpx.URL(server.server).join(answer.headers["location"])
    try:
        found = httpx.request(method, url, content=data, timeout=300, follow_redirects=False)
        found.raise_for_status()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 404:
            raise NotFound("there is no such object") from None
        raise Unavailable(f"the object storage answered {error.response.status_code}") from None
    except httpx.HTTPError as error:
        raise Unavailable(f"the object storage does not answer ({type(error).__name__})") from error
    return found.content


def _bytes_of(source: IO | bytes | str | Any) -> bytes:
    if isinstance(source, bytes):
        return source
    if hasattr(source, "get_content"):
        return source.get_content()
    if hasattr(source, "read"):
        data = source.read()
        return data.encode() if isinstance(data, str) else data
    if not os.path.isfile(source):
        raise NotFound("there is no such file", received=str(source))
    return Path(source).read_bytes()
