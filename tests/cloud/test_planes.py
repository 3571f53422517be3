"""Several planes on one PostgreSQL, a plane and a gateway apart, and who may listen where: real `lep up` processes."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

from bench.cloud import Up, wait
from sqlalchemy import create_engine, text

from leptonai.base.home import Home
from leptonai.cloud import instance
from leptonai.cloud.server import free_port


@pytest.fixture
def ups():
    made: list[Up] = []
    yield made
    for one in made:
        one.end()


def job(name: str, script: str) -> dict:
    spec = {"container": {"image": "host", "command": ["bash", "-c", script]}, "resource_shape": "cpu.small"}
    return {"metadata": {"name": name}, "spec": spec}


def state(up: Up, id: str) -> str:
    return up.api("GET", f"/jobs/{id}")["status"]["state"]


@pytest.mark.slow
def test_two_planes_share_the_work_and_one_goes_on_when_the_other_is_killed(tmp_path, postgres, ups):
    url = postgres.new_database()
    first, second = Up(tmp_path / "a", "--database", url), Up(tmp_path / "b", "--database", url)
    ups += [first, second]
    first.start()
    (second.home / "cloud").mkdir(parents=True)
    shutil.copy(first.home / "cloud" / "vault.key", second.home / "cloud" / "vault.key")
    shutil.copy(first.home / "admin.key", second.home / "admin.key")
    second.start()

    # Made through either, seen through both; each runs once, on one of the two.
    ran = tmp_path / "ran"
    ran.mkdir()
    jobs = [
        (first, second)[number % 2].api("POST", "/jobs", job(f"j{number}", f"echo x >> {ran}/{number}"))["metadata"][
            "id"
        ]
        for number in range(12)
    ]
    wait(lambda: all(state(up, id) == "Completed" for up in (first, second) for id in jobs), 60)
    assert sorted(one.name for one in ran.iterdir()) == sorted(map(str, range(12)))
    assert {one.read_text() for one in ran.iterdir()} == {"x\n"}
    owners = holders(url)
    assert len(owners) == 12 and set(owners.values()) == {
        (up.home / "cloud" / "node").read_text().strip() for up in (first, second)
    }, "both took some"

    first.kill()
    left = [second.api("POST", "/jobs", job(f"k{number}", "true"))["metadata"]["id"] for number in range(4)]
    wait(lambda: all(state(second, id) == "Completed" for id in left), 60)
    first.start()
    assert all(state(first, id) == "Completed" for id in jobs + left)


def holders(url: str) -> dict[str, str]:
    """Which home has which resource."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        found = connection.execute(text("SELECT name, holder FROM leases WHERE name LIKE 'resource/%'")).all()
    engine.dispose()
    return dict(map(tuple, found))


def test_a_home_with_another_key_may_not_join(tmp_path, postgres, ups):
    url = postgres.new_database()
    first = Up(tmp_path / "a", "--database", url)
    ups.append(first)
    first.start()
    done = up_fails(tmp_path / "b", "--database", url)
    assert "sealed with the key of another home" in done and "vault.key" in done


def up_fails(home, *options: str) -> str:
    """What `lep up` says when it refuses to start."""
    command = [
        sys.executable,
        "-m",
        "leptonai.cli.main",
        "up",
        "--home",
        str(home),
        "--port",
        str(free_port("127.0.0.1")),
    ]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=60, env={**os.environ, "LEPTON_HOME": str(home)}
    )
    assert done.returncode not in (0, None) and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_plane_and_gateway_apart(tmp_path, ups):
    plane, gateway = Up(tmp_path / "home", "--role", "plane"), Up(tmp_path / "home", "--role", "gateway")
    ups.append(plane)
    plane.port = gateway.port  # one address, which the gateway has
    arguments = ["--home", str(tmp_path / "home"), "--port", str(gateway.port)]
    front = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli.main", "up", *arguments, "--role", "gateway"], stdout=subprocess.DEVNULL
    )
    try:
        plane.start()
        assert plane.api("GET", "/jobs") == {"jobs": []}
        plane.kill()
        assert len(instance.gateway_workers(Home(tmp_path / "home"))) == 1, (
            "the gateway has nothing to do with the plane's end"
        )
        plane.start()
        front.send_signal(signal.SIGTERM)
        assert front.wait(10) == 0
        assert not instance.gateway_workers(Home(tmp_path / "home"))
    finally:
        front.kill()
        front.wait()


def test_listening_beyond_this_machine_needs_tls_or_a_proxy_that_does_it(tmp_path, ups):
    said = up_fails(tmp_path / "a", "--host", "0.0.0.0")
    assert "keys would travel in the clear" in said and "--certificate" in said and "--behind-proxy" in said
    assert not (tmp_path / "a" / "admin.key").exists()

    proxied = Up(tmp_path / "b", "--host", "0.0.0.0", "--behind-proxy")
    ups.append(proxied)
    proxied.start()
    assert proxied.api("GET", "/jobs") == {"jobs": []}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_the_gateway_speaks_tls(tmp_path, ups):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    up = Up(tmp_path / "home", "--host", "0.0.0.0", "--certificate", str(certificate), "--key", str(key))
    ups.append(up)
    trusted = ssl.create_default_context(cafile=certificate)

    def answers():
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{up.port}/healthz", context=trusted, timeout=5) as answer:
                return json.load(answer)["status"] == "ok"
        except OSError:
            return False

    up._answers = answers
    up.start()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{up.port}/healthz", timeout=5)
    assert "belong together" in up_fails(tmp_path / "half", "--certificate", str(certificate))
