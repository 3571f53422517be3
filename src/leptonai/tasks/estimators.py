"""`la.LinearRegression` and `la.LogisticRegression`: scikit-learn's, with inputs that are checked, and a way into the zoo.

The numbers are scikit-learn's own. `publish` turns what was fitted into a Model that `la.load`, `lep serve` and `lep evaluate` use.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InvalidInput
from ..data.schema import Column
from .frames import Frame, read_features, read_labels, read_values
from .metrics import accuracy_score, classification_metrics, r2_score, regression_metrics

if TYPE_CHECKING:
    from ..base.home import Home
    from ..zoo.store import ModelEntry
    from .model import Model
    from .task import Task


class _Estimator(ABC):
    """`fit` sets `coef_`, `intercept_` and what a Model needs: the columns' names and ranges, the training metrics."""

    coef_: np.ndarray
    features: Frame | None = None

    def _features(self, X: Any) -> np.ndarray:
        """(n, features) float64 in the order of `fit`."""
        return read_features(X, like=self._fitted).values

    @property
    def _fitted(self) -> Frame:
        if self.features is None:
            name = type(self).__name__
            raise InvalidInput(f"this {name} has not been fitted", fix="Call model.fit(features, target) first.")
        return self.features

    def save(self, folder: str | Path) -> Path:
        """Write a model folder, as `lep model push` takes it."""
        return self.to_model().save(folder)

    def publish(self, name: str, *, home: Home | None = None) -> ModelEntry:
        """The next version of `name` in the zoo: `lep serve NAME` answers with it."""
        from ..zoo.store import ModelStore

        with tempfile.TemporaryDirectory() as folder:
            return ModelStore(home).push(self.save(Path(folder) / "model"), name)

    @abstractmethod
    def to_model(self) -> Model:
        """The Model of what was fitted, not yet on disk."""

    def _model(self, task: Task, weight: np.ndarray, bias: np.ndarray, metrics: dict[str, float]) -> Model:
        """`weight` (features, outputs), `bias` (outputs,) of the raw columns. A missing value in a request counts as the mean."""
        from ..zoo.manifest import Manifest
        from .model import Model, network_manifest, signature

        frame = self._fitted
        network = task.build("linear", {})
        center = frame.means
        network.load_state(
            {"center": center, "scale": np.ones(len(center)), "weight": weight, "bias": bias + center @ weight}
        )
        manifest = Manifest(
            task=task.name,
            task_state=task.state(),
            network=network_manifest(network),
            signature=signature(task),
            metrics={"train": {**metrics, "rows": frame.rows}},
            lineage={"recipe": f"la.{type(self).__name__}: {', '.join(frame.names)} to {task.target.name}"},
        )
        return Model(task, network, manifest)


class LinearRegression(_Estimator):
    """Ordinary least squares. After `fit`: `coef_` (features,), `intercept_` a float."""

    intercept_: float

    def fit(self, X: Any, y: Any) -> LinearRegression:
        """`X`: a Series, a list of numbers, a frame or an array (n, features); `y`: n numbers. Raises InvalidInput for NaN."""
        from sklearn.linear_model import LinearRegression as LeastSquares

        frame = read_features(X)
        values, self._target = read_values(y, frame.rows)
        fitted = LeastSquares().fit(frame.values, values)
        self.coef_, self.intercept_ = fitted.coef_, float(fitted.intercept_)
        self.features, self._center = frame.described(), float(values.mean())
        self._metrics = regression_metrics(values, frame.values @ self.coef_ + self.intercept_)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) float64."""
        return self._features(X) @ self.coef_ + self.intercept_

    def score(self, X: Any, y: Any) -> float:
        """R² of the predictions."""
        return r2_score(y, self.predict(X))

    def to_model(self) -> Model:
        from .tabular_regression import TabularRegression

        table = self._fitted.encoder()
        task = TabularRegression([feature.column for feature in table.features], Column(self._target, "number"))
        # The scale stays 1: standardising the target would only cost digits here.
        task.table, task.center = table, self._center
        return self._model(task, self.coef_[:, None], np.array([self.intercept_ - self._center]), self._metrics)


class LogisticRegression(_Estimator):
    """Logistic regression with an L2 penalty of strength 1 / `C`. After `fit`: `classes_`, `coef_`, `intercept_` as scikit-learn's."""

    classes_: np.ndarray
    intercept_: np.ndarray

    def __init__(self, C: float = 1.0, max_iter: int = 1_000):
        if not C > 0:
            raise InvalidInput("C of LogisticRegression", received=C, expected="a number above 0")
        self.C, self.max_iter = C, max_iter

    def fit(self, X: Any, y: Any) -> LogisticRegression:
        """`X` as in LinearRegression; `y`: n labels, text, whole numbers or booleans, of at least two kinds."""
        from sklearn.linear_model import LogisticRegression as Logistic

        frame = read_features(X)
        labels, self._target = read_labels(y, frame.rows)
        self._fit = Logistic(C=self.C, max_iter=self.max_iter).fit(frame.values, labels)
        self.classes_, self.coef_, self.intercept_ = self._fit.classes_, self._fit.coef_, self._fit.intercept_
        self.features = frame.described()
        self._metrics = classification_metrics(
            np.searchsorted(self.classes_, labels), self._fit.predict_proba(frame.values)
        )
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) labels."""
        return self._fit.predict(self._features(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, classes), in the order of `classes_`."""
        return self._fit.predict_proba(self._features(X))

    def score(self, X: Any, y: Any) -> float:
        """Accuracy of the predictions."""
        predicted = self.predict(X)
        return accuracy_score(read_labels(y, len(predicted))[0].tolist(), predicted.tolist())

    def to_model(self) -> Model:
        from .labels import Labels
        from .tabular_classification import TabularClassification

        table = self._fitted.encoder()
        kind = {"b": "boolean", "i": "integer", "f": "number"}.get(self.classes_.dtype.kind, "category")
        task = TabularClassification([feature.column for feature in table.features], Column(self._target, kind))
        task.table, task.labels = table, Labels(self.classes_.tolist())
        weight, bias = self.coef_.T, self.intercept_
        if len(self.classes_) == 2:
            # scikit-learn keeps one score for two classes: that of the second against the first.
            weight, bias = np.hstack([0 * weight, weight]), np.array([0.0, bias[0]])
        return self._model(task, weight, bias, self._metrics)
