"""Quotas of a workspace: refused when something is made that goes beyond them, in the client's own form of an error."""

import pytest

from leptonai.cloud.compute.driver import Resources


def endpoint(name: str, least=1, most=None, shape="cpu.small") -> dict:
    requirement = {"resource_shape": shape, "min_replicas": least, "max_replicas": most or least}
    container = {"image": "host", "command": ["serve"]}
    return {"metadata": {"name": name}, "spec": {"container": container, "resource_requirement": requirement}}


def job(name: str, workers=1, shape="cpu.small") -> dict:
    spec = {"container": {"image": "host", "command": ["true"]}, "resource_shape": shape}
    return {"metadata": {"name": name}, "spec": spec | {"completions": workers, "parallelism": workers}}


@pytest.fixture
def limited(server):
    """`limited(cpu=…)` sets the quota; returns the server."""

    def limit(**quota):
        answer = server.call("PATCH", "/workspace", json={"quota": quota})
        assert answer.status_code == 200, answer.text
        return server

    return limit


def refused(answer, words: str) -> None:
    assert answer.status_code == 403, answer.text
    assert words in answer.json()["message"] and answer.json()["code"] == "Refused"


def test_the_number_of_endpoints_and_of_jobs(limited):
    server = limited(endpoints=1, jobs=2)
    assert server.call("POST", "/deployments", json=endpoint("a")).status_code == 201
    refused(server.call("POST", "/deployments", json=endpoint("b")), "may have 1 endpoints and pods")
    assert server.call("DELETE", "/deployments/a").status_code == 200
    assert server.call("POST", "/deployments", json=endpoint("b")).status_code == 201

    for name in ("x", "y"):
        assert server.call("POST", "/jobs", json=job(name)).status_code == 201
    refused(server.call("POST", "/jobs", json=job("z")), "may have 2 jobs that have not ended")


def test_processors_and_memory_of_endpoints_together_and_of_a_job_alone(limited):
    server = limited()
    small = server.plane.shapes()["cpu.small"]
    limited(cpu=3 * small.cpu, memory_bytes=2 * small.memory_bytes)
    assert server.call("POST", "/deployments", json=endpoint("a")).status_code == 201
    assert server.call("POST", "/deployments", json=endpoint("b")).status_code == 201
    refused(server.call("POST", "/deployments", json=endpoint("c")), "together would go beyond the workspace's quota")
    grown = endpoint("b", 2)
    refused(server.call("PATCH", "/deployments/b", json=grown), "would go beyond")
    refused(server.call("POST", "/deployments", json=endpoint("d", 0, 3)), "with all its replicas")
    assert server.call("POST", "/jobs", json=job("fits", 2)).status_code == 201, "a job waits for its room"
    refused(server.call("POST", "/jobs", json=job("never", 3)), "this job would go beyond")


def test_another_workspace_has_its_own(limited):
    server = limited(endpoints=1)
    assert server.call("POST", "/deployments", json=endpoint("a")).status_code == 201
    answer = server.call("POST", "/deployments", json=endpoint("a"), key=server.foreign, workspace="other")
    assert answer.status_code == 201


def test_bytes_of_storage(limited):
    server = limited(storage_bytes=100_000)
    put = lambda name, size: server.call("POST", f"/storage/default/{name}", files={"file": (name, b"x" * size)})  # noqa: E731
    assert put("one", 60_000).status_code == 201
    refused(put("two", 60_000), "quota of storage")
    assert put("one", 70_000).status_code == 201, "the file that is replaced makes room"
    assert server.call("GET", "/storage/default/two").status_code == 404


def test_no_quota_is_no_limit_and_an_unknown_one_an_error(limited):
    server = limited()
    assert server.call("PATCH", "/workspace", json={"quota": {"cpus": 3}}).status_code == 400
    for number in range(3):
        assert server.call("POST", "/deployments", json=endpoint(f"e{number}", 50)).status_code == 201


def test_what_the_driver_is_told(limited):
    from leptonai.cloud.accounts.quotas import Limits

    server = limited(cpu=2, jobs=9)
    found = Limits(server.store)()
    assert set(found) == {"mine"} and Resources(2, 1 << 40, 8).fits(found["mine"])
    assert not Resources(2.1).fits(found["mine"])
