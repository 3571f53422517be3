"""The default network of texts: TF-IDF over hashed n-grams, read by a linear model and by a small network beside it.

The two learn from the same batches and their log-probabilities are averaged: the linear one is sure where single n-grams decide,
the other where combinations do. While they learn, a share of each text's n-grams is left out at random, so that no label hangs on
one word. What is learned is arrays; predicting needs numpy and scipy only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .learner import Inputs, Learner, Progress, seconds_left
from .ngrams import Ngrams, hash_ngrams

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

BATCH = (8, 256)
# Steps of an epoch until the batch has its largest size: small data needs small batches to take enough steps.
STEPS = 32
# Rows seen in training, all epochs together: small data needs many epochs, and large data is not worth as many.
ROWS_SEEN = 300_000
EPOCHS = (3, 15)
LABEL_SMOOTHING = 0.1
FEW_TEXTS = 1_000
# What undoes the caution of smoothed labels and of the average, where no validation rows say it better.
SCALE = 1.5
# Highest rate of the linear member at a full batch. Steep, and may be: rows have length 1.5, which bounds the loss's curvature.
LINEAR_RATE = 8.0
MOMENTUM = 0.9
FEATURES = 100_000
"""At most: the memory of training is 12 bytes × features × (hidden + classes)."""


class Tfidf(Learner):
    """Inputs `text`: (n,) object array of str. Log-probabilities (n, classes) float32.

    State: the n-grams' hashes and idf; `linear` (features, classes), `hidden` (features, hidden), `head` (hidden, classes), all
    float16; biases; `scale`, what log-probabilities are multiplied by so that a score of 0.9 is right nine times in ten.
    """

    def __init__(self, *, classes: int, hidden: int = 256, dropout: float = 0.5, learning_rate: float = 2.0):
        if classes < 1 or hidden < 1 or not 0 <= dropout < 1 or learning_rate <= 0:
            raise ValueError("classes and hidden must be at least 1, dropout in [0, 1) and learning_rate above 0")
        self.classes, self.hidden, self.dropout, self.learning_rate = classes, hidden, dropout, learning_rate
        self.ngrams = Ngrams()
        self.weights: dict[str, np.ndarray] = {}
        self.scale = SCALE

    def fit(
        self,
        inputs: Inputs,
        target: np.ndarray,
        *,
        validation: tuple[Inputs, np.ndarray] | None = None,
        weights: np.ndarray | None = None,
        seed: int = 0,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        texts, target = list(inputs["text"]), np.asarray(target, np.int64)
        importance = np.ones(len(texts), np.float32) if weights is None else np.asarray(weights, np.float32)
        few = affordable_rows(texts, seconds_left(deadline), seed)
        if few is not None:
            texts, target, importance = [texts[row] for row in few], target[few], importance[few]
        # Where texts are few, most words stand in one of them only, and are all there is to learn from.
        self.ngrams.fit(texts, least=1 if len(texts) < FEW_TEXTS else 2, most=FEATURES)
        matrix = self.ngrams.transform(texts)
        held = None
        if validation is not None and (validation[1] >= 0).any():
            known = validation[1] >= 0
            held = self.ngrams.transform(list(validation[0]["text"][known])), validation[1][known]
        trainer = _Trainer(self, matrix, target, importance, seed)
        epochs = epochs_of(len(texts))
        clock = Clock(epochs, deadline)
        for epoch in range(epochs):
            in_time = trainer.epoch(clock, epoch)
            if progress:
                self._take(trainer)
                progress(epoch + 1, epochs, self._calibrate(*held) if held else math.nan)
            if not in_time:
                break
        self._take(trainer)
        if held:
            self._calibrate(*held)

    def predict(self, inputs: Inputs) -> np.ndarray:
        return self.scores(self.ngrams.transform(list(inputs["text"]))) * np.float32(self.scale)

    def scores(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Mean of the log-probabilities of the two members (n, classes) float32, not yet scaled."""
        w = self.weights
        linear = matrix @ w["linear"] + w["linear_bias"]
        hidden = np.maximum(matrix @ w["hidden"] + w["hidden_bias"], 0)
        return (log_softmax(linear) + log_softmax(hidden @ w["head"] + w["head_bias"])) / 2

    def state(self) -> dict[str, np.ndarray]:
        halves = {name: array.astype(np.float16) for name, array in self.weights.items()}
        return {**self.ngrams.state(), **halves, "scale": np.array([self.scale], np.float64)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.ngrams.load_state(state)
        sizes = shapes(len(self.ngrams), self.hidden, self.classes)
        for name, shape in sizes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} has shape {state[name].shape} where {shape} belongs")
        self.weights = {name: np.asarray(state[name], np.float32) for name in sizes}
        self.scale = float(state["scale"][0])

    def _take(self, trainer: _Trainer) -> None:
        # Rounded now, so that a model predicts the same before it is saved as after: half the file, the same accuracy.
        self.weights = {
            name: tensor.detach().numpy().astype(np.float16).astype(np.float32)
            for name, tensor in trainer.weights.items()
        }

    def _calibrate(self, matrix: sp.csr_matrix, target: np.ndarray) -> float:
        """Choose the scale that makes the held-out labels likeliest (temperature scaling, Guo et al. 2017); the loss with it."""
        scores = self.scores(matrix)
        losses = {scale: cross_entropy(scores * scale, target) for scale in np.geomspace(0.25, 4, 33).tolist()}
        self.scale = min(losses, key=losses.get)
        return losses[self.scale]


class _Trainer:
    """Both members at once, in torch, from a generator of its own: the same seed gives the same weights."""

    def __init__(self, learner: Tfidf, matrix: sp.csr_matrix, target: np.ndarray, importance: np.ndarray, seed: int):
        import torch

        self.learner, self.matrix, self.target, self.importance = learner, matrix, target, importance
        self.generator = torch.Generator().manual_seed(seed)
        self.batch = min(max(len(target) // STEPS, BATCH[0]), BATCH[1])
        # In proportion to the batch (Goyal et al. 2017), so that data of any size is fitted as closely.
        share = self.batch / BATCH[1]
        self.linear_rate, self.hidden_rate = LINEAR_RATE * share, learner.learning_rate * share
        self.weights: dict[str, torch.Tensor] = {}
        for name, shape in shapes(matrix.shape[1], learner.hidden, learner.classes).items():
            # Layers that rest on random ones must differ from unit to unit; the rest begins at 0.
            deviation = learner.hidden**-0.5 if name in ("hidden", "head") else 0.0
            self.weights[name] = (torch.randn(shape, generator=self.generator) * deviation).requires_grad_()
        self.momentum = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}

    def epoch(self, clock: Clock, number: int) -> bool:
        """One pass over the rows in a new order; False if the deadline ended it."""
        import torch

        order = torch.randperm(len(self.target), generator=self.generator).numpy()
        for start in range(0, len(order), self.batch):
            done = clock.share_done(number + start / len(order))
            # A deadline that has passed already still leaves the first step: a model that has seen something.
            if done >= 1 and (number or start):
                return False
            rows = order[start : start + self.batch]
            target, importance = torch.from_numpy(self.target[rows]), torch.from_numpy(self.importance[rows])
            self.descend(self.loss(self.matrix[rows], target, importance), one_cycle(min(done, 1.0)))
        return True

    def descend(self, loss: torch.Tensor, rate: float) -> None:
        """Plain momentum, not Adam: an n-gram moves as often as it is seen, so rare ones are not learned by heart.

        Written out: to import torch.optim costs more than to train on a small table.
        """
        import torch

        names = list(self.weights)
        gradients = torch.autograd.grad(loss, [self.weights[name] for name in names])
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                self.momentum[name].mul_(MOMENTUM).add_(gradient)
                highest = self.linear_rate if name.startswith("linear") else self.hidden_rate
                self.weights[name].sub_(self.momentum[name], alpha=highest * rate)

    def loss(self, rows: sp.csr_matrix, target: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        w, rate = self.weights, self.learner.dropout
        kept = torch.rand(rows.nnz, generator=self.generator) >= rate
        rows.data *= kept.numpy() / np.float32(1 - rate)
        linear = sparse_product(rows, w["linear"]) + w["linear_bias"]
        hidden = torch.relu(sparse_product(rows, w["hidden"]) + w["hidden_bias"])
        hidden = hidden * (torch.rand(hidden.shape, generator=self.generator) >= rate) / (1 - rate)
        losses = [
            F.cross_entropy(raw, target, label_smoothing=LABEL_SMOOTHING, reduction="none")
            for raw in (linear, hidden @ w["head"] + w["head_bias"])
        ]
        return ((losses[0] + losses[1]) * importance).mean()


def sparse_product(rows: sp.csr_matrix, weight: torch.Tensor) -> torch.Tensor:
    """`rows` @ `weight` with a gradient for `weight`. By scipy: three times as fast as torch's own backward, and in one order."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(rows @ weight.detach().numpy())

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(rows.T @ gradient.contiguous().numpy())

    return Product.apply(weight)


class Clock:
    """How much of the training is done: by rows, or by time where the time is short, so that it ends annealed and not cut off."""

    def __init__(self, epochs: int, deadline: float | None):
        self.epochs, self.begin, self.left_s = epochs, time.monotonic(), 0.95 * seconds_left(deadline)

    def share_done(self, epoch: float) -> float:
        by_time = (time.monotonic() - self.begin) / self.left_s if self.left_s > 0 else 1.0
        return max(epoch / self.epochs, by_time)


def epochs_of(rows: int) -> int:
    # Below some hundred rows an epoch has too few steps, and there are more epochs instead.
    few = min(BATCH[0] * STEPS / rows, 8.0)
    return round(min(max(ROWS_SEEN // rows, EPOCHS[0]), EPOCHS[1]) * max(few, 1.0))


def affordable_rows(texts: list[str], left_s: float, seed: int) -> np.ndarray | None:
    """Random rows whose n-grams are hashed in a third of the time that is left; None if all are."""
    if left_s == math.inf:
        return None
    order = np.random.default_rng(seed).permutation(len(texts))
    sample = [texts[row] for row in order[:500]]
    begin = time.monotonic()
    hash_ngrams(sample)
    # Every text is hashed twice: to learn which n-grams there are, then for its vector, which takes as long again.
    row_s = 3 * (time.monotonic() - begin) / len(sample)
    affordable = max(int(left_s / 3 / row_s), len(sample))
    return np.sort(order[:affordable]) if affordable < len(texts) else None


def shapes(features: int, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    return {
        "linear": (features, classes),
        "linear_bias": (classes,),
        "hidden": (features, hidden),
        "hidden_bias": (hidden,),
        "head": (hidden, classes),
        "head_bias": (classes,),
    }


def one_cycle(done: float, warmup: float = 0.1) -> float:
    """Share of the highest learning rate: up in the first tenth, then down along a cosine to 0."""
    if done < warmup:
        return max(done / warmup, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def log_softmax(raw: np.ndarray) -> np.ndarray:
    raw = raw - raw.max(1, keepdims=True)
    return raw - np.log(np.exp(raw).sum(1, keepdims=True))


def cross_entropy(raw: np.ndarray, target: np.ndarray) -> float:
    return float(-log_softmax(raw)[np.arange(len(target)), target].mean())
