"""`lep runs`: what was trained, how far it came, and how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..base.errors import LeptonError
from ..base.home import Home
from ..base.paths import check_name
from .output import print_json, print_table

# A chart of a metric in text: a point of its range in eight heights.
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40


@click.group()
def runs() -> None:
    """List and show runs."""


@runs.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List runs, newest first."""
    from ..train.record import read_run

    found = []
    folder = Home.current().runs
    for path in folder.iterdir() if folder.is_dir() else ():
        if (path / "run.json").is_file():
            try:
                found.append(read_run(path))
            except LeptonError as error:
                found.append({"id": path.name, "status": f"unreadable: {error}"})
    found.sort(key=lambda run: run.get("started_at", ""), reverse=True)
    if as_json:
        print_json(found)
    elif not found:
        click.echo("There are no runs yet. Train with: lep train recipe.yaml.")
    else:
        headers = ("run", "status", "task", "network", "steps", "result", "model", "started")
        print_table(
            headers,
            (
                [
                    run["id"],
                    run.get("status"),
                    run.get("task"),
                    run.get("network"),
                    run.get("step"),
                    headline(run),
                    run.get("model"),
                    when(run),
                ]
                for run in found
            ),
        )


@runs.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: str, as_json: bool) -> None:
    """Show a RUN: its state, settings, lineage, metrics and events."""
    from ..train.record import read_run

    folder = Home.current().runs / check_name(run, "run")
    data = read_run(folder)
    curves = read_curves(folder / "metrics.jsonl")
    if as_json:
        print_json({**data, "folder": str(folder), "curves": curves})
        return
    click.echo(f"{data['id']}: {data.get('status')}" + (f", {data['stop_reason']}" if data.get("stop_reason") else ""))
    facts = {
        "folder": folder,
        "task": data.get("task"),
        "network": data.get("network"),
        "model": data.get("model"),
        "data": data.get("lineage", {}).get("data"),
        "parent": data.get("lineage", {}).get("parent"),
        "code": code(data.get("lineage", {}).get("code") or {}),
        "started": when(data),
        "step": data.get("step"),
        "settings": ", ".join(
            f"{key} {value}" for key, value in (data.get("settings") or {}).items() if value is not None
        ),
    }
    for name, value in facts.items():
        if value not in (None, ""):
            click.echo(f"  {name:<9} {value}")
    if curves:
        print_table(
            ("metric", "first", "last", ""),
            (
                [name, f"{values[0][1]:.4g}", f"{values[-1][1]:.4g}", sparkline([v for _, v in values])]
                for name, values in curves.items()
            ),
        )
    for event in data.get("events", []):
        click.echo(f"  {event['at'][:19]}  {event['event']}")
    if (folder / "recipe.yaml").is_file():
        again = (
            f"lep train --resume {data['id']}"
            if data.get("status") in ("stopped", "failed")
            else f"lep train {folder / 'recipe.yaml'}"
        )
        click.echo(f"\nTo {'continue' if '--resume' in again else 'repeat'} it: {again}")


def headline(run: dict[str, Any]) -> str:
    metrics = run.get("metrics") or {}
    for name in ("test.accuracy", "test.rmse", "validation.accuracy", "validation.rmse", "accuracy", "loss"):
        if isinstance(metrics.get(name), int | float):
            return f"{name} {metrics[name]:.4f}"
    return ""


def when(run: dict[str, Any]) -> str:
    return str(run.get("started_at", ""))[:19].replace("T", " ")


def code(found: dict[str, Any]) -> str:
    parts = [found.get("script", ""), str(found.get("commit", ""))[:12], "changed" if found.get("changed") else ""]
    return " ".join(part for part in parts if part)


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every metric. A last line that was cut short is left out."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for name, value in row.items():
            if name not in ("step", "epoch", "elapsed_s", "time") and isinstance(value, int | float):
                curves.setdefault(name, []).append((row.get("step", 0), value))
    return curves


def sparkline(values: list[float]) -> str:
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if len(finite) < 2:
        return ""
    step = max(1.0, len(finite) / WIDTH)
    points = [finite[min(len(finite) - 1, int(number * step))] for number in range(min(WIDTH, len(finite)))]
    low, high = min(points), max(points)
    return "".join(
        BARS[round((len(BARS) - 1) * (value - low) / (high - low))] if high > low else BARS[0] for value in points
    )
