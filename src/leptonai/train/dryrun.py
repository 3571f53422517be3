"""A rehearsal in seconds: one step, one checkpoint, one resume, one evaluation on two batches. Nothing is published or kept."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.home import Home
from .measure import EVALUATION_BATCH
from .plan import check_early_stop, make_plan
from .recipe import Recipe
from .trainer import fit_network, make_model, open_run

# Rows a learner is fitted on: it has no steps, so the rehearsal is a small fit.
LEARNER_ROWS = 500
SECONDS = 5.0


@dataclass(frozen=True)
class Rehearsal:
    """What was done, in the order it was done; `recipe` has every default filled in."""

    recipe: Recipe
    rows: dict[str, int]
    parameters: int
    done: list[str]


def dry_run(recipe: Recipe, home: Home | None = None) -> Rehearsal:
    """Raises what `train` would raise, without its wait."""
    home = home or Home.current()
    plan = make_plan(recipe, home)
    check_early_stop(plan)
    rows = {part: len(numbers) for part, numbers in plan.parts.items()}
    few = {part: evenly(numbers, 2 * EVALUATION_BATCH) for part, numbers in plan.parts.items() if part != "train"}
    train = plan.parts["train"] if plan.learns_by_gradient else evenly(plan.parts["train"], LEARNER_ROWS)
    quick = plan.recipe.with_values(
        track={"tensorboard": False, "wandb": False},
        train={"time_budget": None if plan.learns_by_gradient else SECONDS},
    )
    plan = replace(plan, parts={"train": train, **few}, recipe=quick.model_copy(update={"publish": None}))
    with tempfile.TemporaryDirectory(prefix="lepton-dry-run-") as temporary:
        there = Home(Path(temporary), home.workspace)
        done = []
        if plan.learns_by_gradient:
            first = open_run(plan, there)
            fit_network(plan, first, until="1 steps")
            first.record.write(trained=False)  # or the same process would begin a new run
            first.finish("stopped")
            done += ["one step", "one checkpoint"]
            run = open_run(plan, there)
            network, metrics = fit_network(plan, run, until="2 steps")
            done += ["one resume, one more step"]
        else:
            run = open_run(plan, there)
            network, metrics = fit_network(plan, run)
            done += [f"a fit of {len(train):,} rows"]
        model = make_model(plan, run, network, metrics)
        model.save(run.folder / "model")
        run.finish()
    from ..nets.registry import state_of

    done += [f"one evaluation on {int(values['rows']):,} {part} rows" for part, values in metrics.items()]
    return Rehearsal(quick, rows, sum(array.size for array in state_of(network).values()), done)


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, from all over."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
