"""The router, walked: every route × method × credential. A route without an action, or a new open path, fails here."""

import itertools
import re

import pytest

from leptonai.cloud.accounts.roles import NOUNS, ROLES, VERBS, allows
from leptonai.cloud.api.app import OPEN
from leptonai.cloud.api.routes import ROUTES

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "FOO")
BAD = ["nonsense", "lep_000000000000_" + "A" * 43, "lep_" + "é" * 5, "' OR 1=1 --", "x" * 500]


def real_path(route, workspace="mine"):
    path = re.sub(r"\{namespace\}", "public", route.path)
    path = re.sub(r"\{group\}", "local", path)
    path = re.sub(r"\{[a-z]+\*?\}", "nothing", path)
    return path if route.root else f"/api/v2/workspaces/{workspace}{path}"


PATHS = sorted({real_path(route) for route in ROUTES})


def test_every_route_names_an_action_and_the_list_of_open_paths_is_short():
    # `+ 1`: the signed URLs of objects, which carry their own credential.
    assert len(OPEN) + 1 <= 6 and len(ROUTES) > 100
    for route in ROUTES:
        noun, _, verb = route.action.partition(".")
        assert noun in NOUNS and verb in VERBS, route
        # Whoever may only read must not reach a route that changes something.
        assert verb != "read" or not route.changes, route


def test_without_a_valid_credential_everything_is_401(shared):
    asked = 0
    for path, method in itertools.product(PATHS, METHODS):
        for key in (None, BAD[0], BAD[1], shared.expired):
            answer = shared.call(method, path, key=key)
            assert answer.status_code == 401, (method, path, key, answer.text)
            assert "resource" not in answer.text
            asked += 1
    print(f"{asked} requests without a valid credential: all 401")
    assert asked == len(PATHS) * len(METHODS) * 4


def test_a_foreign_key_gets_the_404_of_a_workspace_that_does_not_exist(shared):
    asked = 0
    for path, method in itertools.product(PATHS, METHODS):
        if "/workspaces/mine" not in path:
            continue
        there = shared.call(method, path, key=shared.foreign)
        absent = shared.call(method, path.replace("/mine", "/none"), key=shared.foreign)
        assert there.status_code == absent.status_code == 404, (method, path, there.text)
        assert len(there.content) == len(absent.content)
        asked += 2
    print(f"{asked} requests with a foreign key: all 404, and alike")


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_reaches_what_it_may_and_gets_403_for_the_rest(shared, role):
    refused = 0
    for route in ROUTES:
        if route.root or allows(role, ("*",), route.action):
            continue
        answer = shared.call(route.method, real_path(route), key=shared.keys[role])
        assert answer.status_code == 403, (role, route.method, route.path, answer.text)
        refused += 1
    print(f"{role}: {refused} of {len(ROUTES)} routes refused")
    assert (refused == 0) == (role == "admin")


def test_no_route_answers_nonsense_with_a_500(shared):
    """Each route with an empty body, a wrong one, and text where objects belong."""
    for route in ROUTES:
        if route.path in ("/workspace", "/members/{name}") and route.method != "GET":
            continue
        for body in (
            b"",
            b"[]",
            b'"text"',
            b'{"spec": 5}',
            b'{"metadata": {"name": 7}, "spec": {"a": [null]}}',
            b"{",
            b"\xff",
            b"[" * 5000,
        ):
            key = shared.operator if route.root else shared.admin
            answer = shared.call(
                route.method, real_path(route), key=key, content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code < 500, (route.method, route.path, body, answer.text)
            if answer.status_code >= 400 and route.method != "HEAD":
                assert {"code", "message"} <= set(answer.json())


@pytest.mark.parametrize(
    "spelling",
    [
        "//api/v2/workspaces/mine/keys", "/api//v2/workspaces/mine/keys", "/api/../api/v2/workspaces/mine/keys", "/API/v2/workspaces/mine/keys",
        "/api/v2/workspaces/mine/keys/", "/api/v2/workspaces/mine/keys/.", "/api/v2/workspaces/mine/%6beys", "/api/v2/workspaces/mine/%2e/keys",
        "/api/v2/workspaces/mine//keys", "/api/v2/workspaces/./mine/keys", "/api/v2/workspaces/mine/healthz", "/healthz/../api/v2/workspaces/mine/keys",
        "/healthz/", "/metrics/x", "/", "/api", "/api/v2", "/docs", "/openapi.json",
    ],
)  # fmt: skip
def test_another_spelling_of_a_path_is_no_way_round(shared, spelling):
    assert shared.call("GET", spelling, key=None).status_code == 401


def test_a_browser_of_another_site_is_refused(shared):
    for headers in (
        {"host": "evil.test"},
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
    ):
        answer = shared.call("POST", "/usersecrets", headers=headers, content=b"[]")
        assert answer.status_code in (403, 415, 421), headers
    assert shared.call("GET", "/usersecrets", headers={"origin": "http://127.0.0.1"}).status_code == 200


def test_a_doubled_authorization_header_is_400(shared):
    async def send():
        key = f"Bearer {shared.admin}"
        headers = [("authorization", key), ("authorization", key)]
        return await shared.client.get("/api/v2/workspaces/mine/keys", headers=headers)

    assert shared.portal.call(send).status_code == 400


@pytest.mark.parametrize("bad", BAD[3:])
def test_other_schemes_and_injections_are_401(shared, bad):
    assert shared.call("GET", "/keys", key=bad).status_code == 401
    assert shared.call("GET", "/keys", key=None, headers={"authorization": f"Basic {shared.admin}"}).status_code == 401
