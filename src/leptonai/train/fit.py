"""Door 1: `la.fit(data, target="label")`. Chooses the task and the network, says so, and keeps the recipe that it wrote.

model = la.fit("reviews.csv", target="label")
model.predict({"text": "fine"}); model.save("m/"); print(model.recipe.to_yaml())
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import InvalidInput
from ..base.home import Home
from ..base.paths import check_name
from ..tasks.registry import choose_target, infer_task, task_class
from .plan import VALIDATION_SHARE
from .recipe import Recipe, parse_duration
from .trainer import Diverged, OutOfTime, TrainResult, learn, publish, say

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..tasks.model import Model

# Share of the time that is left which each candidate for a table gets, in this order: the cheapest first, so that there is a
# model however short the time is.
SHARES = {"linear": 0.3, "lightgbm": 0.8, "mlp": 0.9}
# Between equals on validation the earlier is chosen.
PREFERRED = ("lightgbm", "linear", "mlp")
# Without a budget a network is only tried on tables that it gets through in a minute or two.
MLP_ROWS = 20_000
# With less than this another candidate is not begun. A network needs some epochs, and torch.optim, which is slow to import.
LEAST_S = {"lightgbm": 1.0, "mlp": 6.0}

# File names that say nothing of what is in them; the folder's name is taken.
NO_NAMES = ("train", "training", "data", "dataset", "test", "all")

__all__ = ["fit", "infer_task"]


def fit(
    data: Any, target: str | None = None, *, task: str | None = None, model: str | None = None,
    time_budget: str | float | None = None, seed: int = 0, home: Home | None = None,
) -> Model:  # fmt: skip
    """Train on `data` and publish the model; `model.recipe` is all that was decided, to be edited and run again.

    `data`: a path, a dataset's name, a DataFrame, an Arrow table or a Dataset. `target`: the column to predict. `task`, `model`:
    None infers the task from the columns, and takes its best network: for tables, the best of several by validation.
    `time_budget`: seconds or "5m", for everything from this call on. Raises InvalidInput or NotFound with what to do.
    """
    began, home = time.monotonic(), home or Home.current()
    dataset = as_dataset(data, target, home)
    column = choose_target(dataset.schema, target)
    found = task or infer_task(dataset, column.name)
    kinds = [model] if model else candidates(found, dataset, time_budget)
    say(f"{dataset.ref}: {found}, target {column.name!r} ({column.type}), {dataset.num_rows:,} rows")
    recipe = read_settings(found, dataset, column.name, seed, time_budget)
    best = choose(recipe, kinds, began, home)
    publish(best)
    say(
        f"{best.entry.ref}: {best.plan.kind}, {headline(best)}; {best.seconds:.1f} s. Serve it: lep serve {best.entry.ref}"
    )
    return best.model


def as_dataset(data: Any, target: str | None, home: Home) -> Dataset:
    """`data` as a dataset version; what is not one yet is imported under a name of its own."""
    from ..data.dataset import Dataset, open_dataset
    from ..data.importing import import_data

    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        path = Path(data).expanduser()
        if isinstance(data, str) and not path.exists() and re.fullmatch(r"[\w.-]+(@\w+)?", data) and not path.suffix:
            return open_dataset(data, home)
        stem = path.name.split(".")[0]
        return import_data(name_of(path.absolute().parent.name if stem in NO_NAMES else stem), path, home=home)
    return import_data(name_of(target or "data"), data, home=home)


def name_of(text: str) -> str:
    """The nearest name that a dataset can have."""
    return check_name(re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:80] or "data", "dataset")


def candidates(task: str, dataset: Dataset, time_budget: Any) -> list[str]:
    """Kinds of network to choose from by validation: the task's default alone, unless it is a table."""
    networks = task_class(task).networks
    if not task.startswith("tabular"):
        return [networks[0]]
    small = time_budget is not None or dataset.num_rows <= MLP_ROWS
    return [kind for kind in SHARES if kind in networks and (kind != "mlp" or small)]


def read_settings(task: str, dataset: Dataset, target: str, seed: int, time_budget: Any) -> Recipe:
    try:
        budget = None if time_budget is None else parse_duration(time_budget)
    except ValueError as error:
        raise InvalidInput("`time_budget` is not a time", received=time_budget, expected=str(error)) from None
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidInput("this is not a seed", received=seed, expected="a whole number of at least 0")
    data = {"dataset": dataset.ref, "target": target}
    return Recipe.model_validate({"task": task, "data": data, "train": {"seed": seed, "time_budget": budget}})


def choose(recipe: Recipe, kinds: list[str], began: float, home: Home) -> TrainResult:
    """The candidate that is best on validation. One that has too little time, or diverges, is left out, and it is said."""
    budget, results, error = recipe.train.time_budget, [], None
    for number, kind in enumerate(kinds):
        settings: dict[str, Any] = {"model": {"kind": kind}}
        if len(kinds) > 1:  # they are compared on rows that none of them has seen
            settings["data"] = {"split": {"validation": VALIDATION_SHARE}}
        if budget is not None and len(kinds) > 1:
            left = budget - (time.monotonic() - began)
            if number and left < LEAST_S.get(kind, 0.0):
                say(f"{kind}: not tried in the {max(left, 0.0):.1f} s that are left of the time budget")
                continue
            settings["train"] = {"time_budget": max(left * SHARES[kind], 0.01)}
        started = began if len(kinds) == 1 else time.monotonic()
        try:
            result = learn(recipe.with_values(**settings), home, began=started)
        except (Diverged, OutOfTime) as caught:
            error = caught
            if len(kinds) > 1:
                say(f"{kind}: left out: {caught}")
            continue
        results.append(result)
        if len(kinds) > 1:
            say(f"{kind}: {headline(result)} in {time.monotonic() - started:.1f} s")
    if not results:
        raise error
    results.sort(key=lambda result: PREFERRED.index(result.plan.kind) if result.plan.kind in PREFERRED else 0)
    best = results[0]
    for result in results[1:]:
        if is_better(result, best):
            best = result
    for result in results:
        result.began = began
        if result is not best:
            result.run.record.event(f"not chosen: {best.run.id} ({best.plan.kind}) is better on validation")
            result.run.finish()
    return best


def is_better(result: TrainResult, best: TrainResult) -> bool:
    """By more than chance on the validation rows: between equals, the earlier candidate is the safer one for tables.

    Chance is half a standard error of an accuracy; of other metrics, 1 % of the value.
    """
    cls = type(result.plan.task)
    values = [one.metrics.get("validation", {}).get(cls.metric) for one in (result, best)]
    if None in values:
        return False
    new, old = values
    rows = result.metrics["validation"]["rows"]
    margin = 0.5 * (old * (1 - old) / rows) ** 0.5 if cls.metric == "accuracy" else 0.01 * abs(old)
    return new - old > margin if cls.higher_is_better else old - new > margin


def headline(result: TrainResult) -> str:
    """The task's metric on the rows that were held out."""
    metric = type(result.plan.task).metric
    values = [f"{part} {metric} {values[metric]:.4g}" for part, values in result.metrics.items() if metric in values]
    return ", ".join(values) or "not measured: no rows were held out"
