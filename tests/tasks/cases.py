"""One small dataset for each task, with every type of column and missing values, and a short training of any network on it."""

import numpy as np
import pyarrow as pa
import torch

from leptonai.data.importing import import_data
from leptonai.nets.registry import is_learner
from leptonai.tasks.model import Model, network_manifest, signature
from leptonai.tasks.registry import TASKS, task_class
from leptonai.zoo.manifest import Manifest

PAIRS = [(name, kind) for name in TASKS for kind in task_class(name).networks]
# Small sizes: what is tested is the contract, not the accuracy.
SMALL = {
    "lightgbm": {"rounds": 60, "folds": 3, "min_rows": 5},
    "mlp": {"hidden": [16]},
    "cnn": {"widths": [4, 8], "dense": 16},
    "tfidf": {"hidden": 16},
}
TARGETS = {name: "value" if name == "tabular-regression" else "label" for name in TASKS}


def rows_of(task: str, n: int, seed: int = 0) -> pa.Table:
    """n rows for a task; about every tenth value of a table or text is missing, and the target never is."""
    rng = np.random.default_rng(seed)
    if task == "image-classification":
        labels = np.arange(n) % 3
        pixels = rng.integers(0, 60, (n, 8, 8, 1)) + (labels * 90)[:, None, None, None]
        image = pa.FixedSizeListArray.from_arrays(pa.array(pixels.astype(np.uint8).ravel()), 64)
        field = pa.field("image", image.type, metadata={"lepton.type": "image", "lepton.shape": "[8, 8, 1]"})
        return pa.table([image, pa.array(labels)], schema=pa.schema([field, pa.field("label", pa.int64())]))
    if task == "text-classification":
        words = [["good", "great", "fine"], ["bad", "poor", "awful"]]
        text = [" ".join(rng.choice(words[i % 2], 3)) + f" no {rng.integers(100)}" for i in range(n)]
        return pa.table({"text": with_gaps(text, rng), "label": [["praise", "complaint"][i % 2] for i in range(n)]})
    number = rng.normal(size=n)
    city = rng.choice(["Oslo", "Rome", "Lima"], n).tolist()
    columns = {
        "number": with_gaps(number.tolist(), rng),
        "integer": with_gaps(rng.integers(0, 50, n).tolist(), rng),
        "boolean": with_gaps((rng.random(n) > 0.5).tolist(), rng),
        "city": with_gaps(city, rng),
        "when": with_gaps([np.datetime64("2024-01-01T00:00:00") + int(h) for h in rng.integers(0, 10**6, n)], rng),
    }
    signal = number + np.array([{"Oslo": 2.0, "Rome": 0.0, "Lima": -2.0}[c] for c in city])
    target = {"value": 1_000 + 50 * signal} if task == "tabular-regression" else {"label": signal > 0}
    return pa.table(columns | target)


def with_gaps(values, rng):
    return pa.array([None if rng.random() < 0.1 else value for value in values])


def dataset_of(task: str, n: int, home, name: str = "made"):
    types = {"city": "category"} if task.startswith("tabular") else {"text": "text"} if task.startswith("text") else {}
    return import_data(name, rows_of(task, n), types=types or None, home=home)


def fit_network(task, network, columns, rows, steps: int = 30):
    encoded = task.encode(columns, rows)
    if is_learner(network):
        network.fit(encoded.inputs, encoded.target, seed=0)
        return network
    torch.manual_seed(0)
    inputs = {name: torch.from_numpy(np.array(array)) for name, array in encoded.inputs.items()}
    target = torch.from_numpy(encoded.target)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(network(**inputs), target).backward()
        optimizer.step()
    return network


def make_model(task, network) -> Model:
    manifest = Manifest(
        task=task.name, network=network_manifest(network), task_state=task.state(), signature=signature(task)
    )
    return Model(task, network, manifest)


def train_model(name: str, kind: str, dataset) -> Model:
    task = task_class(name).plan(dataset, TARGETS[name], None, kind)
    columns, rows = dataset.columns(), np.arange(dataset.num_rows)
    task.fit(columns, rows)
    return make_model(task, fit_network(task, task.build(kind, SMALL.get(kind, {})), columns, rows))
