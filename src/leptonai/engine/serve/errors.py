"""Errors in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, with the status that its clients act on."""

from __future__ import annotations

from ...base.errors import LeptonError, NotFound, TooMany, Unauthenticated

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(LeptonError):
    """`param`: the field that is wrong; `code`: OpenAI's word for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_s = status, param, code, retry_after_s

    def __str__(self) -> str:
        return self.what


def as_api_error(error: LeptonError) -> ApiError:
    """An error of the engine or the tokenizer, as the client is told."""
    if isinstance(error, ApiError):
        return error
    text, param, code = str(error), None, None
    if isinstance(error, TooMany):
        return ApiError(429, text, code="rate_limit_exceeded", retry_after_s=error.retry_after_s)
    if isinstance(error, Unauthenticated):
        code = "invalid_api_key"
    elif isinstance(error, NotFound):
        code = "model_not_found"
    elif error.status >= 500:
        code = "engine_unavailable" if error.status == 503 else "internal_error"
    return ApiError(error.status, text, param=param, code=code, retry_after_s=1 if error.status == 503 else None)


def error_body(error: ApiError) -> dict:
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
