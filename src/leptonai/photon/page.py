"""GET /: one self-contained page on which a person tries the model. Static: what it shows it reads from /openapi.json, as text.

The content security policy allows this page's one script, by its hash, and requests to this service; nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from .http import Answer


@cache
def page() -> Answer:
    html = (Path(__file__).parent / "page.html").read_bytes()
    script = html.partition(b"<script>")[2].partition(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data: blob:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Answer(html, content_type="text/html; charset=utf-8", headers={"content-security-policy": policy})
