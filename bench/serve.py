"""Requests per second and latency of POST /predict: a CNN on 8×8 digits, one picture per request, kept connections.

    python -m bench.serve [--seconds 5] [--concurrency 1 8 32] [--peers-python PATH]

Ours runs as shipped: rows checked, batches by backpressure, every request committed to the log before its answer. Beside it the same
model behind FastAPI (validated by pydantic, no log), in an environment of its own that also has what Lepton needs to load the model:

    python -m venv PEERS && PEERS/bin/pip install -e '.[serve]' -r bench/peers/serve.txt

and the limit: a bare ASGI app on the same uvicorn that reads the body and answers a constant. Ours, peer and limit alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from leptonai.base.home import Home
from leptonai.data.importing import import_data
from leptonai.photon.process import start_service
from leptonai.tasks.image_classification import ImageClassification
from leptonai.tasks.model import Model, network_manifest, signature
from leptonai.zoo.manifest import Manifest
from leptonai.zoo.store import ModelStore

from .common import ROOT, save, show

WARM_S = 1.0


def publish(home: Home) -> Path:
    """A CNN for digits. Its weights are random: they decide what it answers, not how fast."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)[..., None]
    data = import_data("digits", {"image": images, "label": digits.target}, types={"image": "image"}, home=home)
    task = ImageClassification.plan(data, "label", None)
    task.fit(data.columns(), np.arange(data.num_rows))
    network = task.build("cnn", {})
    manifest = Manifest(
        task=task.name, task_state=task.state(), network=network_manifest(network), signature=signature(task)
    )
    folder = Model(task, network, manifest).save(home.root / "model")
    return ModelStore(home).push(folder, "digits").folder


async def load(port: int, body: bytes, concurrency: int, seconds: float) -> list[float]:
    """Latencies (s) of the requests that `concurrency` clients, each with one connection, end within `seconds`."""
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    latencies: list[float] = []
    begin = time.perf_counter() + WARM_S
    end = begin + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            writer.write(request)
            headers = await reader.readuntil(b"\r\n\r\n")
            assert headers.startswith(b"HTTP/1.1 200"), headers
            length = int(headers.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            now = time.perf_counter()
            if begin <= started and now <= end:
                latencies.append(now - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return latencies


@contextmanager
def server(python: str, *arguments: str):
    """`bench/peers/serve.py` as a process; yields its port when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [python, str(ROOT / "bench" / "peers" / "serve.py"), str(port), *arguments], env=environment
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{python} bench/peers/serve.py does not start") from None
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def measure(ports: dict[str, int], body: bytes, concurrency: int, seconds: float) -> list[dict]:
    """Two turns of every server, alternating; the better one counts."""
    import uvloop

    best: dict[str, list[float]] = {}
    for _ in range(2):
        for name, port in ports.items():
            found = uvloop.run(load(port, body, concurrency, seconds))
            if len(found) > len(best.get(name, [])):
                best[name] = found
    rows = []
    for what, unit, of in (
        ("requests/s", "1/s", lambda latencies: len(latencies) / seconds),
        ("p50", "ms", lambda latencies: 1000 * float(np.percentile(latencies, 50))),
        ("p99", "ms", lambda latencies: 1000 * float(np.percentile(latencies, 99))),
    ):
        values = {name: of(latencies) for name, latencies in best.items()}
        row = {"what": f"{what}, {concurrency} client{'s' * (concurrency > 1)}", "ours": values["ours"], "unit": unit}
        if "peer" in values:
            row |= {"peer": values["peer"], "ratio": values["ours"] / values["peer"]}
        rows.append(row | {"limit": values["limit"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--peers-python", help="Python of an environment with FastAPI")
    arguments = parser.parse_args()
    body = json.dumps({"image": np.arange(64).reshape(8, 8).tolist()}).encode()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        model = publish(home)
        with start_service("digits", "digits", home=home) as service, server(sys.executable, "echo") as limit:
            ports = {"ours": int(service.url.rpartition(":")[2]), "limit": limit}
            if arguments.peers_python:
                with server(arguments.peers_python, "fastapi", str(model)) as peer:
                    rows = all_rows(ports | {"peer": peer}, body, arguments)
            else:
                rows = all_rows(ports, body, arguments)
    show(rows)
    save(
        "serve",
        rows,
        "peer: FastAPI on uvicorn, the same model, no log. limit: a bare ASGI app that answers a constant. "
        "The clients share the machine's cores with the server.",
    )


def all_rows(ports: dict[str, int], body: bytes, arguments: argparse.Namespace) -> list[dict]:
    return [row for count in arguments.concurrency for row in measure(ports, body, count, arguments.seconds)]


if __name__ == "__main__":
    main()
