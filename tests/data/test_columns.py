"""The cache of columns: memory-mapped, shared by equal content, made again when damaged."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leptonai.base.home import Home
from leptonai.data.columns import Ragged
from leptonai.data.importing import import_data


def test_types_and_nulls(home):
    dataset = import_data(
        "x",
        {
            "number": [1.5, None, 3.0],
            "single": np.array([1, 2, 3], np.float32),
            "integer": [1, 2, 3],
            "gaps": [1, None, 3],
            "flag": [True, False, True],
            "text": ["a", None, "ünï"],
            "moment": pd.to_datetime(["2020-01-01 00:00:00.0", None, "2020-01-03 10:00:00.5"]),
            "vector": np.arange(6, dtype=np.float32).reshape(3, 2),
            "image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        },
        home=home,
    )
    columns = dataset.columns()
    assert {name: str(column.dtype) for name, column in columns.items() if not isinstance(column, Ragged)} == {
        "number": "float64", "single": "float32", "integer": "int64", "gaps": "float64", "flag": "bool",
        "moment": "datetime64[us]", "vector": "float32", "image": "uint8",
    }  # fmt: skip
    assert np.array_equal(columns["number"], [1.5, np.nan, 3.0], equal_nan=True)
    assert np.array_equal(columns["gaps"], [1, np.nan, 3], equal_nan=True)
    assert np.isnat(columns["moment"]).tolist() == [False, True, False]
    assert columns["moment"][2] == np.datetime64("2020-01-03T10:00:00.500000")
    assert columns["vector"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert columns["image"].shape == (3, 2, 2, 1)
    assert columns["text"].strings() == ["a", None, "ünï"]
    assert columns["text"].strings([2, 0]) == ["ünï", "a"]
    assert columns["text"][-1] == "ünï".encode()
    assert isinstance(columns["integer"], np.memmap)
    assert not columns["integer"].flags.writeable
    with pytest.raises(KeyError):
        columns["nothing"]
    assert list(dataset.columns(["text", "flag"])) == ["text", "flag"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=5) | st.none(), min_size=1, max_size=40).filter(any),
    numbers=st.data(),
)
def test_columns_hold_what_the_table_holds(tmp_path_factory, texts, numbers):
    values = numbers.draw(
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=len(texts), max_size=len(texts))
    )
    table = pa.table({"s": pa.array(texts, pa.string()), "n": pa.array(values, pa.int64())})
    chunked = pa.concat_tables([table.slice(start, 3) for start in range(0, len(texts), 3)])
    dataset = import_data("x", chunked, types={"s": "text", "n": "integer"}, home=Home(tmp_path_factory.mktemp("home")))
    assert dataset.table().to_pydict() == table.to_pydict()
    columns = dataset.columns()
    assert columns["s"].strings() == texts
    assert [columns["s"][row] for row in range(len(texts))] == [(text or "").encode() for text in texts]
    expected = values if None not in values else [np.nan if value is None else float(value) for value in values]
    assert np.array_equal(columns["n"], expected, equal_nan=True)


def cached(home) -> set[str]:
    return {folder.name for folder in (home.cache / "columns").iterdir()}


def test_versions_share_what_they_have_in_common(home):
    first = import_data("x", {"image": np.zeros((9, 2, 2), np.uint8), "n": range(9)}, home=home)
    dict(first.columns())
    before = cached(home)
    parted = first.split(test=0.3, validation=0.3)
    dict(parted.columns())
    assert len(cached(home) - before) == 1, "only the column `split` is new"
    again = import_data("y", {"n": range(9)}, home=home)
    dict(again.columns())
    assert len(cached(home) - before) == 1, "the same column of another dataset is the same"


def test_a_damaged_cache_is_made_again(home):
    dataset = import_data("x", {"n": [1, 2, 3], "s": ["a", "b", "c"]}, home=home)
    dict(dataset.columns())
    for file in (home.cache / "columns").rglob("*.bin"):
        file.write_bytes(file.read_bytes()[:-1])
    assert dataset.columns()["n"].tolist() == [1, 2, 3]
    assert dataset.columns()["s"].strings() == ["a", "b", "c"]
    for file in (home.cache / "columns").rglob("meta.json"):
        file.unlink()
    assert dataset.columns()["n"].tolist() == [1, 2, 3]


def test_builders_that_meet_keep_one(home):
    import_data("x", {"n": range(1000)}, home=home)
    script = "import sys; from pathlib import Path; from leptonai.base.home import Home; from leptonai.data.dataset import open_dataset\n"
    script += "print(open_dataset('x', Home(Path(sys.argv[1]))).columns()['n'].sum())"
    builders = [
        subprocess.Popen([sys.executable, "-c", script, str(home.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert {builder.communicate(timeout=60)[0].strip() for builder in builders} == {"499500"}
    assert len(cached(home)) == 1


def test_a_builder_that_comes_second_uses_the_first(home, monkeypatch):
    dataset = import_data("x", {"n": range(10)}, home=home)
    slow, fast = dataset.columns(), dataset.columns()
    build = slow._build

    def build_late(folder, name):
        build(folder, name)
        fast["n"]

    monkeypatch.setattr(slow, "_build", build_late)
    assert slow["n"].tolist() == list(range(10))
    assert len(cached(home)) == 1


def test_building_does_not_hold_the_table(home):
    """100 MB of images are built in batches: the peak of the process grows by less than that."""
    script = """
import resource, sys, numpy as np
from pathlib import Path
from leptonai.base.home import Home
from leptonai.data.dataset import open_dataset
dataset = open_dataset("x", Home(Path(sys.argv[1])))
dict(dataset.columns(["n"]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dataset.columns()["image"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    images = np.random.default_rng(0).integers(0, 256, (100_000, 32, 32), np.uint8)
    import_data("x", {"image": images, "n": range(100_000)}, home=home)
    done = subprocess.run([sys.executable, "-c", script, str(home.root)], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) * 1024 < images.nbytes, done.stderr
