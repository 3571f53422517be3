"""Every command that the reference lists, by the real official client against a real `lep up`, in both generations of the API.

An image needs Docker or Podman, which a test may not count on: endpoints and jobs use the image `host`, a plain process.
"""

from __future__ import annotations

import re
import sys

import httpx
import pytest

from .official import Session, official_lep, start_cloud, stop_cloud

pytest.importorskip("sqlalchemy")
SERVE = "exec python -m http.server $PORT --bind 127.0.0.1"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    cloud = start_cloud(tmp_path_factory.mktemp("cloud"))
    yield cloud
    stop_cloud(cloud)


@pytest.fixture
def lep(cloud, tmp_path):
    session = Session(official_lep(), cloud, tmp_path / "client")
    yield session
    sys.stdout.write("\n".join(session.transcript))


def set_features(cloud, **features):
    answer = httpx.patch(
        f"{cloud.base}/workspace", json={"features": features}, headers={"authorization": f"Bearer {cloud.key}"}
    )
    answer.raise_for_status()


def log_in(lep, cloud):
    lep.run("workspace", "login", "-i", "default", "-t", cloud.key, "--workspace-url", cloud.base)


def test_first_transcript(lep, cloud):
    """Log in, an endpoint from a plain command, wait, call, scale, update, restart, logs, events, remove."""
    assert "default" in lep.run("login", "-c", f"default:{cloud.key}", "-u", cloud.base)
    host = ["--container-image", "host", "--container-command", SERVE, "-rs", "cpu.small"]
    lep.run("endpoint", "create", "-n", "first", *host, "--tokens", "t1", "-r", "1")
    lep.until("Ready", "endpoint", "status", "-n", "first", "-d")
    wait_until_called(cloud, "first", "t1", 200)
    assert call(cloud, "first", "wrong") == 401
    lep.run("endpoint", "update", "-n", "first", "-r", "2", "--tokens", "t2")
    wait_until_called(cloud, "first", "t2", 200)
    assert "t2" in lep.run("endpoint", "status", "-n", "first", "-t")
    lep.run("endpoint", "restart", "-n", "first")
    assert "RevisionCreated" in lep.until("RevisionCreated", "endpoint", "events", "-n", "first")
    assert "GET /" in lep.run("log", "get", "-e", "first", "--start", "today", "--end", "now")
    lep.run("endpoint", "remove", "-n", "first")
    assert "first" not in lep.run("endpoint", "list")


@pytest.mark.slow
def test_the_workspace_its_nodes_storage_secrets_and_templates(lep, cloud):
    log_in(lep, cloud)
    assert "default" in lep.run("login", "-c", f"default:{cloud.key}", "-u", cloud.base)
    assert "WorkspaceState.Normal" in lep.run("workspace", "status")
    assert "default" in lep.run("workspace", "list")

    assert "local" in lep.run("node", "list")
    assert "Ready" in lep.run("node", "list-nodes", "-ng", "local")
    lep.run("node", "list-reservations", "local")
    assert "cpu.small" in lep.run("node", "resource-shape")

    assert "scratch" in lep.run("node", "storage")
    assert "scratch" in lep.run("node", "storage", "get", "-ng", "local", "-n", "scratch")
    lep.run("node", "storage", "add", "-ng", "local", "-t", "node-nfs", "-n", "mynfs", "-p", "/nfs")
    assert "mynfs" in lep.run("node", "storage", "permission", "-ng", "local")
    lep.run("node", "storage", "permission", "add", "-ng", "local", "-n", "mynfs", "-p", "/a", "--all-members")
    assert "/a" in lep.run("node", "storage", "permission", "-ng", "local")
    lep.run("node", "storage", "permission", "delete", "-ng", "local", "-n", "mynfs", "-p", "/a", "-y")
    lep.run("node", "storage", "delete", "-ng", "local", "-n", "mynfs", "-y")
    assert "mynfs" not in lep.run("node", "storage")
    bucket = ["--provider", "s3", "--bucket", "b1", "--region", "us", "--endpoint", "http://127.0.0.1:9"]
    names = ["--access-key-secret-name", "AK", "--secret-key-secret-name", "SK"]
    lep.run("node", "storage", "add", "-ng", "local", "-t", "object-storage", "-n", "buck", *bucket, *names)
    lep.run("node", "storage", "permission", "add", "-ng", "local", "-n", "buck", "-u", "a@x")
    assert "b1" in lep.run("node", "storage", "get", "-ng", "local", "-n", "buck")
    lep.run("node", "storage", "delete", "-ng", "local", "-n", "buck", "-y")

    lep.run("secret", "create", "-n", "S1", "-v", "value-of-s1")
    listed = lep.run("secret", "list")
    assert "S1" in listed and "value-of-s1" not in listed
    lep.run("secret", "remove", "-n", "S1")
    assert "S1" not in lep.run("secret", "list")

    assert "torchrun" in lep.run("template", "list")
    assert "torchrun" in lep.run("template", "get", "-i", "torchrun")


@pytest.mark.slow
@pytest.mark.parametrize("new_api", [False, True], ids=["deployments", "endpoints"])
def test_endpoints_pods_and_ingresses(lep, cloud, new_api):
    set_features(cloud, enable_new_deployment_api=new_api)
    log_in(lep, cloud)
    lep.run("secret", "create", "-n", "S1", "-v", "v1")
    host = ["--container-image", "host", "--container-command", SERVE, "-rs", "cpu.small"]
    lep.run(
        *["endpoint", "create", "-n", "ep1", *host, "--container-port", "8000", "-e", "A=1", "-s", "S1"],
        *["--mount", "/data:/mnt/data:node-local", "--tokens", "t1", "-r", "1"],
    )
    lep.run("endpoint", "create", "-n", "ep2", *host, "--allow-unauthenticated-access", "--autoscale-qpm", "1,3,2.5")
    created = lep.run("endpoint", "create", "-n", "ep3", *host, "--no-traffic-timeout", "0")
    assert "token" in created.lower()  # an endpoint is never open by omission
    assert all(name in lep.run("endpoint", "list") for name in ("ep1", "ep2", "ep3"))
    assert SERVE in lep.run("endpoint", "get", "-n", "ep1")
    lep.until("Ready", "endpoint", "status", "-n", "ep1", "-d")
    wait_until_called(cloud, "ep1", "t1", 200)
    assert call(cloud, "ep1", "wrong") == 401

    lep.run("endpoint", "update", "-n", "ep1", "-r", "2", "--tokens", "t2", "--load-balance", "least-request")
    assert "t2" in lep.run("endpoint", "status", "-n", "ep1", "-t")
    wait_until_called(cloud, "ep1", "t2", 200)
    wait_until_called(cloud, "ep1", "t1", 401)
    lep.run("endpoint", "events", "-n", "ep1")
    wait_for_log(lep, "endpoint", "ep1")
    assert "GET /" in lep.run("log", "get", "-e", "ep1", "--start", "today", "--end", "now")
    lep.run("endpoint", "restart", "-n", "ep1")
    lep.run("endpoint", "stop", "-n", "ep1")
    lep.until("Stopped", "endpoint", "list") if not new_api else lep.run("endpoint", "list")
    lep.run("endpoint", "create", "-n", "ep2", *host, "--tokens", "t9", "--rerun")

    ingress(lep, domain="new.example.com" if new_api else "example.com")

    for name in ("ep1", "ep2", "ep3"):
        lep.run("endpoint", "remove", "-n", name)
    assert "ep1" not in lep.run("endpoint", "list")
    lep.run("secret", "remove", "-n", "S1")
    pods(lep)
    set_features(cloud, enable_new_deployment_api=False)


def ingress(lep, domain):
    lep.run("ingress", "create", "-d", domain)
    listed = lep.run("ingress", "list")
    name = re.search(r"ing-[0-9a-f]{8}", listed).group()
    lep.run("ingress", "add-endpoint", "-n", name, "-e", "ep1", "-w", "80")
    lep.run("ingress", "update-endpoint", "-n", name, "-e", "ep1", "-w", "50")
    lep.run("ingress", "set-endpoints", "-n", name, "-e", "ep1:80", "-e", "ep2:20")
    assert "ep2" in lep.run("ingress", "get", "-n", name)
    lep.run("ingress", "remove-endpoint", "-n", name, "-e", "ep2")
    assert "ep2" not in lep.run("ingress", "get", "-n", name)
    lep.run("ingress", "delete", "-n", name)
    assert name not in lep.run("ingress", "list")


def pods(lep):
    pod = ["--container-image", "host", "--container-command", "sleep 600", "-rs", "cpu.small"]
    lep.run("pod", "create", "-n", "pod1", *pod, "--container-port", "8888:tcp:proxy")
    assert "pod1" in lep.run("pod", "list")
    assert "pod1" in lep.run("pod", "list", "--detail")
    assert "sleep 600" in lep.run("pod", "get", "-n", "pod1")
    lep.run("pod", "stop", "-n", "pod1")
    lep.run("pod", "remove", "-n", "pod1")
    assert "pod1" not in lep.run("pod", "list")


def call(cloud, name, token):
    return httpx.get(
        f"{cloud.url}/default/{name}/", headers={"authorization": f"Bearer {token}"}, timeout=60
    ).status_code


def wait_until_called(cloud, name, token, status, timeout_s=60):
    import time

    deadline = time.monotonic() + timeout_s
    while (seen := call(cloud, name, token)) != status:
        assert time.monotonic() < deadline, f"{name} answers {seen}, not {status}"
        time.sleep(0.1)


def wait_for_log(lep, kind, name):
    """`lep endpoint log` follows for ever: read a line and go."""
    import os
    import subprocess

    environment = {**os.environ, "LEPTON_CACHE_DIR": str(lep.folder), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [str(lep.command), kind, "log", "-n", name],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        try:
            text = "".join(child.stdout.readline() for _ in range(2))
            assert text.strip() and "Traceback" not in text and "Error" not in text, text
        finally:
            child.kill()


@pytest.mark.slow
def test_jobs_fine_tunes_and_ray(lep, cloud):
    log_in(lep, cloud)
    host = ["--container-image", "host", "-rs", "cpu.small"]
    lep.run(
        "job",
        "create",
        "-n",
        "job1",
        *host,
        "--command",
        "echo hi there",
        "-w",
        "2",
        "-ng",
        "local",
        "-qp",
        "5",
        "-cbp",
    )
    lep.run("job", "create", "-n", "job2", "-t", "torchrun", "--run", "echo t", "-rs", "cpu.small")
    lep.run("job", "create", "-n", "job3", *host, "--command", "sleep 600")
    assert "job1" in lep.run("job", "list")
    lep.run("job", "list", "-s", "run", "-u", "me", "-n", "job", "-l", "team=a")
    identity = re.search(r"job1-[a-z0-9]{6}", lep.run("job", "get", "-n", "job1")).group()
    lep.until("Completed", "job", "get", "-i", identity)
    assert identity in lep.run("job", "replicas", "-i", identity)
    lep.run("job", "nodes", "-i", identity)
    lep.run("job", "events", "-i", identity)
    assert "hi there" in lep.run("job", "log", "-i", identity)
    assert "hi there" in lep.run("log", "get", "-j", identity)
    lep.run("log", "get", "-jn", "job1", input="1\n")
    lep.run("job", "clone", "-i", identity)
    sleeper = re.search(r"job3-[a-z0-9]{6}", lep.run("job", "get", "-n", "job3")).group()
    lep.run("job", "stop", "-i", sleeper)
    lep.until("Stopped", "job", "get", "-i", sleeper)
    lep.run("job", "start", "-i", sleeper)
    lep.run("job", "stop-all", "-u", "me", input="y\n")
    lep.run("job", "remove", "-i", identity)
    assert identity not in lep.run("job", "list")
    lep.run("job", "remove", "-i", sleeper)

    assert "nemo-automodel" in lep.run("finetune", "list-trainers")
    lep.run("finetune", "create", "-n", "ft1", "-rs", "cpu.small", "--model-id", "a/b", "--learning-rate", "0.001")
    listed = lep.run("finetune", "list")
    fine_tune = re.search(r"ft1-[a-z0-9]{6}", listed).group()
    assert "a/b" in lep.run("finetune", "get", "-i", fine_tune)
    lep.run("finetune", "delete", "-i", fine_tune)

    head = ["--head-resource-shape", "cpu.small", "--head-node-group", "local"]
    group = [
        "-wg",
        "--group-name",
        "w1",
        "--resource-shape",
        "cpu.small",
        "--node-group",
        "local",
        "--min-replicas",
        "1",
    ]
    lep.run("raycluster", "create", "-n", "ray1", *head, *group)
    assert "ray1" in lep.run("raycluster", "list")
    lep.run("raycluster", "get", "-n", "ray1")
    lep.run("raycluster", "update", "-n", "ray1", "-wg", "--group-name", "w1", "--min-replicas", "2")
    submitted = lep.run("raycluster", "submit-job", "-n", "ray1", "--no-wait", "--", "echo", "hi")
    job = re.search(r"raysubmit_\w+", submitted).group()
    lep.until("SUCCEEDED", "raycluster", "list-jobs", "-n", "ray1")
    lep.run("raycluster", "stop-job", "-n", "ray1", "-j", job)
    lep.run("raycluster", "stop", "-n", "ray1")
    lep.run("raycluster", "start", "-n", "ray1")
    lep.run("raycluster", "remove", "-n", "ray1")
    lep.run("workspace", "logout")
