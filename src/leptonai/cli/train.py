"""`lep train`: a recipe in, a published model out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..train.recipe import Recipe
    from ..train.trainer import TrainResult


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PART.KEY=VALUE",
    help="Change the recipe: --set train.epochs=3. Repeatable.",
)
@click.option("--name", help="Name of the published model.")
@click.option("--explain", is_flag=True, help="Print the recipe with every default that will be used, and stop.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="One step, one checkpoint, one resume, one evaluation on two batches; publish nothing.",
)
@click.option(
    "--resume", metavar="RUN", help="Continue an unfinished run. The same recipe on the same data continues by itself."
)
@click.option("--on", "workspace", metavar="WORKSPACE", help="Train there, as a job; its logs are followed.")
@click.option("--resource-shape", "-rs", help="With --on: size of the job. Default: cpu.small.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    recipe: Path | None,
    settings: tuple[str, ...],
    name: str | None,
    explain: bool,
    dry_run: bool,
    resume: str | None,
    workspace: str | None,
    resource_shape: str | None,
    as_json: bool,
) -> None:
    """Train a model from RECIPE (YAML) and publish it to the zoo.

    \b
    lep train recipes/mnist-cnn.yaml
    lep train recipes/mnist-cnn.yaml --set train.epochs=3 --set train.seed=1
    """
    found = read(recipe, resume, settings, name)
    if workspace:
        from .train_on import train_on

        if explain or dry_run or resume:
            raise InvalidInput("--on trains", fix="Leave out --explain, --dry-run and --resume, or --on.")
        return train_on(found, workspace, resource_shape, as_json)
    if resource_shape:
        raise InvalidInput("--resource-shape is the size of a job", fix="Name a workspace: --on WORKSPACE.")
    if explain:
        from ..base.home import Home
        from ..train.plan import make_plan

        click.echo(make_plan(found, Home.current()).recipe.to_yaml(defaults=True), nl=False)
        return None
    if dry_run:
        return rehearse(found, as_json)
    from ..train.trainer import train as start

    result = start(found, resume=resume)
    if as_json:
        print_json(as_data(result))
    else:
        summarize(result)
    return None


def read(path: Path | None, resume: str | None, settings: tuple[str, ...], name: str | None) -> Recipe:
    from ..base.home import Home
    from ..base.paths import check_name
    from ..train.recipe import load_recipe
    from ..train.trainer import resumable

    if (path is None) == (resume is None):
        raise InvalidInput(
            "`lep train` takes one recipe, or --resume RUN", fix="Give the path of a recipe: lep train recipe.yaml."
        )
    if resume is not None:
        if settings or name:
            raise InvalidInput(
                "a run is continued as it was begun",
                received="--set or --name with --resume",
                fix="Leave them out, or train anew.",
            )
        return resumable(check_name(resume, "run"), Home.current())
    settings = (*settings, f"publish.name={check_name(name, 'model')}") if name else settings
    return load_recipe(path, settings)


def rehearse(recipe: Recipe, as_json: bool) -> None:
    from ..train.dryrun import dry_run

    found = dry_run(recipe)
    if as_json:
        print_json(
            {
                "recipe": found.recipe.to_dict(defaults=True),
                "rows": found.rows,
                "parameters": found.parameters,
                "done": found.done,
            }
        )
        return
    click.echo(
        f"Dry run of {found.recipe.task} with network {found.recipe.model.kind} ({found.parameters:,} numbers) on {found.recipe.data.dataset}"
    )
    click.echo("  rows: " + ", ".join(f"{count:,} {part}" for part, count in found.rows.items()))
    for sentence in found.done:
        click.echo(f"  ok    {sentence}")
    click.echo("Nothing was published. Without --dry-run it trains.")


def summarize(result: TrainResult) -> None:
    """What was learned from how much, how well, where it is, and what to type next."""
    plan, metrics = result.plan, result.metrics
    rows = ", ".join(f"{len(numbers):,} {part}" for part, numbers in plan.parts.items() if len(numbers))
    click.echo(f"\n{plan.task.name}, network {plan.kind}, {plan.dataset.ref}: {rows} rows")
    print_table(("metric", *metrics), metric_rows(metrics))
    if result.stop_reason:
        click.echo(f"Ended early: {result.stop_reason}.")
    click.echo(f"Time    {result.seconds:.1f} s")
    click.echo(f"Run     {result.run.folder}")
    if result.entry is None:
        click.echo(f"Model   {result.run.folder / 'model'}")
        return
    ref, dataset = result.entry.ref, plan.dataset.name
    click.echo(f"Model   {ref}")
    click.echo(f"\nNext:   lep evaluate {ref} {dataset}      lep serve {ref}      lep model show {ref}")


def metric_rows(metrics: dict[str, dict[str, float]]) -> list[tuple[Any, ...]]:
    names = list(dict.fromkeys(name for part in metrics.values() for name in part if name != "rows"))
    return [(name, *(shown(name, part.get(name)) for part in metrics.values())) for name in names]


def shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"


def as_data(result: TrainResult) -> dict[str, Any]:
    return {
        "model": result.entry.ref if result.entry else None,
        "folder": str(result.entry.folder if result.entry else result.run.folder / "model"),
        "run": result.run.id,
        "run_folder": str(result.run.folder),
        "dataset": result.plan.dataset.ref,
        "rows": {part: len(rows) for part, rows in result.plan.parts.items()},
        "metrics": result.metrics,
        "seconds": round(result.seconds, 3),
        "stop_reason": result.stop_reason,
    }
