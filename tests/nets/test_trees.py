"""LightGBM's text is checked before LightGBM sees it: what it writes passes, and no change of it reaches the parser unseen."""

import re

import lightgbm as lgb
import numpy as np
import pytest

from leptonai.nets.registry import build, load_state
from leptonai.nets.trees import check_trees, only_trees


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    matrix = np.c_[rng.normal(size=300), rng.integers(2, 20, 300)]
    target = (matrix[:, 0] + 3 * np.sin(matrix[:, 1]) > 0).astype(int)
    options = {
        "objective": "binary",
        "num_leaves": 6,
        "verbose": -1,
        "num_threads": 1,
        "min_data_per_group": 5,
        "cat_smooth": 1,
    }
    booster = lgb.train(options, lgb.Dataset(matrix, target, categorical_feature=[1]), 5)
    return only_trees(booster.model_to_string())


def resized(text):
    """The text with the header's sizes made right again, so that the deeper checks are reached."""
    body, end, rest = text.partition("end of trees\n")
    sizes = [len(f"Tree={tree}") for tree in body.split("Tree=")[1:]]
    return re.sub("tree_sizes=.*", "tree_sizes=" + " ".join(map(str, sizes)), body) + end + rest


def test_what_lightgbm_writes_passes(text):
    check_trees(text, 2, 1)
    assert resized(text) == text and "cat_boundaries" in text


@pytest.mark.parametrize("seed", range(24))
def test_whatever_a_table_holds_its_trees_pass(seed):
    """Missing and extreme numbers, constants, rare categories, weights: what was trained can be loaded."""
    rng = np.random.default_rng(seed)
    rows, outputs = int(rng.integers(8, 300)), int(rng.integers(1, 5))
    plain = rng.normal(size=(rows, 4))
    numbers = plain * 10.0 ** rng.integers(-300, 300, 4)
    numbers[rng.random((rows, 4)) < 0.2] = np.nan
    numbers[:, 3] = 7.0
    inputs = {"numbers": numbers, "categories": rng.integers(0, 40, (rows, 2))}
    target = plain[:, 0] + np.isnan(numbers[:, 1])
    if outputs > 1:
        target = np.argsort(np.argsort(target)) % outputs
    config = {"numbers": 4, "categories": [40, 40], "outputs": outputs, "rounds": 30, "folds": 2, "min_rows": 3}
    network = build("lightgbm", config)
    network.fit(inputs, target, weights=rng.random(rows) + 0.1)
    again = build("lightgbm", config)
    load_state(again, network.state())
    assert np.array_equal(again.predict(inputs), network.predict(inputs))


def test_trees_of_one_leaf_pass():
    booster = lgb.train({"objective": "regression", "verbose": -1}, lgb.Dataset(np.zeros((50, 1)), np.arange(50.0)), 1)
    check_trees(only_trees(booster.model_to_string()), 1, 1)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"split_feature=\d+", "split_feature=7", "column that is not there"),
        (r"left_child=\S+", "left_child=0", "leads to a split or leaf that is not there"),
        (r"left_child=\S+", "left_child=500", "leads to a split or leaf that is not there"),
        (r"right_child=\S+", "right_child=-99", "leads to a split or leaf that is not there"),
        (r"num_leaves=6", "num_leaves=60", "leaf_value has 6 values, not 60"),
        (r"num_leaves=6", "num_leaves=-1", "sizes are not those of a tree"),
        (r"leaf_value=\S+", "leaf_value=nan", "not a number"),
        (r"cat_boundaries=0 \d+", "cat_boundaries=0 900", "cat_threshold has"),
        (r"decision_type=\d+", "decision_type=64", "unknown kind of split"),
        (r"is_linear=0", "is_linear=1", "sizes are not those of a tree"),
        (r"max_feature_idx=1", "max_feature_idx=9", "read 10 columns, not 2"),
        (r"num_class=1", "num_class=3", "3 scores, not 1"),
        (r"version=v4", "version=v9", "header has no valid 'version'"),
        (r"num_leaves=6", "num_leaves=6\nmore=1", "sizes are not those of a tree"),
        (r"leaf_count=", "leaf_count=1e1 ", "leaf_count has 7 values"),
        (r"split_feature=\d+", "split_feature=1e0", "not a whole number"),
        (r"\Z", "[linear_tree: 1]", "not LightGBM's text format"),
        (r"Tree=2", "Tree=9", "tree 2 is missing"),
        (r"end of trees", "the end", "not LightGBM's text format"),
        (r"threshold=\S+", "threshold=x", "threshold has a value that is not a number"),
    ],
)
def test_a_changed_text_is_refused(text, pattern, replacement, message):
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text
    with pytest.raises(ValueError, match=message):
        check_trees(resized(changed) if "end of trees" in changed else changed, 2, 1)


def test_no_random_change_crashes_the_reader(text):
    """Whatever passes the check, LightGBM reads and predicts with; it would take the process down otherwise."""
    rng = np.random.default_rng(0)
    matrix, refused = np.c_[rng.normal(size=20), rng.integers(0, 30, 20)], 0
    for _ in range(400):
        letters = list(text)
        for position in rng.integers(0, text.index("end of trees"), rng.integers(1, 4)):
            letters[position] = rng.choice(list("0123456789-. =\nae"))
        changed = resized("".join(letters))
        try:
            check_trees(changed, 2, 1)
        except (ValueError, KeyError):
            refused += 1
            continue
        try:
            lgb.Booster(model_str=changed).predict(matrix)
        except lgb.basic.LightGBMError:
            refused += 1
    assert refused > 100
