"""Serving: photons (framework/) and models (server.py). The names that users import are handed on when used."""

import importlib as _importlib

_TYPES = (
    "File", "FileParam", "FileResponse", "HTMLResponse", "HTTPException", "JPEGResponse", "JSONResponse", "PNGResponse", "PlainTextResponse",
    "RedirectResponse", "Response", "StaticFiles", "StreamingResponse", "WAVResponse", "get_file_content",
)  # fmt: skip
_NAMES = {
    "Photon": ".framework.photon",
    "check_photon_name": ".framework.photon",
    "handler": ".framework.handler",
    "ENV_VAR_REQUIRED": ".framework.environment",
    "HandlerStopped": ".framework.execution",
    "Worker": ".worker",
    "create": ".framework.models",
    "load": ".framework.package",
    **dict.fromkeys(_TYPES, ".types"),
}
__all__ = [*_NAMES]


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(_importlib.import_module(_NAMES[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
