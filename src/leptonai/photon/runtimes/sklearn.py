"""scikit-learn estimators from skops files (extra `sklearn`): only types that skops itself trusts, nothing unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, InvalidInput, Missing, Refused
from .signature import DATATYPE, Signature, TensorSpec
from .tables import INPUT, feature_specs, table_of

if TYPE_CHECKING:
    import numpy as np


CHECKED = {"sklearn.tree._tree.Tree"}
"""Types that skops leaves to its caller: this one holds arrays that scikit-learn's C code trusts, so they are checked here."""


class SklearnRuntime:
    """Outputs: `label` and `scores` of a classifier, `value` of a regressor, `output` of a transformer."""

    kind = "sklearn"

    def __init__(self, estimator: Any, sample: list[dict[str, Any]] | None):
        self.estimator = estimator
        names = getattr(estimator, "feature_names_in_", None)
        count = int(getattr(estimator, "n_features_in_", 0) or (len(names) if names is not None else 0))
        if not count:
            raise InvalidInput(
                "the estimator is not fitted, or does not say how many features it takes", received=estimator
            )
        self.names = None if names is None else [str(name) for name in names]
        inputs = feature_specs(self.names, count, sample)
        self.example = _example(inputs, sample)
        self.signature = Signature.of(inputs, self._outputs())

    def _outputs(self) -> tuple[TensorSpec, ...]:
        import numpy as np

        classes = getattr(self.estimator, "classes_", None)
        if classes is not None:
            datatype = DATATYPE.get(str(np.asarray(classes).dtype), "BYTES")
            scores = (
                (TensorSpec("scores", "FP64", (-1, len(classes))),) if hasattr(self.estimator, "predict_proba") else ()
            )
            return (TensorSpec("label", datatype, (-1,)), *scores)
        width = np.asarray(getattr(self.estimator, "intercept_", 0.0)).size if hasattr(self.estimator, "predict") else 1
        return (TensorSpec("value", "FP64", (-1,) if width == 1 else (-1, width)),)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import numpy as np

        table = self._table(inputs)
        outputs = {spec.name: spec for spec in self.signature.outputs}
        try:
            if "value" in outputs:
                return {"value": np.asarray(self.estimator.predict(table), np.float64)}
            if "scores" not in outputs:
                return {"label": self._labels(self.estimator.predict(table))}
            scores = np.asarray(self.estimator.predict_proba(table), np.float64)
            # One pass, not two: of the estimators that skops reads, the label is the class of the highest score.
            return {"label": self._labels(self.estimator.classes_[scores.argmax(1)]), "scores": scores}
        except ValueError as error:
            raise InvalidInput("the estimator does not take these rows", received=str(error).splitlines()[0]) from None

    def _table(self, inputs: Mapping[str, np.ndarray]) -> Any:
        if self.names is None:
            return inputs[INPUT]
        try:
            import pandas
        except ImportError:
            return table_of(self.signature, inputs)
        texts = {spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"}
        columns = {
            name: [text.decode("utf-8", "replace") for text in inputs[name]] if name in texts else inputs[name]
            for name in self.names
        }
        return pandas.DataFrame(columns)

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        import numpy as np

        if self.signature_label == "BYTES":
            found = np.empty(len(labels), object)
            found[:] = [str(label).encode() for label in labels]
            return found
        return np.asarray(labels)

    @property
    def signature_label(self) -> str:
        return self.signature.outputs[0].datatype


def load(path: Path, sample: Any = None) -> SklearnRuntime:
    """Raises Refused for a type that skops does not trust by itself, Corrupt for a file that is not its format."""
    try:
        import skops.io
    except ImportError as error:
        raise Missing("skops", "sklearn") from error
    data = path.read_bytes()
    if not data.startswith(b"PK\x03\x04"):
        raise Corrupt(f"{path.name} is not a skops file", fix="Write one with skops.io.dump(estimator, 'model.skops').")
    try:
        untrusted = set(skops.io.get_untrusted_types(data=data)) - CHECKED
        if untrusted:
            raise Refused(
                f"{path.name} holds types that could run code",
                received=", ".join(map(str, untrusted[:5])),
                expected="estimators of scikit-learn and arrays",
            )
        estimator = skops.io.loads(data, trusted=sorted(CHECKED))
        for tree in _trees(estimator, set()):
            _check_tree(tree)
    except (Refused, Corrupt):
        raise
    except Exception as error:  # skops raises anything for a file that it did not write
        raise Corrupt(
            f"{path.name} cannot be read as a skops file", received=f"{type(error).__name__}: {error}"
        ) from None
    if not hasattr(estimator, "predict"):
        raise InvalidInput("this is no estimator that predicts", received=type(estimator).__name__)
    return SklearnRuntime(estimator, sample)


def _example(inputs: tuple[TensorSpec, ...], sample: list[dict[str, Any]] | None) -> dict[str, np.ndarray] | None:
    import numpy as np

    if not sample:
        return None
    row = sample[0]
    made = {}
    for spec in inputs:
        value = row.get(spec.name)
        if spec.datatype == "BYTES":
            made[spec.name] = np.array([str(value).encode()], object)
        else:
            made[spec.name] = np.array([np.nan if value is None else value], np.float64)
    return made


def _trees(value: Any, seen: set[int]) -> Iterator[Any]:
    """Every decision tree within an estimator."""
    import numpy as np

    if id(value) in seen or isinstance(value, str | bytes | int | float | None | type):
        return
    seen.add(id(value))
    if type(value).__name__ == "Tree" and type(value).__module__ == "sklearn.tree._tree":
        yield value
    elif isinstance(value, Mapping):
        yield from (tree for part in value.values() for tree in _trees(part, seen))
    elif isinstance(value, list | tuple | set) or (isinstance(value, np.ndarray) and value.dtype == object):
        parts = value.reshape(-1) if isinstance(value, np.ndarray) else value
        yield from (tree for part in parts for tree in _trees(part, seen))
    elif type(value).__module__.startswith("sklearn."):
        yield from _trees(getattr(value, "__dict__", {}), seen)


def _check_tree(tree: Any) -> None:
    """Every child comes after its parent and exists, every feature exists: then no row leads out of the arrays."""
    import numpy as np

    count = tree.node_count
    left, right, nodes = tree.children_left, tree.children_right, np.arange(tree.node_count)
    inner = left != -1
    sound = len(left) == len(right) == len(tree.feature) == len(tree.value) == count >= 1
    sound = sound and all(((side[inner] > nodes[inner]) & (side[inner] < count)).all() for side in (left, right))
    if not sound or not ((tree.feature[inner] >= 0) & (tree.feature[inner] < tree.n_features)).all():
        raise Corrupt("a decision tree in this file is not sound")
