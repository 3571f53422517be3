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

from .learner import Inputs, Learner, Progress
from .ngrams import Ngrams

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

BATCH = 256
# Rows seen in training, all epochs together: small data needs many epochs, and large data is not worth as many.
ROWS_SEEN = 400_000
EPOCHS = (3, 20)
LABEL_SMOOTHING = 0.1
FEATURES = 50_000
"""Of words and of pieces, at most: the memory of training is 16 bytes × features × (hidden + classes)."""


class Tfidf(Learner):
    """Inputs `text`: (n,) object array of str. Log-probabilities (n, classes) float32.

    State: the n-grams' hashes and idf; `linear` (features, classes), `hidden` (features, hidden), `head` (hidden, classes), all
    float16; biases; `scale`, what log-probabilities are multiplied by so that a score of 0.9 is right nine times in ten.
    """

    def __init__(self, *, classes: int, hidden: int = 256, dropout: float = 0.4, learning_rate: float = 6e-3):
        if classes < 1 or hidden < 1 or not 0 <= dropout < 1 or learning_rate <= 0:
            raise ValueError("classes and hidden must be at least 1, dropout in [0, 1) and learning_rate above 0")
        self.classes, self.hidden, self.dropout, self.learning_rate = classes, hidden, dropout, learning_rate
        self.ngrams = Ngrams()
        self.weights: dict[str, np.ndarray] = {}
        self.scale = 1.0

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
        started = time.monotonic()
        texts = list(inputs["text"])
        self.ngrams.fit(texts, most=FEATURES)
        matrix = self.ngrams.transform(texts)
        held = None
        if validation is not None and (validation[1] >= 0).any():
            known = validation[1] >= 0
            held = self.ngrams.transform(list(validation[0]["text"][known])), validation[1][known]
        trainer = _Trainer(self, matrix.shape[1], seed)
        epochs = min(max(ROWS_SEEN // len(texts), EPOCHS[0]), EPOCHS[1])
        importance = np.ones(len(texts), np.float32) if weights is None else np.asarray(weights, np.float32)
        for epoch in range(epochs):
            done = trainer.epoch(matrix, target, importance, epoch / epochs, 1 / epochs, started, deadline)
            if progress:
                self._take(trainer)
                progress(epoch + 1, epochs, self._loss(held) if held else math.nan)
            if not done:
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

    def _loss(self, held: tuple[sp.csr_matrix, np.ndarray], scale: float = 1.0) -> float:
        return cross_entropy(self.scores(held[0]) * scale, held[1])

    def _calibrate(self, matrix: sp.csr_matrix, target: np.ndarray) -> None:
        """Choose the scale that makes the held-out labels likeliest (temperature scaling, Guo et al. 2017)."""
        scores = self.scores(matrix)
        candidates = np.geomspace(0.25, 4, 65)
        self.scale = float(candidates[np.argmin([cross_entropy(scores * scale, target) for scale in candidates])])


class _Trainer:
    """AdamW on both members at once, in torch, from a generator of its own: the same seed gives the same weights."""

    def __init__(self, learner: Tfidf, features: int, seed: int):
        import torch

        self.learner = learner
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: dict[str, torch.Tensor] = {}
        for name, shape in shapes(features, learner.hidden, learner.classes).items():
            # A TF-IDF row has length √2, so the first layer's outputs begin near 1/√hidden · √2; the rest begins at 0.
            deviation = learner.hidden**-0.5 if name in ("hidden", "head") else 0.0
            self.weights[name] = (torch.randn(shape, generator=self.generator) * deviation).requires_grad_()
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=learner.learning_rate, weight_decay=1e-4, fused=True
        )

    def epoch(
        self,
        matrix: sp.csr_matrix,
        target: np.ndarray,
        importance: np.ndarray,
        begin: float,
        share: float,
        started: float,
        deadline: float | None,
    ) -> bool:
        """One pass over the rows in a new order; False if the deadline ended it. `begin`, `share`: of the whole training."""
        import torch

        order = torch.randperm(matrix.shape[0], generator=self.generator).numpy()
        for start in range(0, len(order), BATCH):
            done = begin + share * start / len(order)
            if deadline is not None:
                # With too little time the schedule follows the clock, so that training ends annealed and not cut off.
                done = max(done, (time.monotonic() - started) / max(0.95 * (deadline - started), 1e-9))
                if done >= 1 and self.steps_done:
                    return False
            for group in self.optimizer.param_groups:
                group["lr"] = self.learner.learning_rate * one_cycle(min(done, 1.0))
            rows = order[start : start + BATCH]
            loss = self.loss(matrix[rows], torch.from_numpy(target[rows]), torch.from_numpy(importance[rows]))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.steps_done += 1
        return True

    steps_done = 0

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
