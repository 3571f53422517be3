import numpy as np
import pytest

from leptonai.base.home import Home
from leptonai.zoo.files import write_model
from leptonai.zoo.manifest import Manifest
from leptonai.zoo.store import ModelStore


def manifest(**changes):
    fields = {
        "task": "tabular-classification",
        "network": {"kind": "mlp", "config": {"width": 8}},
        "task_state": {"classes": ["no", "yes"]},
        "metrics": {"accuracy": {"value": 0.91, "low": 0.88, "high": 0.93}, "rows": 400},
        "lineage": {"data": "loans@2", "data_hash": "ab" * 32, "run": "r1"},
        "signature": {
            "inputs": {"type": "object", "properties": {"age": {"type": "number"}, "job": {"type": "string"}}}
        },
    }
    return Manifest(**{**fields, **changes})


def tensors(seed=0):
    generator = np.random.default_rng(seed)
    return {
        "weight": generator.normal(size=(4, 3)).astype(np.float32),
        "bias": generator.normal(size=3),
        "steps": np.int64(7),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 5), np.float32),
    }


@pytest.fixture
def folder(tmp_path):
    """A model folder with weights and a vocabulary."""
    write_model(tmp_path / "model", manifest(), tensors(), {"tokenizer/vocab.json": b'{"a": 1}'})
    return tmp_path / "model"


@pytest.fixture
def store(tmp_path):
    return ModelStore(Home(tmp_path / "home"))


@pytest.fixture
def make(tmp_path):
    """make(seed): another model folder; another seed, other weights."""

    def make(seed, **changes):
        write_model(tmp_path / f"model-{seed}", manifest(**changes), tensors(seed))
        return tmp_path / f"model-{seed}"

    return make
