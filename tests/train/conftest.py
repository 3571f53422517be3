"""Small made data: two classes in four numbers, learnable to about 95 %, and one number to predict."""

import numpy as np
import pandas as pd
import pytest

from leptonai.base.home import Home
from leptonai.data.importing import import_data
from leptonai.train.recipe import parse_recipe

BLOBS = "recipe: 1\ntask: tabular-classification\ndata: {dataset: blobs}\nmodel: {kind: mlp}\ntrain: {epochs: 4, batch: 32}\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    return Home.current()


def blobs_frame(rows=300, seed=0):
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, rows)
    numbers = random.normal(size=(rows, 4)) + 1.2 * label[:, None]
    return pd.DataFrame({**{f"x{i}": numbers[:, i] for i in range(4)}, "label": np.where(label, "yes", "no")})


@pytest.fixture
def blobs(home):
    return import_data("blobs", blobs_frame(), home=home)


@pytest.fixture
def recipe(blobs):
    return parse_recipe(BLOBS)
