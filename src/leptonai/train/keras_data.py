"""`keras.datasets.mnist.load_data()` under `lep run`: the dataset `mnist` of Lepton, if there is one and Keras would download.

A script as tutorials write it then runs without a network, and its rows are those of a version that the run can name.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import NotFound
from ..base.home import Home

NAME = "mnist"


def attach(keras: Any) -> None:
    download = keras.datasets.mnist.load_data

    @functools.wraps(download)
    def load_data(path: str = "mnist.npz") -> Any:
        keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        found = None if (keras_home / "datasets" / path).exists() else stored_mnist()
        return download(path) if found is None else found

    keras.datasets.mnist.load_data = load_data


def stored_mnist(home: Home | None = None) -> Any:
    """`(x_train, y_train), (x_test, y_test)` as Keras gives them, uint8 (n, 28, 28) and (n,); None if no such dataset is here.

    Rows for testing are those of the split; where there is none, the last seventh, as in MNIST itself.
    """
    from ..data.dataset import open_dataset
    from ..data.schema import SPLIT

    try:
        dataset = open_dataset(NAME, home)
    except NotFound:
        return None
    schema = dataset.schema
    if "image" not in schema or "label" not in schema or tuple(schema["image"].shape or ())[:2] != (28, 28):
        return None
    if SPLIT in schema:
        test = dataset.rows("test")
    else:
        test = np.arange(dataset.num_rows - dataset.num_rows // 7, dataset.num_rows)
    train = np.setdiff1d(np.arange(dataset.num_rows), test)
    columns = dataset.columns(["image", "label"])
    images = np.asarray(columns["image"]).reshape(-1, 28, 28)
    labels = columns["label"]
    numbers = np.asarray(labels if isinstance(labels, np.ndarray) else labels.strings(np.arange(len(images))))
    numbers = numbers.astype(np.uint8)
    print(
        f"Note: keras.datasets.mnist is {dataset.ref} here: {len(train):,} rows, {len(test):,} for testing.",
        file=sys.stderr,
    )
    return (images[train], numbers[train]), (images[test], numbers[test])
