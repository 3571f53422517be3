"""Two versions compared, and a version written for others; what is written and read again is the same."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.base.errors import Conflict, InvalidInput
from leptonai.base.home import Home
from leptonai.data.diff import diff
from leptonai.data.export import export
from leptonai.data.importing import import_data

from .conftest import png, wav


def table() -> dict:
    return {
        "n": [1.25, None, 3.5, 4.75],
        "i": [1, 2, 3, None],
        "s": ["a", 'say "hi", then\nleave', "", "é"],
        "flag": [True, False, None, True],
        "when": pd.to_datetime(["2020-01-01", "2021-02-03", None, "2022-03-04"]),
    }


def test_the_same_rows_in_another_order_are_no_difference(home):
    a = import_data("a", {"n": [1, 2, 2], "s": ["x", None, None]}, home=home)
    b = import_data("b", {"s": [None, "x", None], "n": [2, 1, 2]}, home=home)
    assert diff(a, b).same


def test_what_came_and_went(home):
    a = import_data("x", {"n": [1, 2, 2, 3], "old": [1, 1, 1, 1], "t": [1, 2, 3, 4]}, home=home)
    b = import_data("x", {"n": [2, 3, 3, 4], "new": [1, 1, 1, 1], "t": ["1", "2", "3", "4"]}, home=home)
    found = diff(a, b)
    assert (found.columns_added, found.columns_removed) == (["new"], ["old"])
    assert found.types_changed == {"t": ["integer", "text"]}
    assert (found.rows_added, found.rows_removed) == (2, 2)
    assert found.shifts["n"]["max"] == [3, 4]
    assert not found.same
    assert json.loads(json.dumps(found.to_dict()))["rows"] == [4, 4]


def test_images_and_parts_are_compared(home):
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 3), np.uint8)
    a = import_data("a", {"image": images}, home=home)
    longer = a.append({"image": [png(images[0])]}, lineage={})
    assert (diff(a, longer).rows_added, diff(longer, a).rows_removed) == (1, 1)
    parted = diff(a, a.split(test=0.3, validation=0))
    assert (parted.rows_added, parted.parts["test"]) == (0, [0, 3])


@settings(max_examples=25, deadline=None)
@given(
    before=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    after=st.lists(st.integers(0, 4), min_size=1, max_size=20),
)
def test_rows_are_counted_as_a_multiset(tmp_path_factory, before, after):
    from collections import Counter

    home = Home(tmp_path_factory.mktemp("home"))
    found = diff(import_data("a", {"n": before}, home=home), import_data("b", {"n": after}, home=home))
    assert found.rows_added == sum((Counter(after) - Counter(before)).values())
    assert found.rows_removed == sum((Counter(before) - Counter(after)).values())


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "arrow", "feather"])
def test_written_and_read_again(tmp_path, home, ending):
    dataset = import_data("x", table(), home=home)
    path = export(dataset, tmp_path / "out" / f"x.{ending}")
    types = {column.name: column.type for column in dataset.schema}
    again = import_data("y", path, types=types, home=home)
    assert again.table().to_pydict() == dataset.table().to_pydict()
    assert not [file for file in path.parent.iterdir() if file != path]


def test_parquet_keeps_types_and_images(tmp_path, home):
    dataset = import_data(
        "x",
        {"image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2), "zip": ["01", "02", "01"]},
        types={"zip": "category"},
        home=home,
    )
    again = import_data("y", export(dataset, tmp_path / "x.parquet"), home=home)
    assert again.schema == dataset.schema
    assert again.content_hash == dataset.content_hash


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "files"])
def test_images_as_class_folders(tmp_path, home, raw):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
    values = {
        "image": images if raw else [png(image) for image in images],
        "label": ["cat", "a/b", "..", "cat", "a/b", ".."],
    }
    dataset = import_data("x", values, home=home).split(test=0.34, validation=0)
    folder = export(dataset, tmp_path / "out")
    assert {file.parent.name for file in folder.rglob("*.png")} == {"cat", "a%2Fb", "%2E."}
    assert all(file.resolve().is_relative_to(folder) for file in folder.rglob("*"))
    again = import_data("y", folder, home=home)
    assert len(again.rows("test")) == 2
    pictures = sorted(again.columns()["image"][:, :, :, 0].tolist())
    assert pictures == sorted(images.tolist())


def test_sounds_keep_their_names(tmp_path, home):
    (tmp_path / "in").mkdir()
    for name in ("0_ann_1.wav", "1_bob_1.wav"):
        (tmp_path / "in" / name).write_bytes(wav())
    folder = export(import_data("x", tmp_path / "in", home=home), tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == ["0_ann_1.wav", "1_bob_1.wav"]


def test_exports_that_cannot_be(tmp_path, home):
    images = import_data("images", {"image": np.zeros((2, 2, 2), np.uint8)}, home=home)
    numbers = import_data("numbers", {"n": [1]}, home=home)
    (tmp_path / "taken.csv").write_text("mine")
    with pytest.raises(Conflict, match="something at this path"):
        export(numbers, tmp_path / "taken.csv")
    assert (tmp_path / "taken.csv").read_text() == "mine"
    with pytest.raises(InvalidInput, match=r"this format is not written: received \.xlsx"):
        export(numbers, tmp_path / "a.xlsx")
    with pytest.raises(InvalidInput, match=r"column 'image' of type image does not fit into .csv"):
        export(images, tmp_path / "a.csv")
    with pytest.raises(InvalidInput, match="holds no images and no sounds"):
        export(numbers, tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["home", "taken.csv"]
