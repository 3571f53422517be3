"""Recipe in, published model out: plan → rows → preprocessing → network → loop on `Run` → best weights → metrics → zoo.

What a resumed run depends on (best weights so far, patience) is in `run.state` and so in every checkpoint; the rest is computed again.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..base.errors import InvalidInput, LeptonError
from ..base.files import write_atomic
from ..base.home import Home
from ..base.progress import Progress
from ..nets.registry import is_learner, load_state, options, state_of
from ..nets.resize import become
from ..tasks.model import Model, network_manifest, signature
from ..zoo.manifest import Manifest
from .loader import Loader
from .measure import HeldOut, named
from .methods.method import Context, Method
from .optim import make_optimizer, make_schedule
from .plan import Plan, check_early_stop, make_plan
from .recipe import Recipe, parse_recipe
from .record import may_continue, read_run, run_folders
from .run import Run
from .seeds import stream

if TYPE_CHECKING:
    from ..zoo.store import ModelEntry

# Left of a time budget for writing and verifying the model, and for what measuring cannot foresee.
PUBLISH_S = 0.3


class Diverged(LeptonError):
    """The loss is not a number any more: nothing that follows can be learned."""


class OutOfTime(InvalidInput):
    """The time budget ended before anything was learned."""


@dataclass
class TrainResult:
    """`metrics`: of `validation` and `test`, each `{metric: value, "rows": n}`. `entry`: None if it was not to be published."""

    run: Run
    model: Model
    entry: ModelEntry | None
    metrics: dict[str, dict[str, float]]
    recipe: Recipe
    plan: Plan = field(repr=False)
    began: float = field(repr=False)
    seconds: float = 0.0

    @property
    def stop_reason(self) -> str | None:
        """Why training ended before its last epoch."""
        return self.run.record.data.get("stop_reason")


def train(recipe: Recipe, home: Home | None = None, *, resume: str | None = None) -> TrainResult:
    """Train what `recipe` says, and publish it.

    An unfinished run of the same recipe on the same data is continued, and ends with the weights it would have had; `resume`: the id
    of such a run. Raises InvalidInput or NotFound for what cannot be trained; Diverged if the loss is lost before any evaluation.
    """
    result = learn(recipe, home, resume=resume)
    publish(result)
    return result


Watch = Callable[[int, Mapping[str, float]], str | None]
"""(epoch from 0, metrics of validation) → why training is to end, or None."""


def learn(
    recipe: Recipe,
    home: Home | None = None,
    *,
    began: float | None = None,
    resume: str | None = None,
    watch: Watch | None = None,
) -> TrainResult:
    """Train without publishing. `began`: when the time budget did (time.monotonic()), if that was before this call."""
    began, home = time.monotonic() if began is None else began, home or Home.current()
    plan = make_plan(recipe, home)
    check_early_stop(plan)
    run = open_run(plan, home, began, resume)
    try:
        network, metrics = fit_network(plan, run, watch=watch)
    except LeptonError as error:
        run.record.event(str(error))
        run.finish("failed")
        raise
    model = make_model(plan, run, network, metrics)
    return TrainResult(run, model, None, metrics, plan.recipe, plan, began)


def resumable(run_id: str, home: Home) -> Recipe:
    """The recipe of the unfinished run `run_id`. Raises NotFound, or InvalidInput if there is nothing to continue."""
    folder = home.runs / run_id
    status = read_run(folder).get("status")
    if not may_continue(folder, run_id) or not (folder / "recipe.yaml").is_file():
        raise InvalidInput(
            f"run {run_id} cannot be continued",
            received=f"status {status}",
            expected="an unfinished run of a recipe",
            fix="Train again: lep train recipe.yaml.",
        )
    return parse_recipe((folder / "recipe.yaml").read_text(), f"{run_id}/recipe.yaml")


def open_run(plan: Plan, home: Home, began: float | None = None, resume: str | None = None) -> Run:
    """The run to continue if there is one with this recipe and these rows, or a new one."""
    recipe, settings = plan.recipe, plan.recipe.train
    name, text = resume or recipe.model_name, recipe.to_yaml(defaults=True)
    track = (
        "jsonl",
        *(["tensorboard"] if recipe.track.tensorboard else []),
        *(["wandb"] if recipe.track.wandb else []),
    )
    spent_s = 0.0 if began is None else time.monotonic() - began
    budget = settings.time_budget and settings.time_budget - spent_s
    gradient = (
        {"accumulate": settings.accumulate, "clip": settings.clip, "ema": settings.ema or None}
        if plan.learns_by_gradient
        else {}
    )
    run = Run(
        name, seed=settings.seed, home=home, precision=settings.precision, checkpoint_every=f"{settings.checkpoint_every} seconds",
        resume=_same_recipe(home, name, text), track=track, time_budget=budget and max(budget, 0.001), **gradient,
    )  # fmt: skip
    write_atomic(run.folder / "recipe.yaml", text)
    run.record.data["lineage"].update(_data_lineage(plan))
    run.record.write(task=plan.task.name, network=plan.kind)
    if plan.unused:
        say(f"{plan.kind} is not trained in steps: {', '.join(f'`train.{name}`' for name in plan.unused)} is not used")
    return run


def _same_recipe(home: Home, name: str, text: str) -> bool:
    """Whether the newest unfinished run of this name, the one that `Run` would continue, was begun with this very recipe."""
    folder = next((f for f in reversed(run_folders(home, name)) if may_continue(f, name)), None)
    kept = folder and folder / "recipe.yaml"
    return bool(kept and kept.is_file() and kept.read_text() == text)


def fit_network(
    plan: Plan, run: Run, until: str | None = None, watch: Watch | None = None
) -> tuple[Any, dict[str, dict[str, float]]]:
    """The trained network with its best weights, and its metrics on validation and test."""
    columns = plan.dataset.columns([column.name for column in (*plan.task.inputs, plan.task.target)])
    plan.task.label_smoothing = plan.recipe.train.label_smoothing or 0.0
    held = {
        part: HeldOut(plan.task, columns, plan.parts[part]) for part in ("validation", "test") if len(plan.parts[part])
    }
    methods = plan.recipe.method.make()
    network = _fresh(plan, methods)
    if is_learner(network):
        fit_learner(plan, run, network, columns, held)
    else:
        context = Context(plan, run, columns, held)
        fit_by_gradient(context, network, methods, until, watch)
        for method in methods:
            method.end(network, context)
    metrics = {part: {**rows.measure(network), "rows": rows.rows} for part, rows in held.items()}
    for part, values in metrics.items():
        if part == "test" or is_learner(network):  # the loop has logged its own validations
            run.log(named(part, {name: value for name, value in values.items() if name != "rows"}))
    if methods:
        run.record.data["method"] = {method.name: method.facts() for method in methods}
    if plan.origin is not None and (measured := held.get("test") or held.get("validation")):
        metrics["before"] = {**measured.measure(plan.origin.network), "rows": measured.rows}
    return network, metrics


def _fresh(plan: Plan, methods: list[Method]) -> Any:
    """A new network; with the parent's weights if it continues one. Learners are fitted again, on all rows."""
    config = dict(plan.origin.network.config if plan.origin else plan.recipe.model.options)
    for method in methods:
        config |= method.options(options(plan.kind))
    network = plan.task.build(plan.kind, config)
    if plan.origin is not None and not is_learner(network):
        # What a method has added keeps its fresh values; all else must be there.
        state = state_of(plan.origin.network)
        load_state(network, {**state_of(network), **state} if config != plan.origin.network.config else state)
    return network


def fit_learner(plan: Plan, run: Run, network: Any, columns: Any, held: Mapping[str, HeldOut]) -> None:
    encoded = plan.task.encode(columns, plan.parts["train"])
    validation = (held["validation"].inputs, held["validation"].target) if "validation" in held else None
    line = Progress(run.id, None, unit="rounds")
    logged_at = 0.0

    def progress(done: int, most: int, loss: float) -> None:  # `most` is seldom reached: validation stops it before
        nonlocal logged_at
        now = time.monotonic()
        if now - logged_at >= 0.1 and math.isfinite(loss):
            run.log_at(done, {"validation.loss": loss})
            line.show(done, {"loss": loss})
            logged_at = now

    deadline = None
    if run.time_budget_s is not None:
        deadline = time.monotonic() + max(0.0, run.time_budget_s - run.elapsed_s - PUBLISH_S) * 0.95
    network.fit(
        encoded.inputs, encoded.target, validation=validation, seed=plan.recipe.train.seed, deadline=deadline, progress=progress
    )  # fmt: skip


def fit_by_gradient(
    context: Context,
    network: torch.nn.Module,
    methods: Sequence[Method] = (),
    until: str | None = None,
    watch: Watch | None = None,
) -> None:
    """Train in place; `network` ends with its best weights by validation, or its last ones if there is none."""
    plan, run, settings = context.plan, context.run, context.plan.recipe.train
    encoded = plan.task.encode(context.columns, plan.parts["train"])
    augment = plan.task.augment if settings.augment else None
    for method in methods:
        method.begin(network, context)
    arrays = {**encoded.inputs, "target": encoded.target}
    for method in methods:
        arrays = method.more_rows(arrays, context)
    # A last batch of one row has no statistics for batch norm; dropping a part of an epoch is harmless, the order differs each time.
    many = len(arrays["target"]) >= settings.batch
    loader = Loader(arrays, batch_size=settings.batch, drop_last=many, transform=augment and _keep_target(augment))
    network = network.to(memory_format=torch.channels_last) if plan.task.name.startswith("image") else network
    optimizer = make_optimizer(
        network, settings.optimizer, settings.learning_rate, settings.weight_decay, regroup=[m.groups for m in methods]
    )
    run.prepare(network, optimizer, loader, make_schedule(settings.schedule, settings.warmup))
    best = Best(plan, run, network, context.held, watch)
    network.train()
    for step, batch in run.steps(loader, until or f"{settings.epochs} epochs"):
        target = batch.pop("target")
        with run.autocast():
            loss = (
                _loss(context, network, methods, batch, target)
                if methods
                else plan.task.loss(network(**batch).float(), target)
            )
        if not math.isfinite(loss.item()):
            best.diverged(step)
            break
        run.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        run.log(loss=loss.detach())
        if run.epoch_ends:
            best.see()
            for method in methods:
                method.after_epoch(network, optimizer, context)
    if run.step == 0:
        raise OutOfTime(
            "the time budget was used up before the first step",
            received=f"{settings.time_budget:g} s",
            fix="Give more time, or fewer rows.",
        )
    best.restore()


def _loss(
    context: Context,
    network: torch.nn.Module,
    methods: Sequence[Method],
    batch: dict[str, torch.Tensor],
    target: torch.Tensor,
) -> torch.Tensor:
    """The loss of a step as the methods want it. A method's own columns are `<method>.…` in the batch."""
    inputs = {name: value for name, value in batch.items() if "." not in name}
    generator = torch.Generator().manual_seed(stream(context.run.seed, "method", context.run.step))
    for method in methods:
        inputs = method.inputs(network, inputs, target, generator)
    raw = network(**inputs).float()
    loss = context.task.loss(raw, target)
    for method in methods:
        mark = f"{method.name}."
        own = {name.removeprefix(mark): value for name, value in batch.items() if name.startswith(mark)}
        loss = method.loss(loss, raw, own, network)
    return loss


def _keep_target(augment: Any) -> Any:
    """`augment` sees the inputs alone: neither the target nor what methods know of a row."""

    def transform(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        kept = {name: value for name, value in batch.items() if name == "target" or "." in name}
        return {**augment({name: value for name, value in batch.items() if name not in kept}, generator), **kept}

    return transform


class Best:
    """The weights of the best evaluation so far, in `run.state`. Averaged weights where the run averages."""

    def __init__(
        self, plan: Plan, run: Run, network: torch.nn.Module, held: Mapping[str, HeldOut], watch: Watch | None = None
    ):
        self.run, self.network, self.held, settings = run, network, held, plan.recipe.train
        self.watch = watch
        self.validation = held.get("validation")
        self.metric = settings.early_stop.on.removeprefix("validation.")
        self.sign = 1 if self.metric == plan.task.metric and plan.task.higher_is_better else -1
        if self.metric != plan.task.metric:
            self.sign = -1 if self.metric in ("loss", "log_loss", "rmse", "mae", "mape") else 1
        if self.validation is not None:
            mode = "max" if self.sign > 0 else "min"
            run.stop_if(f"validation.{self.metric}", settings.early_stop.patience, mode)
        if run.time_budget_s is not None:
            # The last evaluation, of validation and test each once more, and publishing.
            seconds = sum(rows.estimate_s(network) for rows in held.values())
            once = self.validation.rows / sum(r.rows for r in held.values()) if self.validation else 0.0
            run.reserve_s = 1.2 * seconds * (1 + once) + PUBLISH_S

    def see(self) -> None:
        """Evaluate, log, and keep the weights if they are the best."""
        if self.validation is None:
            return
        with self.run.averaged():
            found = self.validation.measure(self.network)
            if self.metric not in found:
                raise InvalidInput(
                    "`train.early_stop.on` is not measured",
                    received=f"validation.{self.metric}",
                    expected=", ".join(f"validation.{name}" for name in found),
                )
            self.run.log_at(self.run.step, named("validation", found))  # a line of its own, not a mean
            value, best = found[self.metric], self.run.state.get("best")
            if math.isfinite(value) and (best is None or self.sign * value >= self.sign * best["value"]):
                weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
                config = dict(self.network.config)  # a method may change the network's size later
                self.run.state["best"] = {"value": value, "step": self.run.step, "weights": weights, "config": config}
        self.run.state["seen"] = self.run.step
        if self.watch is not None and (reason := self.watch(self.run.epoch, found)):
            self.run.stop(reason)

    def diverged(self, step: int) -> None:
        """The loss of `step` is not a number: keep what was good before, or say that there is nothing."""
        sentence = f"the loss is not a number at step {step}"
        best = self.run.state.get("best")
        if best is None:
            raise Diverged(
                sentence + "; nothing was published",
                fix="Lower train.learning_rate, or set train.clip: 1.0, and check the inputs for extreme values.",
            )
        self.run.state["seen"] = self.run.step
        self.run.record.write(trained=True, stop_reason=sentence)
        self.run.record.event(f"{sentence}; the weights of step {best['step']} are kept")

    def restore(self) -> None:
        """Put the best weights into the network; an evaluation that the budget cut off is made up for."""
        if self.run.state.get("seen") != self.run.step and self.run.step:
            self.see()
        best = self.run.state.get("best")
        if best is not None:
            if best["config"] != self.network.config:
                become(self.network, best["config"])
            self.network.load_state_dict(best["weights"])
        elif self.run.step:
            with self.run.averaged():
                weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            self.network.load_state_dict(weights)
        self.network.eval()


def make_model(plan: Plan, run: Run, network: Any, metrics: dict[str, dict[str, float]]) -> Model:
    lineage = {**run.record.data["lineage"], "run": run.id, "recipe": plan.recipe.to_dict()}
    if "method" in run.record.data:
        lineage["method"] = run.record.data["method"]
    manifest = Manifest(
        task=plan.task.name, network=network_manifest(network), task_state=plan.task.state(), signature=signature(plan.task),
        metrics={part: {name: float(value) for name, value in values.items() if np.isfinite(value)} for part, values in metrics.items()},
        lineage=lineage,
    )  # fmt: skip
    model = Model(plan.task, network, manifest)
    model.recipe = plan.recipe
    return model


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _data_lineage(plan: Plan) -> dict[str, Any]:
    """Enough for an evaluation to find the same rows: see `rows.parts_of`."""
    found = {"data": plan.dataset.ref, "data_hash": plan.dataset.content_hash, "split": plan.split}
    return {**found, "parent": plan.parent.ref} if plan.parent else found


def publish(result: TrainResult) -> None:
    """Write the model into the run's folder and, if the recipe says so, into the zoo. Done twice, it publishes once."""
    run, model, wanted = result.run, result.model, result.recipe.publish
    folder = run.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)  # of an end that was killed here
    model.save(folder)
    if wanted is not None:
        from ..zoo.store import ModelStore

        result.entry = ModelStore(run.home).push(folder, result.recipe.model_name, tags=wanted.tags)
        model.manifest = result.entry.manifest
        run.record.data["model"] = result.entry.ref
    run.finish()
    result.seconds = time.monotonic() - result.began
