"""The engines that are compared: each is started on a checkpoint, asked over HTTP or in its own process, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ..common import ROOT

THREADS = "2"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A server: its port, and what its processes use."""

    def __init__(self, process: subprocess.Popen, port: int, started_s: float):
        self.process, self.port, self.started_s = process, port, started_s

    def tree(self) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def peak_bytes(self) -> int:
        """Sum over the process tree of the most that each ever held."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
        return total

    def front_cpu_s(self) -> float:
        """Processor seconds of the server's own process, without its engine's."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server(
    command: list[str], port: int, environment: dict[str, str] | None = None, wait_s: float = 300
) -> Iterator[Running]:
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": THREADS, **(environment or {})},
            cwd=ROOT,
        )
        try:
            while True:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer,
                ):
                    if answer.status == 200:
                        break
                if process.poll() is not None or time.perf_counter() - begin > wait_s:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} did not start: {log.read()[-2000:].decode('utf-8', 'replace')}")
                time.sleep(0.01)
            yield Running(process, port, time.perf_counter() - begin)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def lepton(checkpoint: Path, bits: str, *options: str):
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "leptonai.cli.main",
        "serve",
        f"llm:{checkpoint}",
        "--port",
        str(port),
        "--name",
        "bench",
        "--max-num-seqs",
        "32",
    ]
    command += ["--quantization", bits] if bits != "bf16" else []
    return server([*command, *options], port, {"PYTHONPATH": str(ROOT / "src")})


def llama_cpp(binary: Path, gguf: Path, slots: int, context: int):
    port = free_port()
    command = [
        str(binary),
        "-m",
        str(gguf),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-c",
        str(context * slots),
        "-np",
        str(slots),
        "-t",
        THREADS,
    ]
    return server([*command, "--no-webui", "--no-cache-prompt"], port)


def script(python: Path | str, name: str, *arguments: str) -> dict:
    """Run a peer that is a library in its own environment; its last line is JSON."""
    command = [str(python), str(Path(__file__).parent / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": THREADS})
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
