"""The gateway, one worker on one core, in front of a bare ASGI echo; nginx and a FastAPI + httpx proxy in the same place.

    python -m bench.gateway [--seconds 5] [--peers-python PATH]

Ours runs as shipped: token checked, requests limited per key, every request metered into the spool. wrk (or, where there is none, a
client of our own) and the echo share the other core. Three things: requests/s at full load, what the way through adds at 500
requests/s, and what it adds to the time between two parts of a stream. PATH: a Python with fastapi, httpx and uvicorn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
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

from .common import ROOT, save, show

TOKEN = "bench"
PROXY, REST = {0}, set(range(os.cpu_count() or 1)) - {0} or {0}
NGINX = """worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; user root;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
scgi_temp_path {folder}/s; upstream echo {{ server 127.0.0.1:{echo}; keepalive 64; }} server {{ listen 127.0.0.1:{port};
location / {{ proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def process(command: list[str], port: int, cores: set[int]):
    """Run on these cores until the block ends; enter it when the port takes connections."""
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
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def start_all(stack: ExitStack, folder: Path, peers_python: str | None) -> dict[str, tuple[int, str]]:
    """name: (port, path) of the echo itself (`direct`) and of the proxies in front of it."""
    echo = free_port()
    peers = str(ROOT / "bench" / "peers" / "proxy.py")
    stack.enter_context(process([sys.executable, peers, "echo", str(echo)], echo, REST))
    found = {"direct": (echo, "/")}
    replica = Revision("1", (Replica("echo", f"127.0.0.1:{echo}"),))
    limits = Limits(requests_per_minute=100_000_000)
    access = Access(tokens=(Token("bench", hash_token(TOKEN)),))
    write_table(
        folder / "routes.json", Table(version=1, endpoints=(Endpoint("ws", "echo", 1, (replica,), access, limits),))
    )
    ours = free_port()
    command = [sys.executable, "-m", "leptonai.cloud.gateway.worker", "--folder", str(folder), "--port", str(ours)]
    stack.enter_context(process(command, ours, PROXY))
    found["ours"] = ours, "/ws/echo/"
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx:
        port = free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, echo=echo))
        stack.enter_context(process([nginx, "-c", str(folder / "nginx.conf")], port, PROXY))
        found["nginx"] = port, "/"
    if peers_python:
        port = free_port()
        stack.enter_context(process([peers_python, peers, "fastapi", str(port), str(echo)], port, PROXY))
        found["fastapi"] = port, "/"
    return found


def head(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()


async def paced(port: int, path: str, rate: float, seconds: float, connections: int = 16) -> list[float]:
    """Latencies (s) of requests at a steady rate, from the moment that each was due."""
    due_at: asyncio.Queue[float | None] = asyncio.Queue()
    latencies: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (due := await due_at.get()) is not None:
            writer.write(head(path))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await reader.readexactly(int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            latencies.append(time.perf_counter() - due)
        writer.close()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    due = time.perf_counter() + 0.1
    for _ in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due_at.put_nowait(time.perf_counter())
        due += 1 / rate
    for _ in clients:
        due_at.put_nowait(None)
    await asyncio.gather(*clients)
    return latencies


def full_load(port: int, path: str, seconds: float) -> float:
    """Requests per second with 32 connections, by wrk; else by clients of our own, which are slower than what they measure."""
    wrk = shutil.which("wrk")
    if wrk:
        command = [
            wrk,
            "-t1",
            "-c32",
            f"-d{seconds:g}s",
            "-H",
            f"Authorization: Bearer {TOKEN}",
            f"http://127.0.0.1:{port}{path}",
        ]
        text = subprocess.run(
            command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, REST)
        ).stdout
        if "Non-2xx" in text:
            raise SystemExit(text)
        return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return asyncio.run(closed_loop(port, path, seconds))


async def closed_loop(port: int, path: str, seconds: float) -> float:
    end, count = time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(head(path))
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            count += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(32)))
    return count / seconds


async def stream_gaps(port: int, path: str, parts: int = 200) -> list[float]:
    """How old each part of a stream is when it arrives (s): it carries the moment at which it was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(path + "stream"))
    await reader.readuntil(b"\r\n\r\n")
    ages: list[float] = []
    while len(ages) < parts:  # a proxy may put two parts into one chunk
        size = int(await reader.readline(), 16)
        text = await reader.readexactly(size)
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        ages += [now - float(sent) for sent in text.split()]
        await reader.readexactly(2)
    writer.close()
    return ages


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def measure(ports: dict[str, tuple[int, str]], seconds: float) -> list[dict]:
    """Two turns of every server, alternating; the better one counts."""
    rates: dict[str, float] = {}
    paces: dict[str, list[float]] = {}
    ages: dict[str, list[float]] = {}
    for _ in range(2):
        for name, (port, path) in ports.items():
            rates[name] = max(rates.get(name, 0.0), full_load(port, path, seconds))
        for name, (port, path) in ports.items():
            found = asyncio.run(paced(port, path, 500, seconds))
            paces[name] = min(paces.get(name, found), found, key=lambda one: quantile(one, 0.95))
            found = asyncio.run(stream_gaps(port, path))
            ages[name] = min(ages.get(name, found), found, key=lambda one: quantile(one, 0.99))
    rows = []
    for peer, target in (("nginx", 0.25), ("fastapi", 4.0)):
        if peer in rates:
            row = {"what": f"requests/s, one core, beside {peer}", "ours": rates["ours"], "peer": rates[peer]}
            rows.append(row | {"ratio": rates["ours"] / rates[peer], "target": target, "unit": "1/s"})
    rows.append({"what": "requests/s of the echo itself", "ours": rates["direct"], "unit": "1/s"})
    for q, target in ((0.5, 1.0), (0.95, 3.0)):
        rows.append(added(f"added p{q * 100:g} at 500 requests/s", paces, q, target))
    rows.append(added("added age of a stream's part, p99", ages, 0.99, 1.0))
    return rows


def added(what: str, found: dict[str, list[float]], q: float, target: float) -> dict:
    more = {name: 1000 * (quantile(values, q) - quantile(found["direct"], q)) for name, values in found.items()}
    row = {"what": what, "ours": more["ours"], "target": target, "unit": "ms"}
    return row | ({"peer": more["nginx"]} if "nginx" in more else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peers-python", help="Python of an environment with FastAPI, httpx and uvicorn")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, REST)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        rows = measure(start_all(stack, Path(folder), arguments.peers_python), arguments.seconds)
    show(rows)
    save("gateway", rows, "proxy on one core; client and echo share the other. Peer of the added times: nginx.")


if __name__ == "__main__":
    main()
