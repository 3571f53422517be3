"""LightGBM's text format, checked before LightGBM reads it: its parser trusts the file, and a model may come from a stranger.

What passes has trees that end (a child comes after its parent), and every index inside its array.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# 1: a split by category, 2: missing goes left, 4 and 8: what counts as missing.
CATEGORICAL, DECISIONS = 1, 16


def check_trees(text: str, columns: int, outputs: int) -> None:
    """Raise ValueError, saying what is wrong, unless these are trees over `columns` columns with `outputs` scores per row."""
    header, *trees = _sections(text)
    if (int(header["num_class"]), int(header["num_tree_per_iteration"])) != (outputs, outputs):
        raise ValueError(f"the trees have {header['num_class']} scores, not {outputs}")
    if int(header["max_feature_idx"]) != columns - 1:
        raise ValueError(f"the trees read {int(header['max_feature_idx']) + 1} columns, not {columns}")
    if len(header["feature_names"].split()) != columns or len(header["feature_infos"].split()) != columns:
        raise ValueError("a column has no name or no range")
    if not trees or len(trees) % outputs:
        raise ValueError(f"there are {len(trees)} trees for {outputs} scores")
    for number, tree in enumerate(trees):
        try:
            _check_tree(tree, columns)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None


def _sections(text: str) -> Iterator[dict[str, str]]:
    """`key=value` lines of the header and of each tree; the sizes of trees in the header must be those in the text."""
    body, end, _ = text.partition("end of trees\n")
    if not end or not body.startswith("tree\n") or "\0" in text:
        raise ValueError("this is not LightGBM's text format")
    header, *trees = body.split("Tree=")
    for number, section in enumerate([header, *trees]):
        lines = section.strip().split("\n")
        if number and lines[0] != str(number - 1):
            raise ValueError(f"tree {number - 1} is missing")
        pairs = [line.partition("=") for line in lines[1:]]
        found = {key: value for key, equal, value in pairs if equal}
        if len(found) != sum(1 for _, equal, _ in pairs if equal):
            raise ValueError("a key is there twice")
        if not number:
            sizes = [int(size) for size in found.get("tree_sizes", "").split()]
            if sizes != [len(f"Tree={tree}".encode()) for tree in trees]:
                raise ValueError("the sizes of the trees are not those of the header")
        yield found


def _check_tree(tree: dict[str, str], columns: int) -> None:
    leaves, categories = int(tree["num_leaves"]), int(tree["num_cat"])
    splits = leaves - 1
    if leaves < 1 or categories < 0 or int(tree.get("is_linear", "0")):
        raise ValueError("its sizes are not those of a tree")
    _numbers(tree, "leaf_value", leaves, finite=True)
    if not splits:
        return
    feature, decision = _integers(tree, "split_feature", splits), _integers(tree, "decision_type", splits)
    threshold = _numbers(tree, "threshold", splits)
    if feature.min() < 0 or feature.max() >= columns:
        raise ValueError("it splits by a column that is not there")
    if decision.min() < 0 or decision.max() >= DECISIONS:
        raise ValueError("it has an unknown kind of split")
    _check_children(tree, splits, leaves)
    for name, size in (
        ("split_gain", splits),
        ("internal_value", splits),
        ("internal_weight", splits),
        ("internal_count", splits),
    ):
        _numbers(tree, name, size)
    for name in ("leaf_weight", "leaf_count"):
        _numbers(tree, name, leaves)
    categorical = (decision & CATEGORICAL) > 0
    chosen = threshold[categorical]
    if len(chosen) and not ((chosen >= 0) & (chosen < categories)).all():
        raise ValueError("a split by category has no categories")
    if categories:
        bounds = _integers(tree, "cat_boundaries", categories + 1)
        words = _integers(tree, "cat_threshold", int(bounds[-1]))
        if bounds[0] or (np.diff(bounds) < 1).any() or words.min() < 0 or words.max() >= 2**32:
            raise ValueError("its categories are not those of a tree")


def _check_children(tree: dict[str, str], splits: int, leaves: int) -> None:
    """A child is a later split (so that every path ends), or a leaf ~number; each is somebody's child once."""
    children = np.concatenate([_integers(tree, "left_child", splits), _integers(tree, "right_child", splits)])
    parents = np.tile(np.arange(splits), 2)
    inner = children >= 0
    if (children[inner] <= parents[inner]).any() or children.max() >= splits or children.min() < -leaves:
        raise ValueError("it leads to a split or leaf that is not there")
    if len(np.unique(children)) != len(children):
        raise ValueError("two splits lead to the same place")


def _numbers(tree: dict[str, str], name: str, size: int, finite: bool = False) -> np.ndarray:
    parts = tree.get(name, "").split(" ")
    if len(parts) != size:
        raise ValueError(f"{name} has {len(parts)} values, not {size}")
    found = np.array([float(part) for part in parts])
    if finite and not np.isfinite(found).all():
        raise ValueError(f"{name} has a value that is not a number")
    return found


def _integers(tree: dict[str, str], name: str, size: int) -> np.ndarray:
    found = _numbers(tree, name, size, finite=True)
    if (found != np.round(found)).any() or np.abs(found).max() > 2**33:
        raise ValueError(f"{name} has a value that is not a whole number")
    return found.astype(np.int64)
