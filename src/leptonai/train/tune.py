"""`lep tune`: many trainings of one recipe, each with other values from its spaces; the best by validation is published.

A study is a folder, `tunes/<name>/`: the recipe, Optuna's journal (lines of JSON) and nothing else. Any number of processes work on
it; one that is killed loses only its trial, which is begun again. Bad trials are ended early (median rule).
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Conflict, InvalidInput, LeptonError
from ..base.files import write_atomic
from ..base.home import Home
from ..base.paths import check_name
from ..base.yaml import Document, parse_yaml
from .recipe import Recipe, read_recipe
from .space import Choices, Space, filled, find_spaces

if TYPE_CHECKING:
    import optuna

    from ..zoo.store import ModelEntry

# Trials that are drawn at random before the sampler and the median rule have something to go by.
STARTUP_TRIALS = 6


@dataclass(frozen=True)
class Trial:
    """`value`: of the metric on validation; None if the trial failed. `state`: complete, pruned or failed."""

    number: int
    state: str
    value: float | None
    values: dict[str, Any]
    run: str | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Tuned:
    name: str
    metric: str
    trials: list[Trial]
    best: Trial
    recipe: Recipe
    entry: ModelEntry | None


@dataclass(frozen=True)
class Settings:
    """`trials`: how many are to end, in all processes and all calls. `deadline`: time.time(), or None."""

    name: str
    text: str
    source: str
    trials: int
    seed: int
    deadline: float | None
    threads: int


def tune(
    text: str, source: str, *, trials: int = 20, jobs: int = 1, name: str | None = None, time_budget_s: float | None = None,
    seed: int = 0, home: Home | None = None,
) -> Tuned:  # fmt: skip
    """Search the spaces of the recipe in `text` (YAML), and publish the best model under the recipe's name.

    Called again with the same name and recipe it goes on until `trials` have ended. Raises InvalidInput for a recipe without a
    space or without validation rows, Conflict if the study was begun with another recipe.
    """
    home = home or Home.current()
    document = parse_yaml(text, source)
    spaces = find_spaces(document)
    if not spaces:
        raise InvalidInput(
            f"{source} has nothing to search", expected="a space such as learning_rate: {search: [1e-4, 1e-2], log: true}",
            fix="Put one in the place of a value, or train it as it is: lep train.",
        )  # fmt: skip
    if trials < 1 or jobs < 1:
        raise InvalidInput("trials and jobs must be at least 1", received={"trials": trials, "jobs": jobs})
    for corner in (0, -1):  # a mistake is said before anything is trained
        read_recipe(filled(document, {path: _corner(space, corner) for path, space in spaces.items()}))
    base = read_recipe(filled(document, {path: _corner(space, 0) for path, space in spaces.items()}))
    settings = Settings(
        check_name(name or base.model_name, "study"), text, source, trials, seed,
        None if time_budget_s is None else time.time() + time_budget_s, max(1, (os.cpu_count() or 1) // jobs),
    )  # fmt: skip
    folder = study_folder(settings, home)
    study = open_study(folder, seed, maximize(base))
    take_up(study)
    work_together(settings, home, jobs)
    return conclude(study, document, spaces, settings, home)


def _corner(space: Space, which: int) -> Any:
    if isinstance(space, Choices):
        return space.values[which]
    return space.low if which == 0 else space.high


def maximize(recipe: Recipe) -> bool:
    from ..tasks.registry import task_class

    return task_class(recipe.task).higher_is_better


def study_folder(settings: Settings, home: Home) -> Path:
    folder = home.folder / "tunes" / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "recipe.yaml"
    if not kept.exists():
        write_atomic(kept, settings.text)
    elif kept.read_text() != settings.text:
        raise Conflict(
            f"study {settings.name!r} was begun with another recipe",
            fix="Give the new one a name of its own: --name NAME.",
        )
    return folder


def open_study(folder: Path, seed: int, larger_is_better: bool) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="study", storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))), load_if_exists=True,
        direction="maximize" if larger_is_better else "minimize",
        # A worker of its own seed, or all would draw the same first values.
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=1),
    )  # fmt: skip


def take_up(study: optuna.Study) -> None:
    """Trials that a killed process left open: they end as failed, and their values come first."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def work_together(settings: Settings, home: Home, jobs: int) -> None:
    if jobs == 1:
        work(settings, home, 0)
        return
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(settings, home, number)) for number in range(jobs)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.terminate()
        raise


def work(settings: Settings, home: Home, worker: int) -> None:
    """Trial after trial until enough have ended, or the time is over."""
    import torch
    from optuna.trial import TrialState

    torch.set_num_threads(settings.threads)
    document = parse_yaml(settings.text, settings.source)
    spaces = find_spaces(document)
    base = read_recipe(filled(document, {path: _corner(space, 0) for path, space in spaces.items()}))
    study = open_study(home.folder / "tunes" / settings.name, settings.seed + worker, maximize(base))

    def enough(study: optuna.Study, _: Any = None) -> bool:
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
        late = settings.deadline is not None and time.time() >= settings.deadline
        return late or len(ended) >= settings.trials or _failures(study) >= settings.trials

    while not enough(study):
        trial = study.ask()
        values = {path: space.suggest(trial, ".".join(path)) for path, space in spaces.items()}
        one_trial(trial, study, filled(document, values), settings, home)


def _failures(study: optuna.Study) -> int:
    return sum("error" in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def one_trial(trial: optuna.Trial, study: optuna.Study, document: Document, settings: Settings, home: Home) -> None:
    from optuna.trial import TrialState

    from .trainer import learn

    began = time.monotonic()
    recipe = read_recipe(document)
    left = None if settings.deadline is None else max(1.0, settings.deadline - time.time())
    budget = min((s for s in (left, recipe.train.time_budget) if s is not None), default=None)
    name = f"{settings.name}-trial-{trial.number}"
    recipe = recipe.with_values(publish={"name": name}, train={"time_budget": budget} if budget else {})
    pruned = False

    def watch(epoch: int, metrics: Mapping[str, float]) -> str | None:
        nonlocal pruned
        trial.report(metrics[result_metric(recipe)], epoch)
        pruned = trial.should_prune()
        return "worse than half of the trials were at this epoch" if pruned else None

    try:
        result = learn(recipe, home, watch=watch)
    except LeptonError as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
        return
    held = result.metrics.get("validation")
    if held is None:
        raise InvalidInput(
            f"{settings.source} has no validation rows to compare trials on",
            fix="Add `split: {validation: 0.1}` to `data`.",
        )
    result.model.save(result.run.folder / "model")
    result.run.finish()
    trial.set_user_attr("run", result.run.id)
    trial.set_user_attr("seconds", round(time.monotonic() - began, 3))
    value = float(held[result_metric(recipe)])
    trial.set_user_attr("value", value)
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


def result_metric(recipe: Recipe) -> str:
    from ..tasks.registry import task_class

    return task_class(recipe.task).metric


def conclude(
    study: optuna.Study, document: Document, spaces: Mapping[tuple[str, ...], Space], settings: Settings, home: Home
) -> Tuned:
    from ..zoo.store import ModelStore

    trials = [_shown(trial, spaces) for trial in study.get_trials(deepcopy=False)]
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        reasons = list(dict.fromkeys(trial.error for trial in trials if trial.error))
        raise InvalidInput(
            f"no trial of study {settings.name!r} has ended well", received=reasons[0] if reasons else f"{len(trials)} trials",
            fix="Give more time, or narrow the spaces.",
        )  # fmt: skip
    number = study.best_trial.number
    best = next(trial for trial in complete if trial.number == number)
    recipe = read_recipe(filled(document, {path: best.values[".".join(path)] for path in spaces}))
    write_atomic(home.folder / "tunes" / settings.name / "best.yaml", recipe.to_yaml())
    entry = None
    if recipe.publish is not None:
        entry = ModelStore(home).push(home.runs / str(best.run) / "model", recipe.model_name, tags=recipe.publish.tags)
    return Tuned(settings.name, result_metric(recipe), trials, best, recipe, entry)


def _shown(trial: Any, spaces: Mapping[tuple[str, ...], Space]) -> Trial:
    values = {}
    for path, space in spaces.items():
        name = ".".join(path)
        if name in trial.params:
            value = trial.params[name]
            values[name] = space.shown(value) if isinstance(space, Choices) else value
    about = trial.user_attrs
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(
        trial.state.name, trial.state.name.lower()
    )
    return Trial(
        trial.number, state, about.get("value"), values, about.get("run"), about.get("seconds", 0.0), about.get("error")
    )
