"""`lep chat` as a real process: over HTTP and in its own process, with its commands."""

import subprocess
import sys

COMMAND = [sys.executable, "-m", "leptonai.cli.main", "chat", "--max-tokens", "5", "--temperature", "0"]


def chat(*options: str, say: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *options], input=say, capture_output=True, text=True, errors="replace", timeout=60)


def test_a_conversation_with_a_server(server):
    done = chat("--url", server.url, say="Hello\nAnd?\n/reset\n/system Be kind.\nHello\n/bye\n")
    assert done.returncode == 0, done.stderr
    assert "Forgotten." in done.stdout
    assert done.stdout.startswith("byte. ")


def test_the_same_model_in_this_process_says_the_same(server, model):
    remote = chat("--url", server.url, "--prompt", "Hello")
    local = chat(str(model), "--prompt", "Hello")
    assert local.returncode == 0, local.stderr
    assert local.stdout == remote.stdout


def test_a_server_that_is_not_there_is_one_sentence():
    done = chat("--url", "http://127.0.0.1:9", "--prompt", "x")
    assert done.returncode == 8
    assert done.stderr.startswith("Error:")
    assert "Traceback" not in done.stderr
