"""`lep demo`: the whole loop on real data, every step the same call that its own `lep` command makes.

Nothing is staged: the rows that play the live traffic are taken out before the import, the feedback is their true labels, and the
new version is promoted only if it passes the gate on test rows that neither training saw.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import Conflict, InvalidInput, Missing
from ..base.home import Home
from .output import print_table

if TYPE_CHECKING:
    import pyarrow as pa

MADE_BY_DEMO = "made by lep demo"
REQUESTS, REVIEWED = 200, 160
SPLIT = {"test": 0.5, "validation": 0.1, "seed": 0}
"""Half of the digits is for the test: a comparison of two good models on few rows would decide nothing."""


@click.command()
@click.option(
    "--data",
    "path",
    type=click.Path(),
    help="MNIST's idx files, an image folder or a CSV. Default: the UCI handwritten digits.",
)
@click.option("--target", help="The column to predict. Default: `label`, or the last column.")
@click.option("--name", help="Name of the dataset, the model and the service. Default: `digits`, or that of the path.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the service; another if it is taken.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--exit", "leave", is_flag=True, help="Stop the service at the end, for scripts.")
def demo(path: str | None, target: str | None, name: str | None, port: int, seed: int, leave: bool) -> None:
    """Run the loop: import, train, evaluate, publish, serve, feedback, retrain, compare, promote."""
    try:
        import lance  # noqa: F401
        import torch  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise Missing(error.name or "a package", "local") from error
    name = name or (Path(path).name.split(".")[0] if path else "digits")
    Loop(name, Home.current(), seed=seed, port=port).run(path, target, leave)


@dataclass
class Loop:
    """One walk round the loop; what later steps and the last table need is kept in the fields."""

    name: str
    home: Home
    seed: int
    port: int
    step: int = 0
    started: float = field(default_factory=time.perf_counter)
    table: list[tuple[str, str, str]] = field(default_factory=list)

    def run(self, path: str | None, target: str | None, leave: bool) -> None:
        self.forget_last_demo()
        rows = self.read(path)
        self.target = target or ("label" if "label" in rows.column_names else rows.column_names[-1])
        if self.target not in rows.column_names:
            raise InvalidInput(
                "there is no such column",
                received=self.target,
                expected=f"one of {', '.join(rows.column_names)}",
                fix="Give --target.",
            )
        dataset = self.import_and_split(rows)
        before = self.train(dataset)
        self.evaluate(before, dataset)
        with self.served(before, leave) as service:
            self.send_traffic(service)
            newer = self.take_feedback(service, dataset)
            after = self.train(newer, origin=before)
            passed = self.compare(after, before, newer)
            self.promote(service, after, before, passed)
            self.show_table(before, after, dataset, newer)
            self.say_what_next(service, leave)

    def say(self, title: str, command: str | None = None) -> None:
        self.step += 1
        click.secho(f"\n{self.step:>2}  {title}", bold=True)
        if command:
            click.secho(f"    $ {command}", dim=True)

    def note(self, text: str) -> None:
        click.echo(f"    {text}")

    def forget_last_demo(self) -> None:
        """A demo may be run again: what an earlier one made goes; anything else of that name is left alone."""
        from ..data.dataset import list_datasets, open_dataset, remove_dataset
        from ..photon.process import is_running, stop_service
        from ..zoo.store import ModelStore

        if self.name not in {dataset.name for dataset in list_datasets(self.home)}:
            return
        if open_dataset(f"{self.name}@1", self.home).description != MADE_BY_DEMO:
            raise Conflict(
                f"there is a dataset {self.name!r} that no demo made", fix="Choose another name: lep demo --name NAME."
            )
        if is_running(self.home.services / self.name):
            stop_service(self.name, self.home)
        shutil.rmtree(self.home.services / self.name, ignore_errors=True)
        store = ModelStore(self.home)
        for entry in [entry for entry in store.list() if entry.name == self.name]:
            store.remove(entry.ref, force=True)
        remove_dataset(self.name, self.home)

    def read(self, path: str | None) -> pa.Table:
        if path:
            self.say(f"Read {path}")
            from ..data.importing import read_source

            return read_source(path)
        self.say("Read the UCI handwritten digits (1,797 images of 8 × 8 pixels; a part of scikit-learn)")
        return handwritten_digits()

    def import_and_split(self, rows: pa.Table) -> Any:
        """Take out the rows that will arrive as live traffic, import the rest, split it."""
        import numpy as np

        from ..data.importing import import_data
        from ..data.schema import SPLIT as SPLIT_COLUMN

        may_arrive = np.arange(rows.num_rows)
        if SPLIT_COLUMN in rows.column_names:
            may_arrive = may_arrive[np.asarray(rows[SPLIT_COLUMN]) == "train"]
        if len(may_arrive) < 2 * REQUESTS:
            raise InvalidInput(
                "too few rows for a demo",
                received=f"{rows.num_rows:,}",
                expected=f"at least {2 * REQUESTS:,} for training and traffic",
            )
        arriving = np.random.default_rng(self.seed).permutation(may_arrive)[:REQUESTS]
        self.traffic = rows.take(np.sort(arriving))
        known = rows.take(np.setdiff1d(np.arange(rows.num_rows), arriving))

        self.say("Import: types, profile, content hash, an immutable version", f"lep data import {self.name} PATH")
        dataset = import_data(self.name, known, description=MADE_BY_DEMO, home=self.home)
        self.note(
            f"{dataset.ref}: {dataset.num_rows:,} rows, content {dataset.content_hash[:12]}; {REQUESTS} rows are kept out, to arrive later as requests"
        )
        self.note(describe(dataset, self.target))
        if SPLIT_COLUMN not in dataset.schema:
            flags = " ".join(f"--{key} {value}" for key, value in SPLIT.items())
            self.say("Split", f"lep data split {self.name} {flags}")
            dataset = dataset.split(
                **SPLIT,
                stratify=self.target
                if dataset.schema[self.target].type in ("category", "integer", "boolean")
                else None,
            )
        self.note(
            f"{dataset.ref}: "
            + ", ".join(f"{len(dataset.rows(part)):,} {part}" for part in ("train", "validation", "test"))
        )
        self.add("rows for training", f"{len(dataset.rows('train')):,}")
        return dataset

    def train(self, dataset: Any, origin: Any = None) -> Any:
        """Train on `dataset`, from the weights of `origin` if given; the new version is published to the zoo."""
        from ..train.fit import infer_task
        from ..train.recipe import Recipe
        from ..train.trainer import train

        task = infer_task(dataset, self.target)
        images = task == "image-classification"
        recipe = Recipe.model_validate(
            {
                "task": task,
                "data": {"dataset": dataset.ref, "target": self.target},
                "model": {"kind": "cnn", "from": origin.entry.ref if origin else None} if images else {},
                # A small set may be seen often; a large one is cut by the budget, and the schedule ends with it.
                "train": {
                    "epochs": 30 if origin is None else 15,
                    "time_budget": "60s",
                    "seed": self.seed,
                    "augment": images,
                    **({"batch": 32, "learning_rate": 3e-3} if images and dataset.num_rows < 5000 else {}),
                },
                "publish": {"name": self.name},
            }
        )
        self.say(f"{'Retrain from the served model' if origin else 'Train'}: {task}", "lep train recipe.yaml")
        result = train(recipe, home=self.home)
        self.note(f"{result.entry.ref}, run {result.run.id}: {result.run.folder}")
        return result

    def evaluate(self, result: Any, dataset: Any) -> None:
        from ..evaluate.report import evaluate

        self.say("Evaluate on the test rows", f"lep evaluate {result.entry.ref} {dataset.ref}")
        report = evaluate(result.entry.ref, dataset, seed=self.seed, home=self.home)
        self.before = report
        self.report_before = report.save(self.home.reports / f"{self.name}-{result.entry.version}")
        self.note(measured(report))

    @contextmanager
    def served(self, result: Any, leave: bool) -> Iterator[Any]:
        from ..photon.process import start_service
        from ..zoo.store import ModelStore

        self.say(
            "Publish and serve",
            f"lep model tag {result.entry.ref} production; lep serve {self.name}@production --port {self.port}",
        )
        ModelStore(self.home).tag(result.entry.ref, "production")
        service = start_service(
            f"{self.name}@production", self.name, port=free_port(self.port), home=self.home, detach=True
        )
        self.note(f"{service.url} answers")
        try:
            yield service
        except BaseException:
            service.stop()
            raise
        if leave:
            service.stop()

    def send_traffic(self, service: Any) -> None:
        """Four clients send the rows that were kept out, one request each, and remember what was answered."""
        import numpy as np

        self.say(f"{REQUESTS} requests", f"curl -X POST {service.url}/predict -d @row.json")
        rows = request_rows(self.traffic.drop_columns([self.target]))
        with client(service) as lep, ThreadPoolExecutor(4) as pool:

            def ask(row: dict) -> tuple[dict, float]:
                start = time.perf_counter()
                return lep.predict(row), time.perf_counter() - start

            done = list(pool.map(ask, rows))
        self.answers = [answer for answer, _ in done]
        p50, p99 = np.percentile([1000 * seconds for _, seconds in done], [50, 99])
        self.note(f"{len(done)} of {REQUESTS} answered; p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        self.add("latency at 4 clients", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")

    def take_feedback(self, service: Any, dataset: Any) -> Any:
        """A reviewer says for most answers what was true; corrected and confirmed rows become a new version."""
        from ..photon.collect import to_dataset

        self.say("Feedback, corrections included", f"lep feedback add {service.url} REQUEST_ID LABEL")
        truth = self.traffic[self.target].to_pylist()
        corrected = 0
        with client(service) as lep:
            for answer, true in list(zip(self.answers, truth, strict=True))[:REVIEWED]:
                if answer.get("label") == true:
                    lep.feedback(answer["request_id"], correct=True)
                else:
                    lep.feedback(answer["request_id"], label=true)
                    corrected += 1
        self.note(f"{REVIEWED} answers reviewed: {REVIEWED - corrected} confirmed, {corrected} corrected")
        self.say("A new dataset version from it", f"lep feedback to-data {self.name} {self.name}")
        newer = to_dataset(self.name, self.name, home=self.home)
        self.note(
            f"{newer.ref}: {newer.num_rows:,} rows, {newer.num_rows - dataset.num_rows} of them from feedback; the test rows are the same"
        )
        self.table[0] = ("rows for training", self.table[0][1], f"{len(newer.rows('train')):,}")
        return newer

    def compare(self, after: Any, before: Any, dataset: Any) -> bool:
        from ..evaluate.compare import gate
        from ..evaluate.report import evaluate

        self.say(
            "Compare on the same test rows",
            f"lep evaluate {after.entry.ref} {dataset.ref} --compare {before.entry.ref}",
        )
        self.after = evaluate(after.entry.ref, dataset, compare=before.entry.ref, seed=self.seed, home=self.home)
        self.report_after = self.after.save(self.home.reports / f"{self.name}-{after.entry.version}")
        found = self.after.to_dict()["comparison"]
        self.note(measured(self.after))
        self.note(
            f"difference {100 * found['difference']:+.2f} points (95 %: {100 * found['low']:+.2f} to {100 * found['high']:+.2f}), p = {found['p_value']:.3f}: {found['verdict']}"
            if "label" in self.answers[0]
            else f"difference {found['difference']:+.4g} {found['metric']}: {found['verdict']}"
        )
        return gate(self.after)

    def promote(self, service: Any, after: Any, before: Any, passed: bool) -> None:
        """Swap under traffic. The gate decides; if it says no, the old version stays and the demo says so."""
        from ..zoo.store import ModelStore

        if not passed:
            self.say(f"The gate says no: {before.entry.ref} stays in production")
            self.add("in production", before.entry.ref, before.entry.ref)
            return
        self.say(
            "The gate passes: promote, while requests go on",
            f"lep model tag {after.entry.ref} production; lep serve --swap",
        )
        ModelStore(self.home).tag(after.entry.ref, "production")
        with (
            client(service) as lep,
            traffic(lep, request_rows(self.traffic.slice(0, 20).drop_columns([self.target]))) as seen,
        ):
            wait_for(lambda: len(seen) >= 50, "requests before the swap")
            lep.swap(after.entry.ref)
            swapped = len(seen)
            wait_for(lambda: len(seen) >= swapped + 50, "requests after the swap")
        failed = [one for one in seen if isinstance(one, Exception)]
        versions = [one["model"] for one in seen if not isinstance(one, Exception)]
        self.note(
            f"{len(seen)} requests meanwhile, {len(failed)} failed; {versions.count(before.entry.ref)} answered by {before.entry.ref}, {versions.count(after.entry.ref)} by {after.entry.ref}"
        )
        if failed or versions[-1] != after.entry.ref:
            raise click.ClickException(f"the swap lost requests or did not happen: {failed[:1] or versions[-1]}")
        self.add("in production", before.entry.ref, after.entry.ref)
        self.add("failed requests during the swap", "", f"{len(failed)} of {len(seen)}")

    def add(self, what: str, before: str, after: str = "") -> None:
        self.table.append((what, before, after))

    def show_table(self, before: Any, after: Any, dataset: Any, newer: Any) -> None:
        metrics = [report.to_dict()["metrics"] for report in (self.before, self.after)]
        for key in ("accuracy", "f1_macro", "rmse", "r2"):
            if key in metrics[0]:
                self.table.insert(1, (f"test {key} (95 %)", *(interval(one[key], key) for one in metrics)))
        self.table.insert(0, ("dataset", dataset.ref, newer.ref))
        self.table.insert(1, ("model", before.entry.ref, after.entry.ref))
        click.echo()
        print_table(
            ("", "before", "after feedback"),
            self.table,
            title=f"The loop in {time.perf_counter() - self.started:.0f} s",
        )
        click.echo(
            f"Report: {self.report_after}/report.html\n        {self.report_after}/report.json\nBefore: {self.report_before}/report.html"
        )

    def say_what_next(self, service: Any, leave: bool) -> None:
        if leave:
            return
        lep = shutil.which("lep") or ".venv/bin/lep"
        click.echo(f"\nThe service still answers. Open  {service.url}/  to try it, then type:\n")
        for command in (
            f"data show {self.name}",
            f"model show {self.name}",
            f"evaluate {self.name} {self.name}",
            "runs ls",
            f"serve --stop {self.name}",
        ):
            click.echo(f"  {lep} {command}")


def handwritten_digits() -> pa.Table:
    """scikit-learn's copy of the UCI optical digits: 0..16 per pixel, made 0..255 so that it is an image like any other."""
    import numpy as np
    import pyarrow as pa
    from sklearn.datasets import load_digits

    from ..data.fields import field_of, from_array
    from ..data.schema import Column

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    image = from_array(pixels)
    label = pa.array(digits.target.astype(np.int64))
    fields = [
        field_of(Column("image", "image", pixels.shape[1:]), image.type),
        field_of(Column("label", "category"), pa.string()),
    ]
    return pa.table([image, label.cast(pa.string())], schema=pa.schema(fields))


def request_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as a client would send them: pixels as nested lists, image files as base64."""
    import base64

    from ..data.fields import is_raw, schema_of, to_array
    from ..data.schema import SPLIT as SPLIT_COLUMN

    columns = {}
    for column in schema_of(table):
        values = table[column.name]
        if column.name == SPLIT_COLUMN:
            continue
        if is_raw(values.type):
            columns[column.name] = to_array(values, column.shape).tolist()
        else:
            columns[column.name] = [
                base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values.to_pylist()
            ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@contextmanager
def client(service: Any) -> Iterator[Any]:
    from ..client.client import Client

    with Client(service.url) as connected:
        yield connected


@contextmanager
def traffic(lep: Any, rows: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """Two clients that keep asking until the block ends; what they got, answer or exception, is in the list."""
    seen: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for row in rows:
                try:
                    seen.append(lep.predict(row))
                except Exception as error:  # any failure counts
                    seen.append(error)
                if stop.is_set():
                    break

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for(condition: Any, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"no {what} within {timeout_s:.0f} s")
        time.sleep(0.01)


def free_port(port: int) -> int:
    """`port` if nothing listens there, else 0: any free one."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def describe(dataset: Any, target: str) -> str:
    kinds = ", ".join(
        f"{column.name} ({column.type}{' ' + '×'.join(map(str, column.shape)) if column.shape else ''})"
        for column in dataset.schema
    )
    distinct = dataset.profile["columns"][target].get("distinct")
    return f"columns: {kinds}" + (f"; {distinct} values of {target}" if distinct else "")


def interval(metric: dict[str, float], key: str) -> str:
    if key == "accuracy":
        return f"{100 * metric['value']:.2f} % ({100 * metric['low']:.2f} to {100 * metric['high']:.2f})"
    return f"{metric['value']:.4g} ({metric['low']:.4g} to {metric['high']:.4g})"


def measured(report: Any) -> str:
    found = report.to_dict()
    return f"{found['rows']:,} rows: " + ", ".join(
        f"{key} {interval(found['metrics'][key], key)}"
        for key in ("accuracy", "f1_macro", "rmse", "r2")
        if key in found["metrics"]
    )
