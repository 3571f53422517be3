"""The engine is another process: it is killed for real, clients leave for real, and the server goes on."""

import asyncio
import json
import os
import signal
import threading

import httpx
import openai
import pytest

from .conftest import serving, wait_until

LONG = {"model": "byte", "prompt": "Hello", "max_tokens": 1900, "ignore_eos": True, "n": 16}


@pytest.fixture(scope="module")
def own(model):
    """A server of this file's own: it is hurt here."""
    with serving(
        model,
        "--name",
        "byte",
        "--max-num-seqs",
        "2",
        "--max-queue",
        "64",
        "--kv-cache-gb",
        "0.05",
        "--max-concurrency",
        "6",
    ) as server:
        yield server


def test_a_killed_engine_fails_only_what_was_in_it_and_comes_back(own):
    whole: dict = {}
    asking = threading.Thread(
        target=lambda: whole.update(answer=httpx.post(f"{own.url}/v1/completions", json=LONG, timeout=60))
    )
    with httpx.stream("POST", f"{own.url}/v1/completions", json={**LONG, "stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        asking.start()
        wait_until(lambda: own.metric("requests_waiting") == 30, "both requests in the engine")
        before = own.engine_pid()
        os.kill(before, signal.SIGKILL)
        events = [line for line in lines if line]
    assert "SIGKILL" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    assert "[DONE]" not in events[-1]
    asking.join()
    assert whole["answer"].status_code == 503
    assert whole["answer"].json()["error"]["code"] == "engine_unavailable"
    # Asked at once, while it starts again: answered when it has.
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key="x", max_retries=0) as client:
        assert client.completions.create(model="byte", prompt="Hello", max_tokens=4).usage.completion_tokens == 4
    assert own.engine_pid() != before
    assert own.metric("engine_restarts_total") == 1
    assert own.http.get("/health").json()["status"] == "ok"


def test_health_tells_that_the_engine_is_gone(own):
    os.kill(own.engine_pid(), signal.SIGKILL)
    gone = wait_until(lambda: (answer := own.http.get("/health")).status_code == 503 and answer, "health says 503")
    assert "SIGKILL" in gone.json()["reason"]
    assert own.http.get("/health/live").status_code == 200
    wait_until(lambda: own.http.get("/health").status_code == 200, "the engine is back")


def test_a_client_that_leaves_frees_its_tokens_at_once(own):
    with httpx.stream("POST", f"{own.url}/v1/completions", json={**LONG, "stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()  # kept: a dropped iterator closes the connection
        next(lines)
        wait_until(lambda: own.metric("requests_running") == 2, "the request in the engine")
    wait_until(lambda: own.metric("requests_running") == 0, "the engine let it go")
    assert own.metric("generated_tokens_total") < 16 * 1900
    assert own.metric("kv_blocks_used") == 0
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{own.url}/v1/completions", json=LONG, timeout=0.3)
    wait_until(lambda: own.metric("requests_running") == 0, "the engine let that one go too")


def test_more_than_fits_is_told_to_come_again(own):
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(base_url=own.url, timeout=60) as client:
            waiting = [asyncio.create_task(client.post("/v1/completions", json={**LONG, "n": 4})) for _ in range(6)]
            while own.metric("requests_active") < 7:  # they, and the one that asks for the metric
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/completions", json=LONG)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return refused

    refused = asyncio.run(ask())
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    wait_until(lambda: own.metric("requests_running") == 0, "all are let go")


def test_a_full_queue_is_told_to_come_again(own):
    answer = own.http.post("/v1/completions", json={**LONG, "n": 100})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    wait_until(lambda: own.metric("requests_running") == 0, "what had been let in is let go")


def test_a_model_that_is_none_is_said_in_one_sentence(tmp_path):
    import subprocess
    import sys

    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "leptonai.cli.main", "serve", f"llm:{tmp_path}", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stderr.startswith("Error:")
    assert "Traceback" not in done.stderr
