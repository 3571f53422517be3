"""`/object_storage`: bytes through signed URLs, each for one method, one object, a quarter of an hour (S27)."""

import time

import pytest

from leptonai.cloud.api import objects

HOSTILE = ["../x", "a/../../x", "/etc/passwd", "a//b", ".hidden", "a/.b", "x" * 300, "a/%2e%2e/b"]


def signed(server, method, path, **options):
    answer = server.call(method, path, **options)
    assert answer.status_code == 307, answer.text
    assert answer.headers["location"] == answer.json()["url"]
    return answer.json()["url"].partition("127.0.0.1")[2]


def test_an_object_goes_there_and_back(server):
    url = signed(server, "PUT", "/object_storage/private_presigned/images/cat.png")
    assert server.call("PUT", url, key=None, content=b"\x00cat").status_code == 200
    url = signed(server, "GET", "/object_storage/private_presigned/images/cat.png")
    assert server.call("GET", url, key=None).content == b"\x00cat"
    (item,) = server.call("GET", "/object_storage/private/?prefix=im").json()["items"]
    assert (item["key"], item["size"]) == ("images/cat.png", 4)
    assert server.call("GET", "/object_storage/public/").json()["items"] == []
    assert server.call("GET", "/object_storage/private/", key=server.foreign, workspace="other").json()["items"] == []
    assert server.call("DELETE", "/object_storage/private/images/cat.png").status_code == 200
    assert server.call("GET", "/object_storage/private_presigned/images/cat.png").status_code == 404
    assert server.call("GET", url, key=None).status_code == 404


def test_s27_a_signed_url_is_for_one_method_and_a_short_time(server, monkeypatch):
    url = signed(server, "PUT", "/object_storage/private_presigned/a")
    refused = 0
    for method in ("GET", "DELETE", "POST", "PATCH", "OPTIONS"):
        refused += server.call(method, url, key=None).status_code == 401
    head = len(objects.SIGNED)
    for place in range(head, len(url), 7):  # every changed letter breaks the seal
        wrong = url[:place] + ("A" if url[place] != "A" else "B") + url[place + 1 :]
        refused += server.call("PUT", wrong, key=None, content=b"x").status_code == 401
    for token in ("", "x", "A" * 400, "é", "%00"):
        refused += server.call("PUT", f"{objects.SIGNED}{token}", key=None, content=b"x").status_code == 401
    assert refused == 5 + len(range(head, len(url), 7)) + 5
    later = time.time() + objects.LIFE_S + 1
    monkeypatch.setattr(objects.time, "time", lambda: later)
    assert server.call("PUT", url, key=None, content=b"x").status_code == 401
    assert objects.LIFE_S <= 900


@pytest.mark.parametrize("key", HOSTILE)
def test_s21_a_key_stays_in_its_store(server, key):
    from urllib.parse import quote

    for method in ("PUT", "GET", "DELETE"):
        answer = server.call(method, f"/object_storage/private/{quote(key, safe='/%')}")
        assert answer.status_code in (400, 403, 404), (method, key, answer.text)
    assert not list(server.home.root.rglob("x")) and not list(server.home.root.rglob("passwd"))
