"""Linear and logistic regression for tables, fitted by scikit-learn; what is learned is four arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.errors import InvalidInput
from .learner import Inputs, Learner, Progress, seconds_left

# With a deadline, L-BFGS runs this many iterations between two looks at the clock.
ITERATIONS = 25
MOST_ITERATIONS = 1_000
# Above this many one-hot columns the design matrix is sparse.
DENSE_ONE_HOT = 64


class Linear(Learner):
    """Standardised numbers, indicators of missing ones, one-hot categories; ridge or logistic with penalty `l2` · |w|² / 2.

    State: `center`, `scale` (numbers,), `weight` (features, outputs), `bias` (outputs,), float64. An unknown category value adds 0.
    `l2=0` is ordinary least squares, or logistic regression without a penalty.
    """

    def __init__(self, numbers: int, missing: Sequence[int], categories: Sequence[int], outputs: int, l2: float = 1.0):
        if l2 < 0:
            raise InvalidInput("l2 must not be negative", received=l2)
        self.numbers, self.missing, self.categories = numbers, list(missing), list(categories)
        self.outputs, self.l2 = outputs, l2
        self.center, self.scale = np.zeros(numbers), np.ones(numbers)
        self.weight, self.bias = np.zeros((self.features, outputs)), np.zeros(outputs)

    @property
    def features(self) -> int:
        return self.numbers + len(self.missing) + sum(self.categories)

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
        if self.numbers:
            known = np.ma.masked_invalid(inputs["numbers"])
            self.center, deviation = known.mean(axis=0).filled(0.0), known.std(axis=0).filled(0.0)
            self.scale = np.where(deviation > 0, deviation, 1.0)
        matrix = self._matrix(inputs)
        if self.outputs == 1:
            coefficients, bias = self._least_squares(matrix, target, weights)
        else:
            coefficients, bias = self._logistic(matrix, target, weights, deadline)
        self.weight, self.bias = coefficients, bias
        if progress:
            progress(1, 1, float("nan"))

    def _least_squares(
        self, matrix: Any, target: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import LinearRegression, Ridge

        model = Ridge(alpha=self.l2) if self.l2 else LinearRegression()
        model.fit(matrix, target, sample_weight=weights)
        return np.asarray(model.coef_, np.float64).reshape(-1, 1), np.array([model.intercept_], np.float64)

    def _logistic(
        self, matrix: Any, target: np.ndarray, weights: np.ndarray | None, deadline: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        steps = MOST_ITERATIONS if deadline is None else ITERATIONS
        model = LogisticRegression(C=1 / self.l2 if self.l2 else np.inf, max_iter=steps, warm_start=True)
        with warnings.catch_warnings():
            # Not converged is what a deadline means; the weights so far are used.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for _ in range(MOST_ITERATIONS // steps):
                model.fit(matrix, target, sample_weight=weights)
                if model.n_iter_.max() < steps or seconds_left(deadline) <= 0:
                    break
        coefficients, bias = np.zeros((self.features, self.outputs)), np.full(self.outputs, -np.inf)
        if len(model.classes_) == 2:
            # Two classes: scikit-learn has one score, that of the second class against the first.
            coefficients[:, model.classes_[1]], bias[model.classes_] = model.coef_[0], [0.0, model.intercept_[0]]
        else:
            coefficients[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
        return coefficients, np.maximum(bias, -1e4)

    def predict(self, inputs: Inputs) -> np.ndarray:
        raw, row = self.bias.copy(), 0
        if self.numbers:
            dense = self._dense(inputs["numbers"])
            row = dense.shape[1]
            raw = raw + dense @ self.weight[:row]
        for number, size in enumerate(self.categories):
            raw = raw + self.weight[row + inputs["categories"][:, number]]
            row += size
        return raw[:, 0] if self.outputs == 1 else raw.astype(np.float32)

    def _dense(self, numbers: np.ndarray) -> np.ndarray:
        missing = np.isnan(numbers)
        z = np.where(missing, 0.0, (numbers - self.center) / self.scale)
        return np.concatenate([z, missing[:, self.missing]], axis=1) if self.missing else z

    def _matrix(self, inputs: Inputs) -> Any:
        """The design matrix (n, features), sparse if the categories have many values. Code 1, unknown, is never a feature."""
        dense = [self._dense(inputs["numbers"])] if self.numbers else []
        if not self.categories:
            return dense[0]
        codes = inputs["categories"]
        offsets = np.cumsum([0, *self.categories])[:-1]
        from scipy import sparse

        rows = np.repeat(np.arange(len(codes)), codes.shape[1])
        ones = (codes != 1).astype(np.float64).ravel()
        hot = sparse.csr_matrix((ones, (rows, (codes + offsets).ravel())), shape=(len(codes), sum(self.categories)))
        if sum(self.categories) <= DENSE_ONE_HOT:
            return np.concatenate([*dense, hot.toarray()], axis=1)
        return sparse.hstack([*map(sparse.csr_matrix, dense), hot], format="csr")

    def state(self) -> dict[str, np.ndarray]:
        return {"center": self.center, "scale": self.scale, "weight": self.weight, "bias": self.bias}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        shapes = {
            "center": (self.numbers,),
            "scale": (self.numbers,),
            "weight": self.weight.shape,
            "bias": self.bias.shape,
        }
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {shape}")
            setattr(self, name, np.array(state[name], np.float64))
