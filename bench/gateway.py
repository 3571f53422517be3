"""The gateway, one worker on one core, in front of a bare ASGI echo; nginx `proxy_pass` and a FastAPI + httpx proxy in the same place.

    python -m bench.gateway [--seconds 5] [--rounds 3] [--peers-python PATH]

Ours runs as shipped: token checked, requests limited per key, every request metered into the spool. Each proxy has one core for itself
(the first), echo and client share another. Per round, each server in turn: requests/s at full load (wrk, the better of 8 and 32
connections; where there is no wrk, closed clients of our own), latency at 500 requests/s from the moment each was due, and the age of
200 parts of a stream. Per server the best round counts, because others use this machine too; *added* is the difference to the echo
itself. A round whose steady load was below 80 % of the plan is void, and so is the whole if none is left. nginx: `apt install nginx`.
PATH: a Python with bench/peers/proxy.txt; without it such an environment is made in the user's cache.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from leptonai.cloud.gateway.table import (
    Access,
    Endpoint,
    Limits,
    Replica,
    Revision,
    Table,
    Token,
    hash_token,
    write_table,
)

from . import load
from .common import ROOT, save, show

TOKEN = "bench"
RATE, PARTS, ENOUGH = 500, 200, 0.8
CORES = sorted(os.sched_getaffinity(0))
PROXY, REST = {CORES[0]}, set(CORES[1:2] or CORES)
PEERS = ROOT / "bench" / "peers"
NGINX = """worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; {user}
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
upstream echo {{ server 127.0.0.1:{echo}; keepalive 64; keepalive_requests 1000000000; }} server {{ listen 127.0.0.1:{port};
location / {{ proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""


@dataclass
class Server:
    """One server under measure. `rate`: requests/s; `cpu_s`: its processor time per request then; times in ms, best rounds."""

    name: str
    port: int
    path: str
    pid: int
    rate: float = 0.0
    cpu_s: float = float("inf")
    p50_ms: float = float("inf")
    p95_ms: float = float("inf")
    age_ms: float = float("inf")
    void: list[str] = field(default_factory=list)

    def request(self, path: str = "") -> bytes:
        return load.request(self.path + path, TOKEN)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def process(command: list[str], port: int, cores: set[int]):
    """Run on these cores until the block ends; enter it when the port takes connections. Yields the pid."""
    child = subprocess.Popen(
        command, preexec_fn=lambda: os.sched_setaffinity(0, cores), env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} does not start") from None
                time.sleep(0.05)
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def peers_python(given: str | None) -> str | None:
    """The Python of the peers' environment, made in the cache if it is not there; None, with the reason, if that fails."""
    if given:
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lepton-bench" / "proxy"
    python = cache / "bin" / "python"
    try:
        if not (cache / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", cache], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", "-r", PEERS / "proxy.txt"], check=True)
            (cache / "complete").touch()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no FastAPI + httpx beside ours: {error}")
        return None
    return str(python)


def start_all(stack: ExitStack, folder: Path, python: str | None) -> dict[str, Server]:
    """The echo itself (`direct`) and the proxies in front of it."""
    echo = free_port()
    found: dict[str, Server] = {}

    def start(name: str, command: list[str], port: int, path: str, cores: set[int]) -> None:
        found[name] = Server(name, port, path, stack.enter_context(process(command, port, cores)))

    proxies = str(PEERS / "proxy.py")
    start("direct", [sys.executable, proxies, "echo", str(echo)], echo, "/", REST)
    revision = Revision("1", (Replica("echo", f"127.0.0.1:{echo}"),))
    access, limits = Access(tokens=(Token("bench", hash_token(TOKEN)),)), Limits(requests_per_minute=100_000_000)
    endpoint = Endpoint("ws", "echo", 1, (revision,), access, limits)
    write_table(folder / "routes.json", Table(version=1, endpoints=(endpoint,)))
    port = free_port()
    worker = [sys.executable, "-m", "leptonai.cloud.gateway.worker", "--folder", str(folder), "--port", str(port)]
    start("ours", worker, port, "/ws/echo/", PROXY)
    if nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, echo=echo, user=user))
        start("nginx", [nginx, "-c", str(folder / "nginx.conf")], port, "/", PROXY)
    else:
        print("no nginx beside ours: it is not installed")
    if python:
        port = free_port()
        start("fastapi", [python, proxies, "fastapi", str(port), str(echo)], port, "/", PROXY)
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children so far."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def full_load(server: Server, seconds: float) -> None:
    for connections in (8, 32):
        before = cpu_s(server.pid)
        count, took = (wrk if shutil.which("wrk") else closed_loop)(server, seconds, connections)
        server.rate = max(server.rate, count / took)
        server.cpu_s = min(server.cpu_s, (cpu_s(server.pid) - before) / count)


def wrk(server: Server, seconds: float, connections: int) -> tuple[int, float]:
    """(requests, seconds) as fast as they go."""
    seconds = max(1, round(seconds))  # it takes whole ones only
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Authorization: Bearer {TOKEN}"]
    command.append(f"http://127.0.0.1:{server.port}{server.path}")
    text = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, REST)
    ).stdout
    if "Non-2xx" in text:
        raise SystemExit(text)
    return int(re.search(r"(\d+) requests in", text)[1]), seconds


def closed_loop(server: Server, seconds: float, connections: int) -> tuple[int, float]:
    """The same where there is no wrk, by threads: slower than what they measure, so ratios come out too near to 1."""
    counts = [0] * connections
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        with load.connect(server.port) as connection:
            while time.monotonic() < end:
                connection.sendall(server.request())
                load.read_answer(connection)
                counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), seconds


def quantile_ms(values: list[float], q: float) -> float:
    return 1000 * sorted(values)[min(len(values) - 1, int(len(values) * q))]


def steady_load(server: Server, seconds: float) -> None:
    """500 requests/s; the round is void if fewer than 80 % were answered, or if the client itself could not keep the pace."""
    found = load.steady(server.port, server.request(), RATE, seconds)
    share, late_ms = len(found.latencies_s) / found.planned, quantile_ms(found.late_s, 0.95)
    print(
        f"  {server.name:8} {len(found.latencies_s)} of {found.planned} answered, p50 {quantile_ms(found.latencies_s, 0.5):.3f} ms, "
        f"p95 {quantile_ms(found.latencies_s, 0.95):.3f} ms; client: {100 * found.own_cpu_s / seconds:.0f} % of a core, "
        f"late p95 {late_ms:.3f} ms",
        flush=True,
    )
    if share < ENOUGH:
        server.void.append(f"{share:.0%} of the planned load")
        return
    server.p50_ms = min(server.p50_ms, quantile_ms(found.latencies_s, 0.5))
    server.p95_ms = min(server.p95_ms, quantile_ms(found.latencies_s, 0.95))


def measure(servers: dict[str, Server], seconds: float, rounds: int) -> None:
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for server in servers.values():
            full_load(server, seconds / 2)
        for server in servers.values():
            steady_load(server, seconds)
        for server in servers.values():
            found = load.ages(server.port, server.request("stream"), PARTS)
            server.age_ms = min(server.age_ms, quantile_ms(found, 0.99))


def rows(servers: dict[str, Server]) -> list[dict]:
    ours, direct = servers["ours"], servers["direct"]
    found: list[dict] = []
    for peer, target in (("nginx", 0.25), ("fastapi", 4.0)):
        if peer in servers:
            other = servers[peer]
            row = {"what": f"requests/s, one core, beside {peer}", "ours": ours.rate, "peer": other.rate}
            found.append(row | {"ratio": ours.rate / other.rate, "target": target, "unit": "1/s"})
            row = {
                "what": f"processor time per request, beside {peer}",
                "ours": 1e6 * ours.cpu_s,
                "peer": 1e6 * other.cpu_s,
            }
            found.append(row | {"ratio": other.cpu_s / ours.cpu_s, "target": target, "unit": "µs"})
    found.append({"what": "requests/s of the echo itself, which bounds them all", "ours": direct.rate, "unit": "1/s"})
    for name, text, target in (
        ("p50_ms", f"added p50 at {RATE} requests/s", 1.0),
        ("p95_ms", f"added p95 at {RATE} requests/s", 3.0),
        ("age_ms", "added age of a stream's part, p99", 1.0),
    ):
        row = {"what": text, "ours": getattr(ours, name) - getattr(direct, name), "target": target, "unit": "ms"}
        if "nginx" in servers:
            row["peer"] = getattr(servers["nginx"], name) - getattr(direct, name)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-python", help="Python of an environment with bench/peers/proxy.txt")
    arguments = parser.parse_args()
    python = peers_python(arguments.peers_python)
    os.sched_setaffinity(0, REST)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = start_all(stack, Path(folder), python)
        measure(servers, arguments.seconds, arguments.rounds)
    for server in servers.values():
        # A slow peer may not carry the steady load; what is measured beside it still counts.
        if server.name in ("ours", "direct") and len(server.void) == arguments.rounds:
            raise SystemExit(f"void: {server.name} had {', '.join(server.void)}")
    table = rows(servers)
    show(table)
    if len(CORES) < 2:
        print("one core only: client, echo and proxy share it, so nothing is kept")
        return
    save(
        "gateway",
        table,
        "proxy on one core, client and echo on another; best of the rounds. Peer of the added times: nginx.",
    )


if __name__ == "__main__":
    main()
