"""Model servers on one core, the same model and the same client (wrk, on the other core): ours, four peers, and a bare ASGI echo.

    python -m bench.serve [--quick] [--seconds 3] [--only noop resnet tensor] [--peers-home FOLDER]

noop: a handler that returns its number, validation and metrics on. resnet: ResNet-20, one picture a request, in JSON, batched where the
server can (FastAPI: not). tensor: 1 MB of float32, as Open Inference Protocol binary and as JSON. Servers take turns, and those that
wait are stopped (SIGSTOP), so an idle one takes no time; the better of two turns counts. Ours runs as shipped, every request logged.
Each peer has an environment of its own (bench/peers/serve-*.txt), made in the user's cache the first time; torch is ours for all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .common import DATA, ROOT, save, show

PEERS = ROOT / "bench" / "peers"
CORE, CLIENT = {0}, set(range(os.cpu_count() or 1)) - {0} or {0}
WEIGHTS = DATA / "models" / "resnet-cifar10" / "resnet20.safetensors"
WIDTH = 262_144


@dataclass
class Server:
    name: str
    port: int
    path: str
    process: subprocess.Popen
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def pids(self) -> list[int]:
        """The processes of its group."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                if os.getpgid(int(entry.name)) == self.process.pid:
                    found.append(int(entry.name))
        return found

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Proportional set size of all its processes."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                total += int(found[1]) if found else 0
        return total / 1024


def free_port() -> int:
    """A port that is free, with room for the two that MLServer wants above it."""
    with socket.socket() as free:
        while True:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            if port < 60_000:
                return port
            free.close()
            free = socket.socket()


def peer_python(name: str, home: Path) -> str:
    """The Python of a peer's environment; torch and safetensors come from ours, so that all run the same ones."""
    folder = home / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", PEERS / f"serve-{name}.txt"], check=True)
        (folder / "complete").touch()
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    Path(packages.stdout.strip(), "zz_shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


@contextmanager
def running(
    name: str,
    command: list[str],
    path: str,
    body: bytes,
    headers: dict[str, str] | None = None,
    port: int = 0,
    home: str = "",
):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LEPTON_HOME": home, "PYTHONPATH": str(ROOT / "src")}
    log = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=tempfile.gettempdir(),
        preexec_fn=lambda: os.sched_setaffinity(0, CORE),
    )  # fmt: skip
    server = Server(name, port, path, process, body)
    server.headers |= headers or {}
    try:
        _until_it_answers(server, log)
        server.signal(signal.SIGSTOP)
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(3)
        server.signal(signal.SIGKILL)
        process.wait()


def _until_it_answers(server: Server, log) -> None:
    import http.client

    deadline = time.monotonic() + 90
    while True:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request("POST", server.path, server.body, server.headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return
            if answer.status < 500 and answer.status not in (404, 429):
                raise SystemExit(f"{server.name} answers {answer.status}: {text[:300]!r}")
        if server.process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise SystemExit(f"{server.name} does not start: {log.read()[-2000:].decode(errors='replace')}")
        time.sleep(0.1)


def load(server: Server, concurrency: int, seconds: float, folder: Path) -> dict[str, float]:
    """One turn of wrk: requests/s, latencies in ms, CPU ms per request; answers that are not 200 void it."""
    (folder / "body").write_bytes(server.body)
    lines = ['wrk.method = "POST"', f'local file = io.open("{folder}/body", "rb")', 'wrk.body = file:read("*a")']
    lines += [f'wrk.headers["{key}"] = "{value}"' for key, value in server.headers.items()]
    lines.append(
        "done = function(summary, latency, requests) io.write(string.format('RESULT %d %d %f %f %f %d\\n', summary.requests, "
        "summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99), "
        "summary.errors.status + summary.errors.read + summary.errors.timeout)) end"
    )
    (folder / "load.lua").write_text("\n".join(lines))
    url = f"http://127.0.0.1:{server.port}{server.path}"
    wrk = ["wrk", "-t1", f"-c{concurrency}", "--timeout", "30s", "-s", str(folder / "load.lua")]
    server.signal(signal.SIGCONT)
    try:
        _wrk([*wrk, "-d1s", url])
        before = server.cpu_s()
        found = _wrk([*wrk, f"-d{seconds:g}s", url])
        used = server.cpu_s() - before
        memory = server.memory_mb()
    finally:
        server.signal(signal.SIGSTOP)
    requests, duration, p50, p95, p99, errors = found
    if errors or not requests:
        raise SystemExit(f"{server.name}: {errors:.0f} of {requests:.0f} requests failed")
    times = {"p50": p50 / 1000, "p95": p95 / 1000, "p99": p99 / 1000}
    return {"rate": requests / (duration / 1e6), **times, "cpu_ms": 1000 * used / requests, "memory": memory}


def _wrk(command: list[str]) -> list[float]:
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, CLIENT))
    found = re.search(r"RESULT (.*)", done.stdout)
    if not found:
        raise SystemExit(f"wrk: {done.stdout[-500:]} {done.stderr[-500:]}")
    return [float(part) for part in found[1].split()]


def turns(
    servers: list[Server], concurrency: int, seconds: float, folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Every server's better turn, the turns interleaved."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for server in servers:
            found = load(server, concurrency, seconds, folder)
            if server.name not in best or found["rate"] > best[server.name]["rate"]:
                best[server.name] = found
    return best


def rows_of(what: str, found: dict[str, dict[str, float]], targets: dict[str, float] | None = None) -> list[dict]:
    """One row for each peer: requests/s and the ratio; then ours in full."""
    rows = []
    for name, other in found.items():
        if name != "ours":
            row = {
                "what": f"{what}, beside {name}",
                "ours": found["ours"]["rate"],
                "peer": other["rate"],
                "unit": "1/s",
            }
            row["ratio"] = found["ours"]["rate"] / other["rate"]
            if targets and name in targets:
                row["target"] = targets[name]
            row |= {
                "p50 ms": f"{found['ours']['p50']:.2f} / {other['p50']:.2f}",
                "p99 ms": f"{found['ours']['p99']:.1f} / {other['p99']:.1f}",
            }
            row |= {
                "CPU ms": f"{found['ours']['cpu_ms']:.3f} / {other['cpu_ms']:.3f}",
                "MB": f"{found['ours']['memory']:.0f} / {other['memory']:.0f}",
            }
            rows.append(row)
    return rows


def noop(stack: ExitStack, options: argparse.Namespace, folder: Path) -> list[dict]:
    v2 = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}).encode()
    servers = [_photon(stack, folder), _peer(stack, "echo", "noop", b'{"x":1}', options)]
    for name in ("fastapi", "mlserver", "litserve", "bentoml"):
        servers.append(_peer(stack, name, "noop", v2 if name == "mlserver" else b'{"x":1}', options))
    found = turns(servers, 32, options.seconds, folder, options.rounds)
    rows = rows_of("no-op, 32 clients", found, {"echo": 0.5, "mlserver": 5, "litserve": 15, "bentoml": 15})
    alone = turns(servers[:2], 1, options.seconds, folder, options.rounds)
    added = alone["ours"]["p50"] - alone["echo"]["p50"]
    rows.append({"what": "no-op, added p50 over the echo, 1 client", "ours": added, "target": 0.35, "unit": "ms"})
    return rows


def resnet(stack: ExitStack, options: argparse.Namespace, folder: Path) -> list[dict]:
    picture = np.random.default_rng(0).uniform(0, 1, (3, 32, 32)).round(3)
    body = json.dumps({"x": picture.tolist()}).encode()
    described = {"name": "x", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": picture.reshape(-1).tolist()}
    bodies = {
        "mlserver": json.dumps({"inputs": [described]}).encode(),
        "bentoml": json.dumps({"x": [picture.tolist()]}).encode(),
    }
    program = _exported(folder, "resnet20", resnet=True)
    servers = [_ours(stack, program, folder, "/predict", body)]
    servers += [
        _peer(stack, name, "resnet", bodies.get(name, body), options)
        for name in ("fastapi", "mlserver", "litserve", "bentoml")
    ]
    rows = []
    for clients in (1, 8, 32):
        found = turns(servers, clients, options.seconds, folder, options.rounds)
        best = max(one["rate"] for name, one in found.items() if name != "ours")
        targets = {name: 1.3 for name, one in found.items() if clients > 1 and one["rate"] == best}
        rows += rows_of(f"ResNet-20, {clients} clients", found, targets)
        if clients == 1:
            ours, peer = found["ours"]["p50"], found["fastapi"]["p50"]
            rows.append(
                {
                    "what": "ResNet-20, p50, 1 client, beside fastapi",
                    "ours": ours,
                    "peer": peer,
                    "ratio": ours / peer,
                    "target": 1.0,
                    "unit": "ms",
                }
            )
    return rows


def tensor(stack: ExitStack, options: argparse.Namespace, folder: Path) -> list[dict]:
    values = np.random.default_rng(0).uniform(0, 1, WIDTH).astype(np.float32)
    described = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32"}
    plain = json.dumps({"inputs": [{**described, "data": values.tolist()}]}).encode()
    head = json.dumps(
        {
            "inputs": [{**described, "parameters": {"binary_data_size": values.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    binary = {"content-type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    program = _exported(folder, "sums", resnet=False)
    ours = _ours(stack, program, folder, "/v2/models/sums/infer", head + values.tobytes(), binary)
    as_json = Server("ours, JSON", ours.port, ours.path, ours.process, plain)
    peer = _peer(stack, "mlserver", "tensor", head + values.tobytes(), options, binary)
    found = turns([ours, as_json, peer], 4, options.seconds, folder, options.rounds)
    return rows_of("1 MB tensor, OIP binary, 4 clients", found, {"ours, JSON": 5, "mlserver": 2})


def _exported(folder: Path, name: str, *, resnet: bool) -> Path:
    import torch

    sys.path.insert(0, str(PEERS))
    from resnet20 import load as load_network

    class Sum(torch.nn.Module):
        def forward(self, x):
            return x.sum(1)

    network = load_network(str(WEIGHTS) if WEIGHTS.exists() else "") if resnet else Sum()
    x = torch.rand(4, 3, 32, 32) if resnet else torch.rand(4, WIDTH)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, folder / f"{name}.pt2")
    return folder / f"{name}.pt2"


def _ours(
    stack: ExitStack, program: Path, folder: Path, path: str, body: bytes, headers: dict[str, str] | None = None
) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "leptonai.cli.main", "serve", str(program), "--port", str(port)]
    return stack.enter_context(running("ours", command, path, body, headers, port, str(folder / "home")))


def _photon(stack: ExitStack, folder: Path) -> Server:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "leptonai.cli.main",
        "photon",
        "runlocal",
        "-m",
        f"{PEERS / 'noop_photon.py'}:Noop",
        "--port",
        str(port),
    ]
    return stack.enter_context(running("ours", command, "/predict", b'{"x":1}', None, port, str(folder / "home")))


def _peer(
    stack: ExitStack,
    name: str,
    what: str,
    body: bytes,
    options: argparse.Namespace,
    headers: dict[str, str] | None = None,
) -> Server:
    port = free_port()
    python = sys.executable if name == "echo" else peer_python(name, options.peers_home)
    path = "/v2/models/peer/infer" if name == "mlserver" else "/predict"
    command = [python, str(PEERS / "serve.py"), name, what, str(port), str(WEIGHTS) if WEIGHTS.exists() else ""]
    return stack.enter_context(running(name, command, path, body, headers, port))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lepton-bench" / "serve"
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--quick", action="store_true", help="one round of 1 s: says whether it works, not how fast; nothing is kept"
    )
    parser.add_argument("--only", nargs="+", choices=("noop", "resnet", "tensor"), default=("noop", "resnet", "tensor"))
    parser.add_argument("--peers-home", type=Path, default=cache, help="where the environments of the peers are")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else 2
    options.seconds = 1.0 if options.quick else options.seconds
    if not shutil.which("wrk"):
        raise SystemExit("this needs wrk (apt-get install wrk)")
    rows = []
    for part in (noop, resnet, tensor):
        if part.__name__ in options.only:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                found = part(stack, options, Path(folder))
            show(found)
            rows += found
    if not options.quick:
        save(
            "serve",
            rows,
            "server on one core, wrk on the other; columns with / are ours / peer; MB is the proportional set size.",
        )


if __name__ == "__main__":
    main()
