"""`lep tune`: search the spaces of a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput, NotFound
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..train.tune import Tuned


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--trials", default=20, show_default=True, help="How many trainings, in all calls with this name.")
@click.option("--jobs", default=1, show_default=True, help="How many at once, each in a process of its own.")
@click.option("--time-budget", help="End within this time, such as 10m.")
@click.option("--name", help="Name of the study; the recipe's model name if not given.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tune(
    recipe: Path, trials: int, jobs: int, time_budget: str | None, name: str | None, seed: int, as_json: bool
) -> None:
    """Train RECIPE with many values of its spaces, and publish the best model.

    A space stands in the place of a value: {search: [1e-4, 1e-2], log: true} or {choices: [32, 64]}. The same command goes on
    where a stopped one was.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise NotFound("`lep tune` needs Optuna", fix="pip install 'lepton-platform[tune]'") from None
    from ..train.recipe import parse_duration
    from ..train.tune import tune as search

    if not recipe.is_file():
        raise NotFound(f"there is no file {recipe}", fix="Check the path.")
    try:
        budget = None if time_budget is None else parse_duration(time_budget)
    except ValueError as error:
        raise InvalidInput("--time-budget is not a time", received=time_budget, expected=str(error)) from None
    found = search(
        recipe.read_text(), recipe.name, trials=trials, jobs=jobs, name=name, time_budget_s=budget, seed=seed
    )
    if as_json:
        print_json(as_data(found))
    else:
        summarize(found)


def summarize(found: Tuned) -> None:
    names = list(found.best.values)
    rows = [
        (trial.number, trial.state, _number(trial.value), *(_number(trial.values.get(n)) for n in names), f"{trial.seconds:.1f}", trial.run or trial.error)
        for trial in found.trials
    ]  # fmt: skip
    print_table(("trial", "state", found.metric, *names, "s", "run"), rows)
    best = ", ".join(f"{name} {_number(value)}" for name, value in found.best.values.items())
    click.echo(f"Best    trial {found.best.number}: validation {found.metric} {_number(found.best.value)} with {best}")
    if found.entry is not None:
        click.echo(f"Model   {found.entry.ref}")
        click.echo(
            f"\nNext:   lep evaluate {found.entry.ref} {found.recipe.data.dataset}      lep serve {found.entry.ref}"
        )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def as_data(found: Tuned) -> dict[str, Any]:
    return {
        "study": found.name,
        "metric": found.metric,
        "trials": [dataclasses.asdict(trial) for trial in found.trials],
        "best": dataclasses.asdict(found.best),
        "recipe": found.recipe.to_dict(),
        "model": found.entry.ref if found.entry else None,
    }
