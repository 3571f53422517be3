"""GET /docs, /redoc and /ledoc: one self-contained page that shows the routes and lets a person try them. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from .results import Plain


@cache
def page() -> Plain:
    html = (Path(__file__).parent / "docs.html").read_bytes()
    script = html.partition(b"<script>")[2].partition(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'"
    )
    headers = ((b"content-security-policy", policy.encode()), (b"x-content-type-options", b"nosniff"))
    return Plain(200, html, b"text/html; charset=utf-8", headers)
