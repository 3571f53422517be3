"""Real processes: signals, a killed worker, Remote, and every example of the repository."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from leptonai.photon import Photon
from leptonai.photon.remote import Remote

from .conftest import ROOT, wait_for

EXAMPLES = ROOT / "examples" / "photon"


def test_counter(process):
    url, _ = process("photon", "runlocal", "-m", f"{EXAMPLES}/counter.py:Counter", "-p", 0)
    assert [httpx.post(f"{url}/add", json={"x": 2}).json() for _ in range(2)] == [2, 4]
    assert httpx.post(f"{url}/sub", json={"x": 1}).json() == 3


def test_extra_files(process, tmp_path):
    url, _ = process("photon", "runlocal", "-m", EXAMPLES / "extra_files.py", "-p", 0, cwd=tmp_path)
    assert httpx.post(f"{url}/greet", json={"language": "fr"}).json() == "Bonjour"


def test_batched_embedding(process):
    url, _ = process("photon", "runlocal", "-m", EXAMPLES / "batched_embedding.py", "-p", 0)
    with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=url) as client:
        found = list(pool.map(lambda n: client.post("/embed", json={"text": f"text {n % 2}"}).json(), range(16)))
    assert max(one["batch"] for one in found) > 1
    assert found[0]["embedding"] == found[2]["embedding"] != found[1]["embedding"]


def test_streaming_chat(process):
    url, _ = process("photon", "runlocal", "-m", EXAMPLES / "streaming_chat.py", "-p", 0)
    arrived = []
    with httpx.stream("POST", f"{url}/chat", json={"messages": [{"role": "user", "content": "one two"}]}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                arrived.append((time.monotonic(), line))
    assert [line for _, line in arrived][-2:] == ['data: {"delta": "two"}', "data: [DONE]"]
    assert arrived[0][0] < arrived[-1][0]  # in pieces, not at the end


def test_static_site(process):
    url, _ = process("photon", "runlocal", "-m", EXAMPLES / "static_site.py", "-p", 0)
    assert "Served by a photon" in httpx.get(f"{url}/site/").text
    assert httpx.get(f"{url}/visitors", params={"page": "x"}).json() == {"page": "x"}


def test_background_worker(process):
    url, _ = process("photon", "runlocal", "-m", EXAMPLES / "background_worker.py", "-p", 0)
    task = httpx.post(f"{url}/task", json={"payload": {"below": 1000}}).json()["task_id"]
    wait_for(lambda: httpx.get(f"{url}/task/{task}").json()["status"] == "SUCCESS")
    assert httpx.get(f"{url}/task/{task}").json()["result"] == 168
    bad = httpx.post(f"{url}/task", json={"payload": {}}).json()["task_id"]
    wait_for(lambda: httpx.get(f"{url}/task/{bad}").json()["status"] == "FAILED")
    assert httpx.get(f"{url}/task/none").status_code == 404


CRASHING = """
import os
from leptonai.photon.worker import Worker

class Crashing(Worker):
    queue_empty_sleep_time = 0.02
    lease_s = 0.6

    def on_task(self, task_id, payload):
        if not os.path.exists("died"):
            open("died", "w").close()
            os.kill(os.getpid(), 9)
        return payload * 2
"""


def test_a_task_whose_worker_was_killed_is_done_by_the_next(process, tmp_path):
    (tmp_path / "crashing.py").write_text(CRASHING)
    url, first = process("photon", "runlocal", "-m", "crashing.py", "-p", 0, cwd=tmp_path)
    task = httpx.post(f"{url}/task", json={"payload": 21}).json()["task_id"]
    assert first.wait(10) == -signal.SIGKILL
    url, _ = process("photon", "runlocal", "-m", "crashing.py", "-p", 0, cwd=tmp_path)
    wait_for(lambda: httpx.get(f"{url}/task/{task}").json()["status"] == "SUCCESS")
    assert httpx.get(f"{url}/task/{task}").json() == {"task_id": task, "status": "SUCCESS", "result": 42, "attempt": 2}


ENDING = """
import time
from leptonai.photon import Photon

class Ending(Photon):
    incoming_traffic_grace_period = 0.5
    handler_max_concurrency = 4

    @Photon.handler
    def work(self, seconds: float):
        time.sleep(seconds)
        return "done"
"""


def test_sigterm_drains_and_sigint_ends(process, tmp_path):
    (tmp_path / "ending.py").write_text(ENDING)
    url, one = process("photon", "runlocal", "-m", "ending.py", "-p", 0, cwd=tmp_path)
    with ThreadPoolExecutor(2) as pool, httpx.Client() as other:
        waiting = pool.submit(httpx.post, f"{url}/work", json={"seconds": 1.2}, timeout=10)
        wait_for(lambda: other.get(f"{url}/queue-length").json() == 1)
        one.send_signal(signal.SIGTERM)
        assert httpx.post(f"{url}/work", json={"seconds": 0}).json() == "done"  # new traffic, for the grace period
        assert waiting.result().json() == "done"
    assert one.wait(10) == 0
    _, two = process("photon", "runlocal", "-m", "ending.py", "-p", 0, cwd=tmp_path)
    two.send_signal(signal.SIGINT)
    assert two.wait(10) == 0


def test_a_second_sigterm_forces(process, tmp_path):
    (tmp_path / "ending.py").write_text(ENDING.replace("0.5", "60"))
    url, one = process("photon", "runlocal", "-m", "ending.py", "-p", 0, cwd=tmp_path)
    one.send_signal(signal.SIGTERM)
    assert httpx.get(f"{url}/healthz").status_code == 200
    one.send_signal(signal.SIGTERM)
    assert one.wait(10) == 0


class Doubling(Photon):
    @Photon.handler
    def double(self, x: int) -> int:
        return 2 * x


def test_remote_is_a_process_here_without_a_server():
    with Remote(f"{EXAMPLES}/counter.py:Counter") as remote:
        assert remote.add(x=3) == 3
        process = remote._process
    assert process.poll() is not None


def test_a_model_of_the_zoo_by_its_string(process, zoo):
    url, _ = process("photon", "runlocal", "-n", "digits", "-m", "zoo:digits@1", "-p", 0, LEPTON_HOME=str(zoo.root))
    assert httpx.get(f"{url}/model").json()["model"] == "digits@1"


STORIES = ROOT.parent / "shared/data/models/stories260k/hf"


@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/data/models is not here")
def test_a_language_model_by_its_string(process):
    url, one = process("photon", "runlocal", "-n", "tiny", "-m", f"llm:{STORIES}", "-p", 0)
    answer = httpx.post(
        f"{url}/v1/completions", json={"model": "tiny", "prompt": "Once upon a time", "max_tokens": 8}, timeout=30
    )
    assert answer.json()["choices"][0]["text"].strip()
    one.send_signal(signal.SIGINT)
    assert one.wait(20) == 0


def test_an_error_at_start_is_said(tmp_path):
    import subprocess
    import sys

    (tmp_path / "bad.py").write_text(ENDING + "\n    def init(self):\n        raise ValueError('no weights here')\n")
    command = [sys.executable, "-m", "leptonai.cli.main", "photon", "runlocal", "-m", "bad.py", "-p", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "no weights here" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["runlocal"], ["create", "-n", "x"], ["runlocal", "-m", "nothing.py"], ["metadata", "-n", "none"]]
)
def test_mistakes_are_sentences(arguments):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "leptonai.cli.main", "photon", *arguments], capture_output=True, text=True
    )
    assert done.returncode and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
