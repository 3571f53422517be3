"""The shim outlives the plane; its lock tells the truth about it; its own death is found and cleaned up after."""

import json
import os
import signal
import subprocess
import sys
import time

from leptonai.cloud.compute.driver import Resources
from leptonai.cloud.compute.local import LocalDriver
from leptonai.cloud.compute.record import Record
from leptonai.cloud.compute.tree import is_zombie, marked

from .conftest import ended, running, text, wait_until, workload

PLANE = """
import sys, time
from pathlib import Path
from leptonai.base.home import Home
from leptonai.cloud.compute.driver import Resources, Workload
from leptonai.cloud.compute.local import LocalDriver
driver = LocalDriver(Home(Path(sys.argv[1])), capacity=Resources(4, 1 << 33), isolate=False)
driver.launch(Workload("w", "default", "job/w", ("bash", "-c", sys.argv[2]), resources=Resources(0.1, 1 << 28)))
print("launched", flush=True)
time.sleep(60)
"""


def test_a_workload_outlives_the_plane_and_is_adopted(driver, home, tmp_path):
    script = f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo two; exit 7"
    plane = subprocess.Popen([sys.executable, "-c", PLANE, str(home.root), script], stdout=subprocess.PIPE)
    assert plane.stdout.readline() == b"launched\n"
    plane.kill()  # SIGKILL
    plane.wait()
    seen = running(driver, "w")  # another driver: nothing of the first is left but the folder
    (tmp_path / "go").touch()
    seen = ended(driver, "w")
    assert (seen.exit_code, seen.reason, text(driver, "w")) == (7, "Error", "one\ntwo\n")


def test_it_ends_while_no_plane_is_there(driver, home):
    plane = subprocess.Popen([sys.executable, "-c", PLANE, str(home.root), "sleep 0.2; exit 4"], stdout=subprocess.PIPE)
    assert plane.stdout.readline() == b"launched\n"
    plane.kill()
    plane.wait()
    record = Record(driver.root / "w")
    wait_until(lambda: not record.shim_lives())
    assert LocalDriver(home).observe()["w"].exit_code == 4


def test_a_killed_shim_is_reported_as_lost_and_nothing_is_left(driver):
    driver.launch(workload("w", "setsid sleep 1000 & echo up; sleep 1000"))
    wait_until(lambda: "up" in text(driver, "w"))
    assert len([pid for pid in marked("w") if not is_zombie(pid)]) >= 2
    os.kill(json.loads((driver.root / "w" / "state.json").read_text())["shim_pid"], signal.SIGKILL)
    seen = ended(driver, "w")
    assert (seen.state, seen.reason) == ("lost", "Lost") and seen.finished_at is not None
    assert [pid for pid in marked("w") if not is_zombie(pid)] == []
    assert text(driver, "w") == "up\n"
    assert ended(LocalDriver(driver.home), "w").reason == "Lost"  # and it stays so


def test_a_lost_workload_does_not_start_again(driver, tmp_path):
    driver.launch(workload("w", f"echo x >> {tmp_path}/ran; sleep 1000"))
    wait_until(lambda: (tmp_path / "ran").exists())
    os.kill(json.loads((driver.root / "w" / "state.json").read_text())["shim_pid"], signal.SIGKILL)
    ended(driver, "w")
    for _ in range(3):
        subprocess.run([sys.executable, "-m", "leptonai.cloud.compute.shim", str(driver.root / "w")], check=True)
    driver.observe()
    assert (tmp_path / "ran").read_text() == "x\n"


def test_many_shims_for_one_workload_start_it_once(driver, home, tmp_path):
    driver.launch(workload("blocker", "sleep 1000", resources=Resources(4, 1 << 20)))
    driver.launch(workload("w", f"echo x >> {tmp_path}/ran"))  # queued: we start it by hand
    record = Record(driver.root / "w")
    admitted = driver.root / "admitted.json"
    admitted.write_text(json.dumps({"w": {"gpus": [], "ports": []}}))
    start = driver._start_file(record)
    (record.folder / "start.json").write_text(json.dumps(start))
    shims = [
        subprocess.Popen([sys.executable, "-m", "leptonai.cloud.compute.shim", str(record.folder)]) for _ in range(6)
    ]
    for shim in shims:
        assert shim.wait() == 0
    wait_until(lambda: record.state() and record.state()["state"] == "exited")
    assert (tmp_path / "ran").read_text() == "x\n"


def test_sigterm_to_a_shim_is_the_machine_going_down(driver):
    driver.launch(workload("w", "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    wait_until(lambda: "up" in text(driver, "w"))
    os.kill(json.loads((driver.root / "w" / "state.json").read_text())["shim_pid"], signal.SIGTERM)
    seen = ended(driver, "w")
    assert (seen.state, seen.reason, text(driver, "w", "stdout")) == ("lost", "Lost", "up\nsaved\n")


def test_a_reboot_is_a_loss(driver):
    """After one, the record says `running` and nobody holds the lock."""
    driver.launch(workload("w", "true"))
    ended(driver, "w")
    wait_until(lambda: not Record(driver.root / "w").shim_lives())
    path = driver.root / "w" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "state": "running", "reason": None, "finished_at": None}))
    assert LocalDriver(driver.home).observe()["w"].reason == "Lost"


def test_the_shim_is_small():
    """It imports what it needs and no more: a machine runs one per workload."""
    code = "import sys, leptonai.cloud.compute.shim; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {
        "msgspec",
        "sqlalchemy",
        "subprocess",
        "asyncio",
        "dataclasses",
        "pathlib.types",
        "hashlib",
        "typing_extensions",
    }
    ours = {name for name in loaded if name.startswith("leptonai.")}
    assert ours == {
        f"leptonai.cloud{rest}"
        for rest in ("", *(f".compute{part}" for part in ("", ".shim", ".limits", ".segments", ".tree")))
    }
    usage_before = os.times()
    subprocess.run([sys.executable, "-c", "import leptonai.cloud.compute.shim"], check=True)
    spent = os.times()
    cpu_s = spent.children_user + spent.children_system - usage_before.children_user - usage_before.children_system
    assert cpu_s < 0.2, f"{cpu_s * 1000:.0f} ms of CPU"  # 40 ms on a quiet machine


def test_an_idle_shim_costs_nothing(driver):
    """It waits for events; the watch, where there is one, looks twice a second."""
    driver.launch(workload("w", "sleep 1000"))
    running(driver, "w")
    shim = json.loads((driver.root / "w" / "state.json").read_text())["shim_pid"]
    before = _cpu_ticks(shim)
    time.sleep(1.5)
    assert (_cpu_ticks(shim) - before) / os.sysconf("SC_CLK_TCK") < 0.05


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
