"""LightGBM models in their own text format."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, Missing
from ...nets.trees import check_trees, only_trees
from .signature import Signature, TensorSpec
from .tables import feature_specs, table_of

if TYPE_CHECKING:
    import numpy as np


_OBJECTIVES = (
    r"|regression( sqrt)?|(regression_l1|huber|fair|poisson|quantile|mape|gamma|tweedie)( [a-z_]+:[-+.0-9e]+)*|"
    r"binary sigmoid:[-+.0-9e]+|cross_entropy(_lambda)?|multiclass num_class:[0-9]{1,5}|"
    r"multiclassova num_class:[0-9]{1,5} sigmoid:[-+.0-9e]+|lambdarank|rank_xendcg"
)
_UNREAD = ("monotone_constraints",)


class LightGBMRuntime:
    kind = "lightgbm"

    def __init__(self, booster: Any, names: list[str]):
        self.booster = booster
        self.example = None
        named = not all(name == f"Column_{number}" for number, name in enumerate(names))
        classes = int(booster.num_model_per_iteration())
        objective = str(booster.dump_model(num_iteration=1).get("objective", ""))
        self.output = "scores" if classes > 1 else "score" if objective.startswith("binary") else "value"
        shape = (-1, classes) if classes > 1 else (-1,)
        self.signature = Signature.of(
            feature_specs(names if named else None, len(names)), (TensorSpec(self.output, "FP64", shape),)
        )
        self.threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self.output: self.booster.predict(table_of(self.signature, inputs), num_threads=self.threads)}


def load(path: Path, sample: Any = None) -> LightGBMRuntime:
    """Raises Corrupt for a text that is no sound model of LightGBM."""
    try:
        import lightgbm
    except ImportError as error:
        raise Missing("lightgbm", "train") from error
    text = path.read_text("utf-8", "replace")
    try:
        names = check_text(text)
        return LightGBMRuntime(lightgbm.Booster(model_str=only_trees(text)), names)
    except (ValueError, lightgbm.basic.LightGBMError) as error:
        raise Corrupt(
            f"{path.name} cannot be read as a LightGBM model",
            received=str(error),
            expected="what Booster.save_model writes",
        ) from None


def check_text(text: str) -> list[str]:
    """The names of the columns. Raises ValueError for a text that LightGBM's C++, which trusts it, must not read."""
    head, first, rest = text.partition("\nTree=0\n")
    lines = [line for line in head.split("\n") if line and line != "average_output"]
    fields = {key: value for key, _, value in (line.partition("=") for line in lines[1:])}
    objective = fields.pop("objective", "")
    if not first or lines[:1] != ["tree"] or not re.fullmatch(_OBJECTIVES, objective):
        raise ValueError(f"it is cut short, or its objective {objective[:40]!r} is not known")
    names = fields.get("feature_names", "").split()
    if len(names) > 1_000_000 or not re.fullmatch(r"[0-9]{1,5}", fields.get("num_tree_per_iteration", "")):
        raise ValueError("its header is not sound")
    outputs = int(fields["num_tree_per_iteration"])
    # What the trees are checked by knows the models that Lepton trains: their header, with columns that have no names.
    fields["feature_names"] = " ".join(f"Column_{number}" for number in range(len(names)))
    fields["objective"] = "regression"
    plain = "\n".join(["tree", *(f"{key}={value}" for key, value in fields.items() if key not in _UNREAD)])
    check_trees(only_trees(plain + "\n\n" + first.strip("\n") + "\n" + rest), len(names), outputs)
    return names
