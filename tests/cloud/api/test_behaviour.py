"""What the API promises beyond single routes: one effect per idempotency key, dry runs, versions, two generations, secrecy."""

import threading

import pytest

from leptonai.cloud.accounts.secrets import environment

SPEC = {
    "container": {"image": "host", "command": ["sleep", "9"]},
    "resource_requirement": {"resource_shape": "cpu.small", "min_replicas": 1},
}


def endpoint(server, name="web", **spec):
    answer = server.call("POST", "/deployments", {"metadata": {"id": name, "name": name}, "spec": {**SPEC, **spec}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_both_generations_show_the_same_endpoint(server):
    endpoint(
        server,
        api_tokens=[{"value": "t1"}],
        auto_scaler={"scale_down": {"no_traffic_timeout": 60}},
        ingress_timeout_seconds=400,
    )
    new = server.call("GET", "/endpoints/web").json()
    component = new["spec"]["components"][0]
    assert (component["image"], component["command"], component["min_replicas"]) == ("host", ["sleep", "9"], 1)
    assert component["ports"] == [{"container_port": 40000}] and new["spec"]["api_tokens"] == [{"value": "t1"}]
    component["min_replicas"] = 3
    patched = server.call("PATCH", "/endpoints/web", {"metadata": {}, "spec": {"components": [component]}})
    assert patched.status_code == 200, patched.text
    old = server.call("GET", "/deployments/web").json()
    assert old["spec"]["resource_requirement"]["min_replicas"] == 3
    assert (
        old["spec"]["auto_scaler"] == {"scale_down": {"no_traffic_timeout": 60}}
        and old["spec"]["ingress_timeout_seconds"] == 400
    )


def test_pods_are_in_deployments_and_devpods_but_not_in_endpoints(server):
    server.call(
        "POST",
        "/devpods",
        {"metadata": {"name": "pod1"}, "spec": {"container": {"image": "host"}, "resource_shape": "cpu.small"}},
    )
    assert [one["spec"]["is_pod"] for one in server.call("GET", "/deployments").json()] == [True]
    assert server.call("GET", "/endpoints").json() == [] and server.call("GET", "/endpoints/pod1").status_code == 404
    assert server.call("PATCH", "/devpods/pod1", {"spec": {"stopped": True}}).json()["spec"]["stopped"] is True
    assert server.call("GET", "/deployments/pod1").json()["spec"]["resource_requirement"]["min_replicas"] == 0


def test_a_dry_run_shows_what_would_be_and_changes_nothing(server):
    endpoint(server)
    change = {"spec": {"container": {"image": "host", "command": ["sleep", "10"]}}}
    would = server.call("PATCH", "/deployments/web?dryrun=true", change).json()
    assert would["metadata"]["semantic_version"] == "2.0"  # new replicas are needed: the client asks first
    assert server.call("GET", "/deployments/web").json()["metadata"]["semantic_version"] == "1.0"
    scaled = server.call("PATCH", "/deployments/web", {"spec": {"resource_requirement": {"min_replicas": 2}}}).json()
    assert scaled["metadata"]["semantic_version"] == "1.1"


def test_null_removes_and_a_stale_version_is_refused(server):
    made = endpoint(server, load_balance_config={"maglev": {}})
    changed = server.call(
        "PATCH", "/deployments/web", {"spec": {"load_balance_config": {"least_request": {}, "maglev": None}}}
    ).json()
    assert changed["spec"]["load_balance_config"] == {"least_request": {}}
    stale = server.call(
        "PATCH", "/deployments/web", {"metadata": {"version": made["metadata"]["version"]}, "spec": {"envs": []}}
    )
    assert stale.status_code == 409


@pytest.mark.parametrize(
    "field", ["role", "semantic_version", "restarted", "title", "workspace", "is_admin", "containr"]
)
def test_fields_that_are_not_the_callers_to_write_are_400(server, field):
    answer = server.call("POST", "/deployments", {"metadata": {"name": "web"}, "spec": {**SPEC, field: 1}})
    assert answer.status_code == 400 and field in answer.json()["message"]
    assert server.call("GET", "/deployments").json() == []


def test_a_call_that_is_repeated_has_one_effect_and_one_answer(server):
    body = {"metadata": {"id": "job1"}, "spec": {"container": {"image": "host", "command": ["true"]}}}
    answers = []
    calls = [
        threading.Thread(
            target=lambda: answers.append(server.call("POST", "/jobs", body, headers={"idempotency-key": "k"}))
        )
        for _ in range(10)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert {answer.status_code for answer in answers} == {201} and len({answer.content for answer in answers}) == 1
    assert len(server.call("GET", "/jobs").json()["jobs"]) == 1
    other = {**body, "metadata": {"id": "job2"}}
    assert server.call("POST", "/jobs", other, headers={"idempotency-key": "k"}).status_code == 409


def test_pages_of_jobs_end(server):
    for number in range(5):
        server.call("POST", "/jobs", {"metadata": {"id": f"j{number}"}, "spec": {"container": {"command": ["true"]}}})
    pages = [server.call("GET", f"/jobs?page={page}&page_size=2").json()["jobs"] for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert len({job["metadata"]["id"] for page in pages for job in page}) == 5
    assert server.call("GET", "/jobs?page=0").status_code == 400


def test_values_of_secrets_and_tokens_are_nowhere_in_the_clear(server):
    canary = "canary-5f1d"
    server.call("POST", "/usersecrets", [{"name": "S1", "value": f"{canary}-secret"}])
    endpoint(
        server,
        api_tokens=[{"value": f"{canary}-token"}],
        envs=[{"name": "S1", "value_from": {"secret_name_ref": "S1"}}],
    )
    server.call("POST", "/keys", {"label": "x"}, headers={"idempotency-key": "once"})
    for path in ("/usersecrets", "/audit", "/workspace", "/keys", "/deployments/web/events"):
        assert canary not in server.call("GET", path).text, path
    assert f"{canary}-token" in server.call("GET", "/deployments/web").text
    assert canary not in server.call("GET", "/deployments/web", key=server.keys["viewer"]).text
    with server.store.connection() as connection:
        connection.exec_driver_sql("SELECT 1")
    for file in (server.home.root / "cloud").glob("plane.db*"):
        data = file.read_bytes()
        assert canary.encode() not in data and server.admin.encode() not in data
    with server.store.reading() as tx:
        web = tx.get("endpoint", "mine", "web")
        assert environment(tx, server.plane.vault, web) == {"S1": f"{canary}-secret"}


def test_a_private_secret_is_of_no_use_to_others(server):
    server.call("POST", "/usersecrets", [{"name": "S1", "value": "v"}])
    body = {
        "metadata": {"name": "web"},
        "spec": {**SPEC, "envs": [{"name": "A", "value_from": {"secret_name_ref": "S1"}}]},
    }
    assert server.call("POST", "/deployments", body, key=server.keys["developer"]).status_code == 403
    assert server.call("GET", "/usersecrets", key=server.keys["developer"]).json() == []
    assert server.call("DELETE", "/usersecrets/S1", key=server.keys["developer"]).status_code == 404


def test_an_endpoint_is_never_open_by_omission(server):
    assert endpoint(server)["spec"]["api_tokens"][0]["value"]
    open_one = endpoint(server, "open", allow_unauthenticated_access=True)
    assert "api_tokens" not in open_one["spec"]


def test_keys_are_never_wider_nor_longer_than_their_maker(server):
    narrow = server.call("POST", "/keys", {"scopes": ["jobs.*", "keys.write"]}).json()["key"]
    assert server.call("POST", "/keys", {"scopes": ["*"]}, key=narrow).status_code == 403
    assert server.call("POST", "/keys", {"scopes": ["jobs.read"]}, key=narrow).status_code == 201
    assert server.call("GET", "/usersecrets", key=narrow).status_code == 403
    assert server.call("POST", "/keys", {"member": "ann"}, key=server.keys["developer"]).status_code == 403
    prefix = narrow.split("_")[1]
    assert server.call("DELETE", f"/keys/{prefix}").status_code == 200
    assert server.call("GET", "/jobs", key=narrow).status_code == 401


def test_the_last_admin_stays_and_a_removed_member_is_out_at_once(server):
    assert server.call("DELETE", "/members/ann").status_code == 409
    assert server.call("PATCH", "/members/ann", {"role": "viewer"}).status_code == 409
    assert server.call("DELETE", "/members/developer").status_code == 200
    assert server.call("GET", "/workspace", key=server.keys["developer"]).status_code == 401


@pytest.mark.parametrize(
    "path", ["../x", "..%2fx", "a/../../x", "%2e%2e/x", "a\\..\\x", "..%00", "/etc/passwd/../../../x", "a/%2e%2e/%2e%2e/b"]
)  # fmt: skip
def test_no_path_leads_out_of_the_storage(server, path):
    (server.home.root / "x").write_text("not yours")
    for method in ("GET", "DELETE", "PUT"):
        answer = server.call(method, f"/storage/default/{path}?removeall=true")
        assert answer.status_code < 500 and "not yours" not in answer.text, (method, path, answer.text)
    # What the client had already normalised is a plain name inside; nothing beside the workspace's files was touched.
    assert (server.home.root / "x").read_text() == "not yours"
    assert {one.name for one in server.home.root.iterdir()} <= {"x", "cloud", "workspaces"}


def test_files_go_up_come_down_move_and_links_out_are_refused(server):
    assert server.call("PUT", "/storage/default/a").status_code == 201
    up = server.call("POST", "/storage/default/a/f.txt", files={"file": ("f.txt", b"hello")})
    assert up.status_code == 201, up.text
    assert server.call("GET", "/storage/default/a/f.txt").content == b"hello"
    assert server.call("GET", "/storage/default/a").json() == [{"type": "file", "name": "f.txt", "path": "a/f.txt"}]
    assert server.call("PATCH", "/storage/default/a/f.txt", {"to": "g.txt"}).status_code == 200
    assert server.call("HEAD", "/storage/default/g.txt").status_code == 200
    assert server.call("GET", "/storage/du").json()["status"]["total_usage_bytes"] > 0
    (server.plane.storage("mine") / "link").symlink_to("/etc")
    assert server.call("GET", "/storage/default/link/passwd").status_code == 403
    assert server.call("DELETE", "/storage/default/?removeall=true").status_code == 400


def test_wrong_keys_are_slowed_and_the_right_one_is_let_in(server):
    server.plane.access._max_failures = 10
    statuses = [server.call("GET", "/workspace", key=f"wrong{number}").status_code for number in range(15)]
    assert statuses == [401] * 10 + [429] * 5
    assert server.call("GET", "/workspace").status_code == 200
