"""`/kv` and `/queue`: what was answered is kept, and a message reaches one receiver."""

from concurrent.futures import ThreadPoolExecutor


def test_a_value_comes_back_as_it_was_put(server):
    assert server.call("POST", "/kv/namespaces/box").status_code == 201
    data = bytes(range(256))
    for key in ("a", "a/b", "ä"):
        put = server.call("POST", f"/kv/namespaces/box/values/{key}", files={"value": ("value", data)})
        assert put.status_code == 200, put.text
        assert server.call("GET", f"/kv/namespaces/box/values/{key}").content == data
    assert server.call("GET", "/kv/namespaces/box/keys?limit=2").json() == {"keys": ["a", "a/b"], "cursor": 2}
    assert server.call("GET", "/kv/namespaces/box/keys?limit=2&cursor=2").json() == {"keys": ["ä"], "cursor": None}
    assert server.call("GET", "/kv/namespaces/box/keys?prefix=a").json()["keys"] == ["a", "a/b"]
    assert server.call("DELETE", "/kv/namespaces/box/values/a").status_code == 200
    assert server.call("GET", "/kv/namespaces/box/values/a").status_code == 404
    too_large = server.call("POST", "/kv/namespaces/box/values/b", files={"value": ("value", b"x" * (256 * 1024 + 1))})
    assert too_large.status_code == 400


def test_a_namespace_is_its_workspaces_alone(server):
    assert server.call("POST", "/kv/namespaces/box").status_code == 201
    assert server.call("POST", "/kv/namespaces/box").status_code == 409
    assert [one["name"] for one in server.call("GET", "/kv/namespaces").json()] == ["box"]
    assert server.call("GET", "/kv/namespaces", key=server.foreign, workspace="other").json() == []
    assert server.call("GET", "/kv/namespaces/box", key=server.foreign, workspace="other").status_code == 404
    assert server.call("DELETE", "/kv/namespaces/box").status_code == 200
    assert server.call("GET", "/kv/namespaces/box/keys").status_code == 404
    assert server.call("POST", "/kv/namespaces/..%2Fx").status_code in (400, 404, 405)


def test_each_message_reaches_exactly_one_receiver_in_order(server):
    assert server.call("POST", "/queue", {"name": "work"}).status_code == 201
    sent = [f"message {number}" for number in range(40)]
    for message in sent:
        assert server.call("POST", "/queue/work/messages", {"message": message}).status_code == 201
    # A sender that got no answer sends again: it is there once.
    server.call("POST", "/queue/work/messages", {"message": sent[0]})
    assert server.call("GET", "/queue/work/length").json() == {"length": 40}
    assert server.call("GET", "/queue/work/messages").json() == [{"message": "message 0"}]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.call("GET", "/queue/work/messages").json(), range(60)))
    received = [one["message"] for answer in answers for one in answer]
    assert len(received) == 39 and sorted(received) == sorted(sent[1:])
    assert server.call("GET", "/queue/work/messages").json() == []


def test_a_viewer_cannot_take_a_message_away(server):
    server.call("POST", "/queue", {"name": "work"})
    assert server.call("GET", "/queue/work/messages", key=server.keys["viewer"]).status_code == 403
    assert server.call("GET", "/queue/work/length", key=server.keys["viewer"]).json() == {"length": 0}


def test_programs_on_this_machine_see_the_same_store(server, monkeypatch):
    from leptonai.state.kv import KV

    monkeypatch.setenv("LEPTON_HOME", str(server.home.root))
    monkeypatch.setenv("LEPTON_WORKSPACE", "mine")
    KV("box").put("k", b"v")
    assert server.call("GET", "/kv/namespaces/box/values/k").content == b"v"
