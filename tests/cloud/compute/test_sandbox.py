"""With bubblewrap a workload sees its own folder and its workspace, and none of the plane or of the user."""

import os
import socket
import time

import pytest

from leptonai.cloud.compute import sandbox
from leptonai.cloud.compute.driver import Mount, Resources, Workload
from leptonai.cloud.compute.local import LocalDriver

from .conftest import MIB, ended, text, wait_until, workload

pytestmark = pytest.mark.skipif(
    sandbox.bubblewrap() is None, reason="bubblewrap is not installed or may not be used here"
)


@pytest.fixture
def isolated(home):
    driver = LocalDriver(home, capacity=Resources(4, 8192 * MIB))
    yield driver
    for id in driver.observe():
        driver.stop(id, 0)
    wait_until(lambda: all(seen.ended for seen in driver.observe().values()))


def shell(driver: LocalDriver, script: str, **values) -> str:
    driver.launch(workload("w", script, **values))
    ended(driver, "w")
    return text(driver, "w")


def test_the_plane_and_other_workspaces_are_not_there(isolated, home):
    (home.root / "admin.key").write_text("lep_admin_secret")
    (home.root / "cloud" / "plane.db").write_text("rows")
    for workspace in ("default", "other"):
        (home.root / "workspaces" / workspace).mkdir(parents=True)
        (home.root / "workspaces" / workspace / "model").write_text(f"{workspace}\n")
    words = shell(
        isolated,
        "cat $LEPTON_HOME/admin.key; cat $LEPTON_HOME/cloud/plane.db; cat $LEPTON_HOME/workspaces/other/model;"
        "cat $LEPTON_HOME/workspaces/default/model; echo new > $LEPTON_HOME/workspaces/default/model; ls $LEPTON_HOME/cloud/workloads",
    )
    assert words.count("No such file or directory") == 3 and "lep_admin" not in words and "rows" not in words
    assert words.endswith("default\nw\n")
    assert (home.root / "workspaces" / "default" / "model").read_text() == "new\n"


def test_the_machine_is_read_only_and_its_processes_are_not_there(isolated, tmp_path):
    (tmp_path / "of-somebody-else").touch()
    words = shell(
        isolated,
        f"touch /usr/x /etc/x; ls /proc | grep -c '^[0-9]'; echo hi > /tmp/x && cat /tmp/x; ls {tmp_path}; ls /run",
    )
    assert words.count("Read-only file system") == 2
    assert int(next(line for line in words.splitlines() if line.isdigit())) < 8
    assert "\nhi\n" in words and not (tmp_path.parent / "x").exists()
    assert "of-somebody-else" not in words


def test_term_reaches_the_command_and_exit_codes_come_through(isolated):
    isolated.launch(workload("w", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"))
    wait_until(lambda: "up" in text(isolated, "w"))
    isolated.stop("w", 20)
    seen = ended(isolated, "w", 10)
    assert (seen.reason, seen.exit_code, text(isolated, "w", "stdout")) == ("Stopped", 9, "up\nbye\n")


def test_nothing_is_left_after_a_kill(isolated):
    isolated.launch(workload("w", "trap '' TERM; setsid sleep 1000 & echo up; sleep 1000"))
    wait_until(lambda: "up" in text(isolated, "w"))
    began = time.monotonic()
    isolated.stop("w", 0.2)
    assert ended(isolated, "w", 10).reason == "Stopped" and time.monotonic() - began < 8


def test_mounts(isolated, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("content\n")
    mounts = (Mount(tmp_path / "data", "/mnt/data", read_only=True),)
    words = shell(isolated, "cat mnt/data/x; touch mnt/data/y", mounts=mounts)
    assert words.startswith("content\n") and "Read-only" in words


HOSTILE = r"""
import os, socket, sys
from pathlib import Path
home, plane, own = Path(os.environ["LEPTON_HOME"]), int(sys.argv[1]), Path.cwd()
def attempt(what, act):
    try:
        got = act()
    except (OSError, ValueError) as error:
        print(what, "refused", type(error).__name__)
    else:
        print(what, "REACHED", got)
def connect():
    with socket.socket(socket.AF_UNIX) as plane_socket:
        plane_socket.connect(str(home / "cloud" / "plane.sock"))
def ptrace():
    import ctypes
    if ctypes.CDLL(None, use_errno=True).ptrace(0x4206, plane, 0, 0):
        raise OSError(ctypes.get_errno(), "no")
attempt("environ", lambda: Path(f"/proc/{plane}/environ").read_bytes())
attempt("memory", lambda: open(f"/proc/{plane}/mem", "rb").read(1))
attempt("signal", lambda: os.kill(plane, 0))
attempt("ptrace", ptrace)
attempt("vault", lambda: (home / "cloud" / "vault.key").read_bytes())
attempt("admin", lambda: (home / "admin.key").read_bytes())
attempt("database", lambda: (home / "cloud" / "plane.db").read_bytes())
attempt("neighbour", lambda: (home / "workspaces" / "other" / "files" / "secret").read_bytes())
attempt("workload", lambda: [one.read_bytes() for one in (home / "cloud" / "workloads").glob("neighbour/work/secret")][0:1] or (_ for _ in ()).throw(OSError()))
attempt("socket", connect)
attempt("root", lambda: open("/etc/lepton-was-here", "w"))
(own / "mine").write_text("own")
print("own", (own / "mine").read_text())
"""


def test_s47_a_hostile_script_reaches_nothing_of_the_plane_or_of_its_neighbours(isolated, home, tmp_path):
    """`lep up` says at its start where this protection is missing (bubblewrap is not there)."""
    (home.root / "workspaces" / "other" / "files").mkdir(parents=True)
    (home.root / "workspaces" / "other" / "files" / "secret").write_text("of another workspace")
    for name in ("cloud/vault.key", "cloud/plane.db", "admin.key"):
        (home.root / name).write_text("of the plane")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.root / "cloud" / "plane.sock"))
        listener.listen()
        isolated.launch(workload("neighbour", "echo of another workload > secret; sleep 1000"))
        wait_until(lambda: (home.root / "cloud" / "workloads" / "neighbour" / "work" / "secret").exists())
        isolated.launch(Workload("w", "default", "job/w", ("python3", "-c", HOSTILE, str(os.getpid()))))
        ended(isolated, "w")
    words = text(isolated, "w")
    assert "REACHED" not in words and words.count("refused") == 11, words
    assert "own own" in words
