"""Learning on without forgetting: old rows among the new ones (replay), or weights held where they mattered (EWC)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import InvalidInput
from ..fields import Count, Part, Positive, Share
from .method import Context, Method, needs_parent

if TYPE_CHECKING:
    import torch


class Replay(Part):
    """Rows of the parent's training data among the new ones."""

    share: Share = 0.3
    """Share of all training rows that are old."""

    def make(self) -> Method:
        return ReplayMethod(self)


class Ewc(Part):
    """Elastic weight consolidation (Kirkpatrick et al. 2017)."""

    strength: Positive = 100.0
    rows: Count = 1000
    """Old rows that say how much each weight matters."""

    def make(self) -> Method:
        return EwcMethod(self)


class _Continual(Method):
    """Measures the parent's own test rows before and after: what was forgotten."""

    def __init__(self) -> None:
        self.before: float | None = None
        self.after: float | None = None
        self.count = 0

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        needs_parent(self.name, context)
        self.old_columns, self.old_parts = parents_rows(context)
        self.before = self._measure(context.plan.origin.network, context)

    def _measure(self, network: Any, context: Context) -> float | None:
        from ..measure import HeldOut

        rows = self.old_parts["test"] if len(self.old_parts["test"]) else self.old_parts["validation"]
        if not len(rows):
            return None
        return float(HeldOut(context.task, self.old_columns, rows).measure(network)[context.task.metric])

    def end(self, network: torch.nn.Module, context: Context) -> None:
        self.after, self.metric = self._measure(network, context), context.task.metric

    def facts(self) -> dict[str, Any]:
        return {"old_rows": self.count, f"old_{self.metric}_before": self.before, f"old_{self.metric}": self.after}


class ReplayMethod(_Continual):
    name = "replay"

    def __init__(self, options: Replay):
        super().__init__()
        self.share = options.share

    def more_rows(self, arrays: dict[str, np.ndarray], context: Context) -> dict[str, np.ndarray]:
        old = self.old_parts["train"]
        wanted = min(len(old), round(len(arrays["target"]) * self.share / (1 - self.share)))
        chosen = np.sort(np.random.default_rng(context.plan.recipe.train.seed).choice(old, wanted, replace=False))
        encoded = context.task.encode(self.old_columns, chosen)
        self.count = len(chosen)
        more = {**encoded.inputs, "target": encoded.target}
        if extra := [name for name in arrays if name not in more]:
            raise InvalidInput("`method.replay` cannot be joined with this method", received=extra[0].split(".")[0])
        return {name: np.concatenate([array, more[name]]) for name, array in arrays.items()}


class EwcMethod(_Continual):
    name = "ewc"

    def __init__(self, options: Ewc):
        super().__init__()
        self.options_ = options

    def begin(self, network: torch.nn.Module, context: Context) -> None:
        super().begin(network, context)
        old = self.old_parts["train"]
        chosen = old[np.linspace(0, len(old) - 1, min(len(old), self.options_.rows)).astype(np.int64)]
        self.count = len(chosen)
        self.importance = fisher(network, context.task, context.task.encode(self.old_columns, chosen))
        self.anchor = {name: p.detach().clone() for name, p in network.named_parameters() if name in self.importance}

    def loss(
        self, loss: torch.Tensor, raw: torch.Tensor, own: Mapping[str, torch.Tensor], network: torch.nn.Module
    ) -> torch.Tensor:
        held = sum(
            (self.importance[name] * (parameter - self.anchor[name]) ** 2).sum()
            for name, parameter in network.named_parameters()
            if name in self.importance and parameter.requires_grad
        )
        return loss + self.options_.strength / 2 * held


def fisher(network: torch.nn.Module, task: Any, encoded: Any) -> dict[str, torch.Tensor]:
    """The diagonal of the empirical Fisher information: the mean squared gradient of single rows."""
    import torch

    training = network.training
    network.eval()
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    rows = len(encoded.target)
    for row in range(rows):
        batch = {n: torch.from_numpy(np.ascontiguousarray(a[row : row + 1])) for n, a in encoded.inputs.items()}
        loss = task.loss(network(**batch).float(), torch.from_numpy(encoded.target[row : row + 1]))
        for name, gradient in zip(
            parameters, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True
        ):
            if gradient is not None:
                total[name] += gradient**2
    network.train(training)
    return {name: value / rows for name, value in total.items()}


def parents_rows(context: Context) -> tuple[Any, dict[str, np.ndarray]]:
    """Columns and parts of the dataset version that the parent was trained on."""
    from ..plan import find_dataset
    from ..rows import parts_of

    lineage = context.plan.parent.manifest.lineage
    if not lineage.get("data"):
        raise InvalidInput(
            f"{context.plan.parent.ref} does not say what it was trained on",
            fix="Continue a model that Lepton trained, or leave out `method.replay` and `method.ewc`.",
        )
    dataset = find_dataset(lineage["data"], context.run.home)
    columns = dataset.columns([c.name for c in (*context.task.inputs, context.task.target)])
    return columns, parts_of(dataset, lineage.get("split"))
