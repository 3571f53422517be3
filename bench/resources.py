"""Ten thousand resources in one workspace: how long the API of a real `lep up` takes for a page of a list, and for one of them.

    python -m bench.resources [--count 10000] [--database postgresql://…]

Half are endpoints (stopped), half are jobs (ended). They are put into the database by the store, a thousand in a transaction, and
the controllers have seen all of them before anything is measured. Calls go one after the other over one kept connection.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from leptonai.base.home import Home
from leptonai.cloud.server import database_url
from leptonai.cloud.store import Store

from .cloud import Up, wait
from .common import save, show

PAGE = 100


@dataclass
class Outcome:
    """Latencies in seconds, sorted."""

    count: int
    pages_s: list[float]
    singles_s: list[float]
    searches_s: list[float]
    settled_s: float


def p95(latencies_s: list[float]) -> float:
    return latencies_s[int(0.95 * (len(latencies_s) - 1))]


def fill(store: Store, count: int) -> None:
    container = {"image": "host", "command": ["true"]}
    none = {"resource_shape": "cpu.small", "min_replicas": 0, "max_replicas": 0}
    for begin in range(0, count // 2, 1000):
        with store.transaction() as tx:
            for number in range(begin, min(begin + 1000, count // 2)):
                spec = {"container": container, "resource_requirement": none}
                tx.create(
                    "endpoint", "default", f"e{number:05}", spec, {"team": f"t{number % 10}"}, {"state": "Stopped"}
                )
                ended = {"state": "Completed", "details": {"phase": "ended", "verdict": "Completed"}}
                spec = {"container": container, "title": f"j{number:05}", "ttl_seconds_after_finished": 10**8}
                tx.create("job", "default", f"j{number:05}-abcdef", spec, {"team": f"t{number % 10}"}, ended)


def measure(home: Path, *, count: int, calls: int = 200, database: str | None = None) -> Outcome:
    up = Up(home, *(["--database", database] if database else []))
    up.start()
    store = Store(database_url(Home(home), database), migrated=True)
    try:
        fill(store, count)
        began = time.monotonic()
        wait(lambda: _is_still(store), 600)
        settled_s = time.monotonic() - began
        connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=60)
        chance, half = random.Random(0), count // 2
        pages, singles, searches = [], [], []
        for _ in range(calls):
            kind = chance.choice(("deployments", "jobs"))
            page = chance.randrange(1, half // PAGE + 1)
            found = timed(connection, up, f"/{kind}?page={page}&page_size={PAGE}", pages)
            assert len(found["jobs"] if kind == "jobs" else found) == PAGE
            name = f"e{chance.randrange(half):05}" if kind == "deployments" else f"j{chance.randrange(half):05}-abcdef"
            assert timed(connection, up, f"/{kind}/{name}", singles)["metadata"]["id"] == name
            text = f"{chance.randrange(half):05}"
            timed(connection, up, f"/{kind}?q={text}&page_size={PAGE}&page=1", searches)
        return Outcome(count, sorted(pages), sorted(singles), sorted(searches), settled_s)
    finally:
        store.close()
        up.end()


def _is_still(store: Store) -> bool:
    """Whether the controllers have nothing to write any more."""
    return not store.wait(store.position(), 3.0)


def timed(connection: http.client.HTTPConnection, up: Up, path: str, latencies_s: list[float]):
    began = time.perf_counter()
    connection.request("GET", f"/api/v2/workspaces/default{path}", headers={"authorization": f"Bearer {up.key}"})
    answer = connection.getresponse()
    body = answer.read()
    latencies_s.append(time.perf_counter() - began)
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
    return json.loads(body)


def rows(found: Outcome) -> list[dict]:
    return [
        {"what": f"page of {PAGE} of {found.count:,} resources, p95", "ours": p95(found.pages_s) * 1000, "unit": "ms", "target": "≤ 300"},
        {"what": "single object, p95", "ours": p95(found.singles_s) * 1000, "unit": "ms", "target": "≤ 50"},
        {"what": "search by part of a name, p95", "ours": p95(found.searches_s) * 1000, "unit": "ms", "target": "≤ 300"},
        {"what": "until the controllers had seen all", "ours": found.settled_s, "unit": "s"},
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--database")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lepton-resources-") as folder:
        table = rows(measure(Path(folder), **vars(options)))
    show(table)
    save("resources", table, "SQLite" if not options.database else "PostgreSQL")


if __name__ == "__main__":
    main()
