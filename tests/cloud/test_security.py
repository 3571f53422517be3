"""Rows of `security.md` that hold for the cloud as a whole: by reading its source, and by hostile values on a real API."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

import leptonai

ROOT = Path(leptonai.__file__).parent
CLOUD = sorted((ROOT / "cloud").rglob("*.py"))
DENIED = {
    ("pickle", "load"), ("pickle", "loads"), ("cloudpickle", "load"), ("cloudpickle", "loads"), ("dill", "load"), ("dill", "loads"),
    ("joblib", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("marshal", "loads"), ("os", "system"), ("os", "popen"),
}  # fmt: skip


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node


def name_of(call):
    found = call.func
    if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name):
        return found.value.id, found.attr
    return "", found.id if isinstance(found, ast.Name) else ""


def test_s9_s20_s35_no_pickle_no_unsafe_yaml_no_shell_in_the_cloud():
    assert len(CLOUD) > 50
    found = [
        f"{path.name}:{call.lineno}"
        for path in CLOUD
        for call in calls(path)
        if name_of(call) in DENIED
        or name_of(call)[1] in ("eval", "exec")
        or any(
            key.arg == "shell" and not (isinstance(key.value, ast.Constant) and key.value.value is False)
            for key in call.keywords
        )
    ]
    assert not found


def test_s28_s30_the_plane_fetches_no_url_that_a_user_gives():
    """Clients are in three places: the gateway's links and the probes, whose addresses the plane made, and the check of its own URL."""
    fetchers = {"httpx", "requests", "aiohttp", "urllib.request", "http.client", "urllib3"}
    found = set()
    for path in CLOUD:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if fetchers & set(names):
                found.add(path.relative_to(ROOT / "cloud").as_posix())
    assert found <= {"control/probes.py", "instance.py"}, found


PAYLOADS = [
    "' OR '1'='1", "'; DROP TABLE resources;--", '" OR ""="', "1 UNION SELECT sha256 FROM keys", "%' AND 1=1--", "\\'; --", "a' || 'b",
    "{{7*7}}", "${7*7}", "$(touch x)", "`touch x`", "a;touch x", "a\nb", "=cmd()", "<script>1</script>",
]  # fmt: skip
"""S31, S33, S34, S36, S37: SQL, templates, shells, lines, formulas, pages."""


def test_s31_hostile_text_is_text_wherever_it_is_sent(tmp_path):
    from .api.conftest import Server

    server = Server(tmp_path)
    try:
        asked = 0
        for text in PAYLOADS:
            for parameter in ("q", "status", "created_by", "query", "page", "job_query_mode"):
                for path in ("/jobs", "/deployments"):
                    answer = server.call("GET", path, params={parameter: text})
                    assert answer.status_code in (200, 400), (path, parameter, text, answer.text)
                    asked += 1
            for method, path, body in (
                ("POST", "/deployments", {"metadata": {"name": text}, "spec": {}}),
                ("POST", "/usersecrets", [{"name": text, "value": "v"}]),
                ("POST", "/members", {"name": text, "role": "viewer"}),
                ("POST", "/ingress", {"metadata": {}, "spec": {"domain_name": text}}),
                ("POST", "/queue", {"name": text}),
            ):
                answer = server.call(method, path, body)
                assert answer.status_code == 400, (path, text, answer.text)
                asked += 1
        assert server.call("GET", "/jobs", params={"q": "' OR '1'='1"}).json() == {"jobs": []}
        assert server.call("GET", "/members").status_code == 200
        print(f"{asked} requests with {len(PAYLOADS)} hostile texts: none was more than text")
        assert asked == len(PAYLOADS) * 17 and not list(tmp_path.rglob("x"))
    finally:
        server.close()
