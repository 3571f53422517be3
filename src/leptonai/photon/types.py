"""Values that photons take and give: files that come as text in JSON, and responses with a media type."""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
from typing import IO, Any

from starlette.exceptions import HTTPException
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.staticfiles import StaticFiles

from ..base.errors import InvalidInput

__all__ = [
    "File", "FileParam", "FileResponse", "HTMLResponse", "HTTPException", "JPEGResponse", "JSONResponse", "PNGResponse", "PlainTextResponse",
    "RedirectResponse", "Response", "StaticFiles", "StreamingResponse", "WAVResponse", "get_file_content",
]  # fmt: skip

ENCODED = "encoded:"
_DATA = "data:"


class File:
    """A file in a request or a result. Made from bytes, a file object, `encoded:BASE64`, a `data:` URL or an http(s) URL.

    A URL is fetched when the content is first asked for, from public addresses only (base/fetch.py).
    """

    def __init__(self, content: Any):
        if isinstance(content, File):
            content = content._content
        if isinstance(content, dict) and set(content) <= {"content", "url"} and content:
            content = next(iter(content.values()))
        if isinstance(content, str):
            content = _from_text(content)
        elif isinstance(content, bytearray | memoryview):
            content = bytes(content)
        elif not isinstance(content, bytes) and not hasattr(content, "read"):
            raise ValueError(
                f"a file cannot be made of a {type(content).__name__}: expected bytes, a file object or a text"
            )
        self._content: bytes | str | IO = content

    def get_content(self) -> bytes:
        if isinstance(self._content, str):
            from ..base.fetch import fetch

            self._content = fetch(self._content)
        elif not isinstance(self._content, bytes):
            self._content = _bytes_of(self._content.read())
        return self._content

    def get_bytesio(self) -> io.BytesIO:
        return io.BytesIO(self.get_content())

    def get_temp_file(self, delete: bool = True, suffix: str | None = None) -> Any:
        """A named temporary file with the content, at its beginning; `delete`: it goes when it is closed."""
        file = tempfile.NamedTemporaryFile(delete=delete, suffix=suffix)  # noqa: SIM115
        file.write(self.get_content())
        file.flush()
        file.seek(0)
        return file

    @property
    def file(self) -> io.BytesIO:
        return self.get_bytesio()

    @staticmethod
    def encode(content: Any) -> str:
        """Bytes, a file object or a File as the text that JSON carries."""
        data = content.get_content() if isinstance(content, File) else content
        data = data.read() if hasattr(data, "read") else data
        return ENCODED + base64.b64encode(_bytes_of(data)).decode()

    def model_dump(self, mode: str = "json") -> str:
        return self._content if isinstance(self._content, str) else self.encode(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "file", "description": "encoded:BASE64, a data: URL, or an http(s) URL"}


class FileParam(File):
    """The older name; `.file` is a file object."""


def _from_text(text: str) -> bytes | str:
    if text.startswith(("http://", "https://")):
        return text
    if text.startswith(ENCODED):
        payload = text[len(ENCODED) :]
    elif text.startswith(_DATA) and ";base64," in text[:256]:
        payload = text.partition(";base64,")[2]
    else:
        raise ValueError("a file is sent as 'encoded:BASE64', 'data:…;base64,…' or an http(s) URL")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the file is not valid base64") from None


def _bytes_of(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


def get_file_content(src: Any, return_file: bool = False) -> Any:
    """The bytes of whatever `src` is: File, URL, encoded text, bytes, file object, or the path of a file of yours."""
    if isinstance(src, str) and not src.startswith(("http://", "https://", ENCODED, _DATA)):
        try:
            with open(src, "rb") as file:
                content = file.read()
        except OSError as error:
            raise InvalidInput("this file cannot be read", received=src) from error
    else:
        content = File(src).get_content()
    return io.BytesIO(content) if return_file else content


class PNGResponse(StreamingResponse):
    media_type = "image/png"


class JPEGResponse(StreamingResponse):
    media_type = "image/jpeg"


class WAVResponse(StreamingResponse):
    media_type = "audio/wav"
