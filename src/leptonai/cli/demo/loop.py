"""One walk round the loop, every step the same call that its own `lep` command makes.

Nothing is staged: the rows that play the live traffic are taken out before the import, the feedback is their true labels, and the
new version is promoted only if it passes the gate on test rows that no training saw.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ...base.errors import Conflict, InvalidInput, Unavailable
from ...base.home import Home
from ..output import print_table
from .rows import handwritten_digits, request_rows
from .traffic import client, free_port, traffic, wait_for
from .words import HEADLINES, describe, difference, interval, measured

if TYPE_CHECKING:
    import pyarrow as pa

MADE_BY_DEMO = "made by lep demo"
REQUESTS, REVIEWED = 200, 160
SPLIT = {"test": 0.8, "validation": 0.08, "seed": 0}
"""Whoever begins has few labelled rows; and two good models can only be told apart on many test rows."""
BUDGET = "60s"
SMALL_SET = {"epochs": 25, "batch": 32, "learning_rate": 2e-3, "ema": 0.98, "early_stop": {"patience": 25}}
"""A validation part of some hundred rows is too noisy to stop by; averaged weights are steadier."""


@dataclass
class Loop:
    """What later steps and the last table need is kept in the fields. `table`: (what, before, after feedback)."""

    name: str
    home: Home
    seed: int
    port: int
    step: int = 0
    started: float = field(default_factory=time.perf_counter)
    table: list[tuple[str, str, str]] = field(default_factory=list)

    def run(self, path: str | None, target: str | None, leave: bool) -> None:
        """`leave`: stop the service at the end."""
        self.forget_last_demo()
        rows, self.target = self.read(path, target)
        dataset = self.import_and_split(rows)
        before = self.train(dataset)
        first = self.evaluate(before, dataset)
        with self.served(before, leave) as service:
            self.send_traffic(service)
            newer = self.take_feedback(service, dataset)
            after = self.train(newer, origin=before)
            second, passed = self.compare(after, before, newer)
            if passed:
                self.promote(service, after, before)
                self.deploy(after, before)
            else:
                self.say(f"The gate says no: {before.entry.ref} stays in production")
                self.add("in production", before.entry.ref, before.entry.ref)
            self.show_table(first, second)
            if not leave:
                self.say_what_next(service)

    def say(self, title: str, command: str | None = None) -> None:
        self.step += 1
        click.secho(f"\n{self.step:>2}  {title}", bold=True)
        if command:
            click.secho(f"    $ lep {command}", dim=True)

    def note(self, text: str) -> None:
        click.echo(f"    {text}")

    def add(self, what: str, before: str, after: str = "") -> None:
        self.table.append((what, before, after))

    def forget_last_demo(self) -> None:
        """A demo may be run again: what an earlier one made goes; anything else of that name is left alone."""
        from ...data.dataset import list_datasets, list_versions, remove_dataset
        from ...photon.process import is_running, stop_service
        from ...zoo.store import ModelStore

        if self.name not in {dataset.name for dataset in list_datasets(self.home)}:
            return
        if list_versions(self.name, self.home)[0].description != MADE_BY_DEMO:
            raise Conflict(
                f"a dataset named {self.name!r} exists that no demo made", fix="Choose another name: --name NAME."
            )
        if is_running(self.home.services / self.name):
            stop_service(self.name, self.home)
        shutil.rmtree(self.home.services / self.name, ignore_errors=True)
        store = ModelStore(self.home)
        for entry in [entry for entry in store.list() if entry.name == self.name]:
            store.remove(entry.ref, force=True)
        remove_dataset(self.name, self.home)

    def read(self, path: str | None, target: str | None) -> tuple[pa.Table, str]:
        """The rows, and the name of their target."""
        from ...data.fields import schema_of
        from ...data.importing import read_source
        from ...tasks.registry import choose_target

        if path:
            self.say(f"Read {path}")
            rows = read_source(path)
        else:
            self.say("Read the UCI handwritten digits: 1,797 images of 8 × 8 pixels, a part of scikit-learn")
            rows = handwritten_digits()
        return rows, choose_target(schema_of(rows), target).name

    def import_and_split(self, rows: pa.Table) -> Any:
        """Take out the rows that will arrive as live traffic, import the rest, split it."""
        import numpy as np

        from ...data.importing import import_data
        from ...data.schema import SPLIT as PARTS

        usable = rows[self.target].is_valid().to_numpy()
        if PARTS in rows.column_names:
            usable &= np.asarray(rows[PARTS]) == "train"
        if usable.sum() < 3 * REQUESTS:
            raise InvalidInput(
                "too few rows with a target for a demo",
                received=f"{usable.sum():,}",
                expected=f"at least {3 * REQUESTS:,}",
            )
        chosen = np.random.default_rng(self.seed).permutation(np.flatnonzero(usable))[:REQUESTS]
        self.traffic = rows.take(np.sort(chosen))
        known = rows.take(np.setdiff1d(np.arange(rows.num_rows), chosen))

        self.say("Import: types, profile, content hash, an immutable version", f"data import {self.name} PATH")
        dataset = import_data(self.name, known, description=MADE_BY_DEMO, home=self.home)
        self.note(f"{dataset.ref}: {dataset.num_rows:,} rows, content {dataset.content_hash[:12]}")
        self.note(describe(dataset, self.target))
        self.note(f"{self.target} is to be predicted (--target chooses another column)")
        self.note(f"{REQUESTS} rows are kept out; they arrive later, as requests")
        if PARTS not in dataset.schema:
            labels = dataset.schema[self.target].type in ("category", "text", "boolean")
            flags = " ".join(f"--{key} {value}" for key, value in SPLIT.items()) + (
                f" --stratify {self.target}" if labels else ""
            )
            self.say("Split", f"data split {self.name} {flags}")
            dataset = dataset.split(**SPLIT, stratify=self.target if labels else None)
        parts = {part: len(dataset.rows(part)) for part in ("train", "validation", "test")}
        self.note(f"{dataset.ref}: " + ", ".join(f"{rows:,} {part}" for part, rows in parts.items()))
        return dataset

    def train(self, dataset: Any, origin: Any = None) -> Any:
        """Train on `dataset`, from the weights of `origin` if given; the new version is published to the zoo."""
        from ...tasks.registry import infer_task
        from ...train.recipe import Recipe
        from ...train.trainer import train

        task = infer_task(dataset, self.target)
        model, settings = {}, {"time_budget": BUDGET, "seed": self.seed}
        if task == "image-classification":
            settings |= {"augment": True, **(SMALL_SET if dataset.num_rows < 5_000 else {"epochs": 3})}
            model = {"from": origin.entry.ref} if origin else {}
        recipe = Recipe.model_validate(
            {
                "task": task,
                "data": {"dataset": dataset.ref, "target": self.target},
                "model": model,
                "train": settings,
                "publish": {"name": self.name},
            }
        )
        self.say(f"{f'Retrain, from {origin.entry.ref}' if model else 'Train'}: {task}", "train recipe.yaml")
        result = train(recipe, home=self.home)
        self.note(
            f"{result.entry.ref} in {result.seconds:.0f} s, published to the zoo; its recipe and curves: {result.run.folder}"
        )
        return result

    def evaluate(self, result: Any, dataset: Any) -> Any:
        from ...evaluate.report import evaluate

        self.say("Evaluate on the test rows", f"evaluate {result.entry.ref} {dataset.ref}")
        report = evaluate(result.entry.ref, dataset, seed=self.seed, home=self.home)
        self.report_before = report.save(self.home.reports / report.title)
        self.note(measured(report))
        return report

    @contextmanager
    def served(self, result: Any, leave: bool) -> Iterator[Any]:
        """The model as an HTTP service in a process of its own; it goes on after the demo unless `leave`, or the demo fails."""
        from ...photon.process import start_service
        from ...zoo.store import ModelStore

        port = free_port(self.port)
        self.say("Serve", f"model tag {result.entry.ref} production; lep serve {self.name}@production --port {port}")
        ModelStore(self.home).tag(result.entry.ref, "production")
        service = start_service(f"{self.name}@production", self.name, port=port, home=self.home, detach=True)
        self.note(f"{service.url} answers: /predict, /feedback, /openapi.json, /metrics")
        try:
            yield service
        except BaseException:
            service.stop()
            raise
        if leave:
            service.stop()

    def send_traffic(self, service: Any) -> None:
        """Four clients send the rows that were kept out, one a request, and keep what was answered."""
        import numpy as np

        self.say(f"{REQUESTS} requests from 4 clients")
        rows = request_rows(self.traffic.drop_columns([self.target]))
        with client(service) as lep, ThreadPoolExecutor(4) as pool:
            lep.health()  # the first call imports the HTTP library: not the service's latency

            def ask(row: dict) -> tuple[dict, float]:
                start = time.perf_counter()
                return lep.predict(row), 1000 * (time.perf_counter() - start)

            done = list(pool.map(ask, rows))
        self.answers = [answer for answer, _ in done]
        latency = "p50 {:.1f} ms, p99 {:.1f} ms".format(*np.percentile([ms for _, ms in done], [50, 99]))
        self.note(f"{len(done)} of {REQUESTS} answered; {latency}")
        self.latency = latency

    def take_feedback(self, service: Any, dataset: Any) -> Any:
        """A reviewer says for most answers what was true; confirmed and corrected rows become a new version."""
        from ...photon.collecting import to_dataset

        self.say("Feedback, corrections included", f"feedback add {service.url} REQUEST_ID LABEL")
        corrected = 0
        with client(service) as lep:
            for answer, truth in list(zip(self.answers, self.traffic[self.target].to_pylist(), strict=True))[:REVIEWED]:
                if answer["prediction"].get("label") == truth:
                    lep.feedback(answer["request_id"], correct=True)
                else:
                    lep.feedback(answer["request_id"], truth)
                    corrected += 1
        self.note(f"{REVIEWED} answers reviewed: {REVIEWED - corrected} confirmed, {corrected} corrected")
        self.say("A new dataset version from the feedback", f"feedback to-data {self.name} {self.name}")
        newer = to_dataset(self.name, self.name, home=self.home)
        added = newer.num_rows - dataset.num_rows
        self.note(f"{newer.ref}: {newer.num_rows:,} rows, {added} of them from feedback; the test rows are the same")
        self.add("dataset", dataset.ref, newer.ref)
        self.add("rows for training", *(f"{len(version.rows('train')):,}" for version in (dataset, newer)))
        return newer

    def compare(self, after: Any, before: Any, dataset: Any) -> tuple[Any, bool]:
        """The report of the new model beside the old one on the same rows, and whether it passes the gate."""
        from ...evaluate.report import evaluate, gate

        refs = f"{after.entry.ref} {dataset.ref} --compare {before.entry.ref}"
        self.say("Compare old and new on the same test rows", f"evaluate {refs}")
        report = evaluate(after.entry.ref, dataset, compare=before.entry.ref, seed=self.seed, home=self.home)
        self.report_after = report.save(self.home.reports / report.title)
        self.note(measured(report))
        self.note(difference(report))
        self.add("model", before.entry.ref, after.entry.ref)
        return report, gate(report)

    def promote(self, service: Any, after: Any, before: Any) -> None:
        """Swap the served version while two clients keep asking; not one of their requests may fail."""
        from ...zoo.store import ModelStore

        self.say("The gate passes: promote, while requests go on", f"model tag {after.entry.ref} production")
        ModelStore(self.home).tag(after.entry.ref, "production")
        rows = request_rows(self.traffic.slice(0, 20).drop_columns([self.target]))
        with client(service) as lep, traffic(lep, rows) as seen:
            wait_for(lambda: len(seen) >= 50, "requests before the swap")
            lep.swap(f"{self.name}@production")
            swapped = len(seen)
            wait_for(lambda: len(seen) >= swapped + 50, "requests after the swap")
        failed = [one for one in seen if isinstance(one, Exception)]
        versions = [one["model"] for one in seen if not isinstance(one, Exception)]
        counts = ", ".join(f"{versions.count(ref)} by {ref}" for ref in (before.entry.ref, after.entry.ref))
        self.note(f"{len(seen)} requests meanwhile: {counts}, {len(failed)} failed")
        if failed or versions[-1] != after.entry.ref:
            raise Unavailable(
                f"the swap to {after.entry.ref} did not go through: {failed[0] if failed else versions[-1]}"
            )
        self.add("in production", before.entry.ref, after.entry.ref)
        self.add("requests failed", f"0 of {REQUESTS}", f"0 of {len(seen)} during the swap")

    def deploy(self, after: Any, before: Any) -> None:
        """The same promotion on the cloud of this machine: two replicas, replaced one by one; not one request may fail."""
        from . import cloud

        old, new, name = before.entry.ref, after.entry.ref, cloud.endpoint_name(self.name)
        self.say(
            "The cloud: the old version as an endpoint with two replicas",
            f"up; lep deploy {old} --name {name} --replicas 2",
        )
        with cloud.cloud(self.home) as where, cloud.deployed(where, name, old) as lep:
            self.note(f"{lep.url} is ready")
            self.say("A rolling update to the retrained version, while requests go on", f"deploy {new} --name {name}")
            rows = request_rows(self.traffic.slice(0, 20).drop_columns([self.target]))
            seen = cloud.update(where, lep, name, new, rows)
        failed = [one for one in seen if isinstance(one, Exception)]
        versions = [one["model"] for one in seen if not isinstance(one, Exception)]
        counts = ", ".join(f"{versions.count(ref)} by {ref}" for ref in (old, new))
        self.note(
            f"{len(seen)} requests meanwhile: {counts}, {len(failed)} failed; endpoint and cloud are stopped again"
        )
        if failed:
            raise Unavailable(f"a request failed during the rolling update: {failed[0]}")
        self.add("on the cloud, 2 replicas", old, f"{new}: 0 of {len(seen)} failed in the update")

    def show_table(self, first: Any, second: Any) -> None:
        for key in HEADLINES:
            if key in first.metrics:
                self.add(f"test {key} (95 %)", *(interval(report.metrics[key], key) for report in (first, second)))
        self.add("latency, 4 clients", self.latency)
        click.echo()
        title = f"The loop in {time.perf_counter() - self.started:.0f} s"
        print_table(("", "before", "after feedback"), self.table, title=title)
        click.echo(f"Reports  {self.report_before}\n         {self.report_after}")

    def say_what_next(self, service: Any) -> None:
        lep = shutil.which("lep") or ".venv/bin/lep"
        click.echo(f"\nThe service still answers. Open {service.url}/ and draw a digit, or type:\n")
        for words in ("data show", "model show", f"evaluate {self.name}", "feedback ls", "serve --stop"):
            click.echo(f"  {lep} {words} {self.name}")
