"""The local driver with real processes: how they end, what they see, what they may use, how they are stopped."""

import os
import signal
import stat
import time

import pytest

from leptonai.base.errors import Conflict, InvalidInput, NotFound, Unavailable
from leptonai.cloud.compute import container
from leptonai.cloud.compute.driver import Mount, Resources, Workload
from leptonai.cloud.compute.local import LocalDriver
from leptonai.cloud.compute.tree import is_zombie, marked

from .conftest import MIB, ended, running, text, wait_until, workload


@pytest.mark.parametrize(
    ("script", "exit_code", "reason", "message"),
    [
        ("true", 0, "Completed", ""),
        ("exit 3", 3, "Error", "it ended with exit code 3"),
        ("kill -SEGV $$", 139, "Error", "signal SIGSEGV ended it"),
        ("kill -KILL $$", 137, "Error", "signal SIGKILL ended it"),
    ],
)
def test_how_it_ended(driver, script, exit_code, reason, message):
    driver.launch(workload("w", script))
    seen = ended(driver, "w")
    assert (seen.state, seen.exit_code, seen.reason, seen.message) == ("exited", exit_code, reason, message)
    assert seen.queued_at <= seen.started_at <= seen.finished_at <= time.time()


def test_a_command_that_is_not_there(driver):
    driver.launch(Workload("w", "default", "job/w", ("no-such-command", "x"), resources=Resources(0.1, MIB)))
    seen = ended(driver, "w")
    assert (seen.exit_code, seen.reason) == (127, "Error")
    assert seen.message == "the command 'no-such-command' was not found"
    assert "no-such-command" in text(driver, "w")


def test_output_of_both_streams(driver):
    driver.launch(workload("w", "echo out; echo err >&2; printf 'no end'"))
    ended(driver, "w")
    assert text(driver, "w", "stdout") == "out\nno end"
    assert text(driver, "w", "stderr") == "err\n"


def test_following_ends_with_the_workload(driver):
    driver.launch(workload("w", "for n in 1 2 3; do echo $n; sleep 0.1; done; printf 'wait: '; sleep 0.6; echo done"))
    assert "".join(map(str, driver.logs("w", follow=True))) == "1\n2\n3\nwait: done\n"
    assert any(line.partial and line.text == "wait: " for line in driver.logs("w"))  # a prompt shows before its end


def test_a_second_launch_of_an_id_does_nothing(driver, tmp_path):
    for _ in range(3):
        driver.launch(workload("w", f"echo x >> {tmp_path}/ran"))
    ended(driver, "w")
    driver.launch(workload("w", f"echo x >> {tmp_path}/ran"))
    time.sleep(0.1)
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_clean_environment_and_its_own_folder(driver, home, monkeypatch):
    monkeypatch.setenv("LEPTON_TOKEN", "plane-credential")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "plane-credential")
    driver.launch(workload("w", "env; pwd; umask; touch $HOME/made", env={"MINE": "secret-value"}, ports=2))
    seen = ended(driver, "w")
    words = text(driver, "w")
    assert "plane-credential" not in words
    assert "MINE=secret-value" in words and f"LEPTON_HOME={home.root}" in words and "\n0077\n" in words
    assert f"PORT={seen.ports[0]}\n" in words and f"LEPTON_PORTS={seen.ports[0]},{seen.ports[1]}" in words
    made = home.root / "cloud" / "workloads" / "w" / "work" / "made"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_the_environment_is_not_on_disk_once_it_runs(driver, home):
    driver.launch(workload("w", "sleep 60", env={"KEY": "very-secret-value"}))
    running(driver, "w")
    folder = home.root / "cloud" / "workloads" / "w"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files and not any(b"very-secret-value" in path.read_bytes() for path in files)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_stop_is_term_first(driver):
    driver.launch(workload("w", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    wait_until(lambda: "up" in text(driver, "w"))
    driver.stop("w", 20)
    driver.stop("w", 20)
    seen = ended(driver, "w", 10)
    assert (seen.reason, seen.exit_code) == ("Stopped", 0)
    assert text(driver, "w", "stdout") == "up\nbye\n"


def test_stop_is_kill_at_last(driver):
    driver.launch(workload("w", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    wait_until(lambda: "up" in text(driver, "w"))
    began = time.monotonic()
    driver.stop("w", 0.5)
    seen = ended(driver, "w", 10)
    assert (seen.reason, seen.exit_code) == ("Stopped", 137)
    assert time.monotonic() - began >= 0.5


def test_a_shorter_grace_is_taken_a_longer_is_not(driver):
    driver.launch(workload("w", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    wait_until(lambda: "up" in text(driver, "w"))
    driver.stop("w", 300)
    driver.stop("w", 0.1)
    driver.stop("w", 300)
    assert ended(driver, "w", 10).reason == "Stopped"


def test_grandchildren_die_with_it_even_in_sessions_of_their_own(driver):
    script = "setsid sleep 1000 & (setsid nohup bash -c 'sleep 1000 & wait' &) ; sleep 0.3; echo up; "
    for id, last in (("stopped", "sleep 1000"), ("done", "exit 0")):
        driver.launch(workload(id, script + last))
    wait_until(lambda: "up" in text(driver, "stopped"))
    assert len(marked("stopped")) >= 4
    driver.stop("stopped", 5)
    for id in ("stopped", "done"):
        ended(driver, id)
        assert [pid for pid in marked(id) if not is_zombie(pid)] == []


def test_a_fork_bomb_can_be_stopped(driver):
    # Bounded, so that a failure of this test does not take the machine along: each child goes on with a smaller number.
    bomb = "import os, time\nfor n in range(9):\n os.fork()\nos.setsid() if os.getpid() % 3 == 0 and os.getpgrp() != os.getpid() else None\ntime.sleep(600)"
    driver.launch(Workload("w", "default", "job/w", ("python", "-c", bomb), resources=Resources(1, 2048 * MIB)))
    wait_until(lambda: len(marked("w")) > 200)
    driver.stop("w", 0)
    ended(driver, "w", 20)
    assert [pid for pid in marked("w") if not is_zombie(pid)] == []


def test_too_much_memory_is_out_of_memory(driver):
    script = "import time\nheld = [bytearray(b'x' * 2**20) for _ in range(300)]\ntime.sleep(60)"
    driver.launch(Workload("w", "default", "job/w", ("python", "-c", script), resources=Resources(1, 128 * MIB)))
    seen = ended(driver, "w")
    assert (seen.reason, seen.exit_code) == ("OutOfMemory", 137)
    assert "128 MiB" in seen.message


def test_memory_of_the_whole_tree_counts_but_shared_pages_once(driver):
    # 60 MiB that four forks share are 60 MiB: no harm. Four processes with 60 MiB of their own are too much for 128.
    shared = "import os, time\nheld = bytearray(b'x' * 2**20) * 60\n[os.fork() or time.sleep(1.6) or os._exit(0) for _ in range(3)]\n"
    own = "import os, time\n[os.fork() for _ in range(2)]\nheld = bytearray(b'x' * 2**20) * 60\ntime.sleep(30)\n"
    for id, script in (("shared", shared), ("own", own)):
        driver.launch(Workload(id, "default", "job/w", ("python", "-c", script), resources=Resources(1, 128 * MIB)))
    assert ended(driver, "own").reason == "OutOfMemory"
    assert ended(driver, "shared").reason == "Completed"


def test_time_limit(driver):
    driver.launch(workload("w", "sleep 60", time_limit_s=0.4, grace_s=5))
    seen = ended(driver, "w", 10)
    assert (seen.reason, seen.message) == ("TimeLimit", "it ran longer than its limit of 0.4 s")


def test_the_queue_goes_on_when_room_comes(driver):
    for n in range(3):
        driver.launch(workload(f"w{n}", "sleep 0.4", resources=Resources(2, MIB * 64)))
    states = [seen.state for _, seen in sorted(driver.observe().items())]
    assert states[2] == "queued" and driver.capacity().used.cpu == 4
    assert ended(driver, "w2").reason == "Completed"
    assert driver.capacity().used.cpu == 0


def test_priority_decides_when_there_is_room_for_one(driver):
    driver.launch(workload("first", "sleep 0.5", resources=Resources(4, MIB * 64)))
    for name, priority in (("low", 1000), ("high", 9000), ("middle", 5000)):
        driver.launch(workload(name, "true", resources=Resources(4, MIB * 64), priority=priority))
    for name in ("low", "middle", "high"):
        ended(driver, name)
    seen = driver.observe()
    assert sorted(("high", "middle", "low"), key=lambda id: seen[id].started_at) == ["high", "middle", "low"]


def test_preemption_makes_room(driver):
    driver.launch(workload("low", "sleep 60", resources=Resources(3, MIB * 64), priority=1, preemptible=True))
    running(driver, "low")
    driver.launch(workload("high", "true", resources=Resources(3, MIB * 64), priority=9, can_preempt=True))
    assert ended(driver, "high").reason == "Completed"
    assert ended(driver, "low").reason == "Preempted"


def test_a_gang_starts_together_and_knows_its_master(driver):
    def member(index: int) -> Workload:
        values = {"owner": "job/g", "gang": "g", "gang_size": 3, "index": index, "ports": 1}
        return workload(f"g{index}", "echo $MASTER_ADDR:$MASTER_PORT", **values)

    driver.launch(member(0))
    driver.launch(member(1))
    time.sleep(0.2)
    assert {seen.state for seen in driver.observe().values()} == {"queued"}
    driver.launch(member(2))
    master = ended(driver, "g0").ports[0]
    for index in range(3):
        ended(driver, f"g{index}")
        assert text(driver, f"g{index}") == f"127.0.0.1:{master}\n"


def test_stopping_what_is_queued(driver):
    driver.launch(workload("first", "sleep 60", resources=Resources(4, MIB)))
    driver.launch(workload("second", "true", resources=Resources(4, MIB)))
    driver.stop("second")
    seen = driver.observe()["second"]
    assert (seen.state, seen.reason, seen.started_at) == ("exited", "Stopped", None)


def test_ports_are_their_own(driver):
    for n in range(3):
        driver.launch(workload(f"w{n}", "sleep 60", ports=3))
    ports = [port for n in range(3) for port in running(driver, f"w{n}").ports]
    assert len(set(ports)) == 9


def test_forget(driver, home):
    driver.launch(workload("w", "sleep 60"))
    running(driver, "w")
    with pytest.raises(Conflict, match="has not ended"):
        driver.forget("w")
    driver.stop("w", 0)
    ended(driver, "w")
    driver.forget("w")
    driver.forget("w")
    assert driver.observe() == {} and not (home.root / "cloud" / "workloads" / "w").exists()
    with pytest.raises(NotFound, match="no workload 'w'"):
        driver.logs("w")


def test_mounts_of_a_plain_process(driver, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("content")
    driver.launch(workload("w", "cat mnt/data/x", mounts=(Mount(tmp_path / "data", "/mnt/data"),)))
    ended(driver, "w")
    assert text(driver, "w") == "content"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"resources": Resources(64, MIB)}, Unavailable, "more than this machine has"),
        ({"resources": Resources(2, MIB), "gang": "g", "gang_size": 3}, Unavailable, "6 CPU.* for 3 workers"),
        ({"resources": Resources(1, MIB, gpus=9)}, Unavailable, "9 GPU"),
        ({"command": ()}, InvalidInput, "has no command"),
        ({"command": ("a\0b",)}, InvalidInput, "NUL"),
        ({"env": {"A=B": "x"}}, InvalidInput, "environment variable"),
        ({"env": {"A": "x\0"}}, InvalidInput, "NUL"),
        ({"env": {"A": "x" * (1 << 21)}}, InvalidInput, "too large"),
        ({"id": "../up"}, InvalidInput, "cannot be the name"),
    ],
)
def test_what_can_never_run_is_refused(driver, values, error, words):
    values = {
        "id": "w",
        "workspace": "default",
        "owner": "job/w",
        "command": ("true",),
        "resources": Resources(1, MIB),
    } | values
    with pytest.raises(error, match=words):
        driver.launch(Workload(**values))
    assert driver.observe() == {}


def test_an_image_without_a_runtime_names_the_way_out(driver, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    container._probe.cache_clear()
    with pytest.raises(Unavailable, match=r"no container runtime.*'host'"):
        driver.launch(workload("w", "true", image="python:3.12"))
    container._probe.cache_clear()


def test_two_drivers_on_one_home_start_it_once(driver, home, tmp_path):
    other = LocalDriver(home, capacity=driver.total, isolate=False)
    for n in range(6):
        for one in (driver, other):
            one.launch(workload(f"w{n}", f"echo {n} >> {tmp_path}/ran"))
    for n in range(6):
        ended(other, f"w{n}")
    assert sorted((tmp_path / "ran").read_text().split()) == list("012345")


def test_output_never_blocks_a_workload_nor_fills_the_disk(driver, home):
    driver.launch(workload("w", "head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 199; echo; echo end"))
    assert ended(driver, "w", 60).reason == "Completed"
    folder = home.root / "cloud" / "workloads" / "w" / "log"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 80 * MIB
    assert list(driver.logs("w"))[-1].text == "end"


def test_a_signal_to_one_process_of_it_is_its_own_affair(driver):
    driver.launch(workload("w", "sleep 60 & wait $!; echo child gone"))
    seen = running(driver, "w")
    child = wait_until(lambda: [pid for pid in marked("w") if pid != seen.pid])[0]
    os.kill(child, signal.SIGKILL)
    assert ended(driver, "w").reason == "Completed"
