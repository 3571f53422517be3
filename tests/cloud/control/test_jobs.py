"""Jobs from the spec to the end, with real workers."""

import time

import pytest

from leptonai.cloud.accounts.vault import put_secret
from leptonai.cloud.control import jobs
from leptonai.cloud.control.context import files_of

from .conftest import wait_until


def test_a_job_with_several_workers(plane):
    script = (
        "echo $LEPTON_JOB_NAME $LEPTON_JOB_WORKER_INDEX/$LEPTON_JOB_TOTAL_WORKERS $LEPTON_WORKSPACE_ID $MASTER_PORT"
    )
    plane.job("train", script, completions=3, parallelism=3)
    status = plane.wait("train", "Completed").status
    assert (status["succeeded"], status.get("failed", 0), status.get("active", 0)) == (3, 0, 0)
    assert [replica["id"] for replica in status["replicas"]] == ["train-0", "train-1", "train-2"]
    assert status["creation_time"] <= status["completion_time"]
    lines = [plane.log("train", n).split() for n in range(3)]
    assert [line[1] for line in lines] == ["0/3", "1/3", "2/3"]
    assert len({line[3] for line in lines}) == 1 and lines[0][2] == "default"
    assert plane.events("train") == ["Queued", "Completed"]


def test_a_failure_says_why(plane):
    plane.job("broken", "exit 3")
    status = plane.wait("broken", "Failed").status
    assert status["message"] == "worker 0: it ended with exit code 3"
    assert [(t["exit_code"], t["reason"]) for t in status["terminations"]] == [(3, "Error")]
    assert "Failed" in plane.events("broken")


def test_one_failed_worker_ends_the_others(plane):
    script = "if [ $LEPTON_JOB_WORKER_INDEX = 1 ]; then sleep 0.3; exit 5; else sleep 1000; fi"
    plane.job("pair", script, completions=3, parallelism=3)
    status = plane.wait("pair", "Failed").status
    assert status["message"] == "worker 1: it ended with exit code 5"
    assert sorted(t["reason"] for t in status["terminations"]) == ["Error", "Stopped", "Stopped"]


def test_a_worker_is_started_again(plane, tmp_path):
    script = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) = 3 ]"
    plane.job("flaky", script, max_failure_retry=2)
    status = plane.wait("flaky", "Completed").status
    assert (status["succeeded"], status["failed"]) == (1, 2)
    assert [replica["id"] for replica in status["replicas"]] == ["flaky-0-a1r2", "flaky-0-a1r1", "flaky-0"]


def test_a_whole_job_is_started_again_and_knows_how_often(plane):
    plane.job("again", "echo $LEPTON_JOB_FAILURE_COUNT; [ $LEPTON_JOB_FAILURE_COUNT = 1 ]", max_job_failure_retry=1)
    plane.wait("again", "PendingRetry")
    status = plane.wait("again", "Completed").status
    assert [(attempt["job_name"], attempt["state"]) for attempt in status["job_history"]] == [
        ("again-a1", "Failed"),
        ("again-a2", "Completed"),
    ]
    assert plane.log("again") == "1\n"


def test_stop_and_start(plane, tmp_path):
    plane.job("long", f"echo x >> {tmp_path}/starts; sleep 1000", completions=2, parallelism=2)
    plane.wait("long", "Running")
    plane.change("long", stopped=True)
    status = plane.wait("long", "Stopped").status
    assert [t["reason"] for t in status["terminations"]] == ["Stopped", "Stopped"]
    plane.change("long", stopped=False)
    plane.wait("long", "Running")
    wait_until(lambda: len((tmp_path / "starts").read_text().split()) == 4)
    plane.change("long", stopped=True)
    plane.wait("long", "Stopped")


def test_restart_of_a_running_job(plane):
    plane.job("long", "sleep 1000")
    first = plane.wait("long", "Running").status["replicas"][0]["workload"]
    plane.change("long", restarted=1)
    wait_until(lambda: (job := plane.get("long")).state == "Running" and job.status["replicas"][0]["workload"] != first)
    assert "Restarted" in plane.events("long")


def test_time_limit_is_the_end(plane):
    plane.job("slow", "sleep 1000", time_limit_s=1, max_job_failure_retry=5)
    status = plane.wait("slow", "Failed").status
    assert "longer than its limit of 1 s" in status["message"]


def test_start_at(plane):
    at = round(time.time() * 1000) + 1500
    plane.job("later", "true", time_schedule={"start_at": at})
    plane.wait("later", "Awaiting")
    status = plane.wait("later", "Completed").status
    assert status["replicas"][0]["created_at"] >= at - 5


def test_an_ended_job_moves_to_the_archive_and_keeps_its_log(plane):
    plane.job("short", "echo words", ttl_seconds_after_finished=1)
    plane.wait("short", "Completed")

    def archived():
        with plane.context.store.reading() as tx:
            return tx.list("job", "default", deleted=True)

    (job,) = wait_until(archived)
    with plane.context.store.reading() as tx:
        assert [event.reason for event in tx.events(job)] == ["Queued", "Completed", "Archived"]
    assert job.state == "Completed" and job.status["succeeded"] == 1
    workload = job.status["replicas"][0]["workload"]
    assert "".join(map(str, plane.context.driver.logs(workload))) == "words\n"


def test_a_removed_job_is_stopped_and_kept_in_the_archive_until_it_is_time(plane, monkeypatch):
    job = plane.job("gone", "echo words; sleep 1000", completions=2, parallelism=2)
    plane.wait("gone", "Running")
    plane.delete("gone")
    plane.job("gone", "true")  # the name is free at once
    plane.wait("gone", "Completed")

    def old():
        with plane.context.store.reading() as tx:
            return tx.by_uid(job.uid)

    wait_until(lambda: old().state == "Stopped")
    mine = [seen for seen in plane.context.driver.observe().values() if seen.labels["uid"] == job.uid]
    assert len(mine) == 2 and all(seen.reason == "Stopped" for seen in mine)
    with plane.context.store.transaction() as tx:  # nobody starts it again
        tx.set_spec(old(), {**old().spec, "stopped": False})
    time.sleep(0.5)
    assert old().state == "Stopped"

    monkeypatch.setattr(jobs, "ARCHIVE_S", 0)
    plane.loop.wake(job.uid)
    wait_until(lambda: old() is None)
    assert all(seen.labels["uid"] != job.uid for seen in plane.context.driver.observe().values())


def test_records_of_a_job_that_was_purged_go_too(plane):
    job = plane.job("purged", "true")
    plane.wait("purged", "Completed")
    with plane.context.store.transaction() as tx:
        tx.purge(tx.by_uid(job.uid))
    plane.loop.wake(job.uid)
    wait_until(lambda: plane.context.driver.observe() == {})


def test_the_queue_is_by_priority(plane):
    plane.job("first", "sleep 1", resource_shape="cpu.xlarge")
    plane.wait("first", "Running")
    for name in ("low-1000", "high-9000", "mid-5000"):
        plane.job(name, "true", resource_shape="cpu.xlarge", queue_config={"priority_class": name})
    plane.wait("high-9000", "Queueing", "Completed")
    jobs = [plane.wait(name, "Completed") for name in ("high-9000", "mid-5000", "low-1000")]
    times = [job.status["completion_time"] for job in jobs]
    assert times == sorted(times)


def test_preemption_starts_again_when_there_is_room(plane):
    queue = {"priority_class": "low-1000", "can_be_preempted": True}
    plane.job("low", "sleep 2", resource_shape="cpu.xlarge", queue_config=queue)
    plane.wait("low", "Running")
    vip = {"priority_class": "high-9000", "can_preempt": True}
    plane.job("vip", "sleep 0.3", resource_shape="cpu.xlarge", queue_config=vip)
    plane.wait("vip", "Completed")
    status = plane.wait("low", "Completed").status
    assert len(status["job_history"]) == 2 and status["details"].get("failures", 0) == 0
    assert "Preempted" in plane.events("low")


def test_secrets_and_values_in_the_environment(plane):
    with plane.context.store.transaction() as tx:
        tx.create("secret", "default", "KEY", {"owner": "system"})
        put_secret(tx.connection, plane.context.vault, "default", "KEY", "opened")
    envs = [{"name": "A", "value": "1"}, {"name": "B", "value_from": {"secret_name_ref": "KEY"}}]
    plane.job("env", "echo $A $B", envs=envs)
    plane.wait("env", "Completed")
    assert plane.log("env") == "1 opened\n"


def test_files_of_the_workspace_are_mounted(plane, home):
    (files_of(home, "default") / "data").mkdir()
    (files_of(home, "default") / "data" / "x").write_text("content\n")
    mounts = [{"path": "/data", "from": "node-local", "mount_path": "/mnt/data"}]
    plane.job("reads", "cat mnt/data/x; echo back > mnt/data/y", mounts=mounts)
    plane.wait("reads", "Completed")
    assert plane.log("reads") == "content\n"
    assert (files_of(home, "default") / "data" / "y").read_text() == "back\n"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"resource_shape": "gpu.enormous"}, "no resource shape 'gpu.enormous'"),
        ({"resource_shape": "cpu.xlarge", "completions": 3, "parallelism": 3}, "more than this machine has"),
        ({"envs": [{"name": "X", "value_from": {"secret_name_ref": "none"}}]}, "no secret 'none'"),
        ({"container": {"image": "host"}}, "has no command"),
        ({"mounts": [{"path": "/../../cloud", "from": "node-local", "mount_path": "/x"}]}, "leads out of its folder"),
    ],
)
def test_what_cannot_be_had_ends_with_a_sentence(plane, spec, words):
    plane.job("wrong", "true", **spec)
    status = plane.wait("wrong", "Failed").status
    assert words in status["message"]
    assert "ConfigError" in plane.events("wrong")


def test_a_gang_is_never_half_started(plane):
    """Two gangs that both need more than half of the machine: one runs whole while the other waits whole."""
    shape = {"resource_shape": "cpu.medium", "completions": 3, "parallelism": 3}
    for name in ("one", "two", "three"):
        plane.job(name, "sleep 0.5", **shape)
    seen_states = set()

    def over():
        alive = {}
        for seen in plane.context.driver.observe().values():
            alive.setdefault(seen.labels["uid"], []).append(seen.state)
        for states in alive.values():
            started = [state != "queued" for state in states]
            seen_states.update(states)
            assert all(started) or not any(started) or len(states) < 3
        return all(plane.state(name) == "Completed" for name in ("one", "two", "three"))

    wait_until(over, 60)
    assert {"queued", "running"} <= seen_states


def test_a_job_whose_parallelism_is_less_runs_a_few_at_a_time(plane, tmp_path):
    script = f"echo + >> {tmp_path}/n; sleep 0.2; echo - >> {tmp_path}/n"
    plane.job("sweep", script, completions=5, parallelism=2)
    assert plane.wait("sweep", "Completed").status["succeeded"] == 5
    running = most = 0
    for sign in (tmp_path / "n").read_text().split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most == 2
