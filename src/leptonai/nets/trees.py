"""LightGBM's text format, checked before LightGBM reads it: its parser trusts the file, and a model may come from a stranger.

What passes has trees that end (a child comes after its parent), and every index inside its array.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

# 1: a split by category, 2: missing goes left, 4 and 8: what counts as missing.
CATEGORICAL, DECISIONS = 1, 16
# As LightGBM writes them. Its parser reads "1e3" or "1_0" for a whole number as something else than Python does.
_INTEGER = re.compile(r"-?[0-9]{1,10}\Z")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?\Z")
# A split between missing and all other numbers has the threshold inf.
_THRESHOLD = re.compile(rf"-?inf\Z|{_FLOAT.pattern}")
HEADER = {
    "version": r"v4",
    "num_class": r"[0-9]{1,5}",
    "num_tree_per_iteration": r"[0-9]{1,5}",
    "label_index": r"0",
    "max_feature_idx": r"[0-9]{1,7}",
    "objective": r"regression|binary sigmoid:1|multiclass num_class:[0-9]{1,5}",
    "feature_names": r"Column_[0-9]+( Column_[0-9]+)*",
    "feature_infos": r"(none|\[[-+.:0-9e]+\]|-?[0-9]+(:-?[0-9]+)*)( (none|\[[-+.:0-9e]+\]|-?[0-9]+(:-?[0-9]+)*))*",
    "tree_sizes": r"[0-9]+( [0-9]+)*",
}
TREE = {
    "num_leaves", "num_cat", "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "leaf_value",
    "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count", "is_linear", "shrinkage",
}  # fmt: skip
CATEGORIES = {"cat_boundaries", "cat_threshold"}
END = "end of trees\n"


def only_trees(text: str) -> str:
    """Without the options of training that LightGBM writes after the trees: prediction needs none of them."""
    return text.partition(END)[0] + END


def check_trees(text: str, columns: int, outputs: int) -> None:
    """Raise ValueError, saying what is wrong, unless these are trees over `columns` columns with `outputs` scores per row."""
    header, *trees = _sections(text)
    for name in HEADER.keys() | header.keys():
        if name not in HEADER or not re.fullmatch(HEADER[name], header.get(name, "")):
            raise ValueError(f"its header has no valid {name[:40]!r}")
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
    body, end, tail = text.partition(END)
    if not end or tail or not body.startswith("tree\n") or "\0" in text:
        raise ValueError("this is not LightGBM's text format")
    header, *trees = body.split("Tree=")
    for number, section in enumerate([header, *trees]):
        lines = section.strip().split("\n")
        if number and lines[0] != str(number - 1):
            raise ValueError(f"tree {number - 1} is missing")
        pairs = [line.partition("=") for line in lines[1:]]
        found = {key: value for key, _, value in pairs}
        if len(found) != len(pairs) or not all(equal for _, equal, _ in pairs):
            raise ValueError("a key is there twice, or has no value")
        if not number:
            sizes = [int(size) for size in found.get("tree_sizes", "").split()]
            if sizes != [len(f"Tree={tree}".encode()) for tree in trees]:
                raise ValueError("the sizes of the trees are not those of the header")
        yield found


def _check_tree(tree: dict[str, str], columns: int) -> None:
    leaves, categories, linear = (int(_integers(tree, name, 1)[0]) for name in ("num_leaves", "num_cat", "is_linear"))
    splits = leaves - 1
    if leaves < 1 or categories < 0 or linear or tree.keys() != (TREE | CATEGORIES if categories else TREE):
        raise ValueError("its sizes are not those of a tree")
    for name in ("leaf_value", "shrinkage"):
        _numbers(tree, name, leaves if name == "leaf_value" else 1)
    if not splits:
        return
    feature, decision = _integers(tree, "split_feature", splits), _integers(tree, "decision_type", splits)
    threshold = _numbers(tree, "threshold", splits, _THRESHOLD)
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


def _numbers(section: dict[str, str], name: str, size: int, form: re.Pattern[str] = _FLOAT) -> np.ndarray:
    parts = section.get(name, "").split(" ")
    if len(parts) != size:
        raise ValueError(f"{name} has {len(parts)} values, not {size}")
    if not all(map(form.match, parts)):
        raise ValueError(f"{name} has a value that is not a number")
    return np.array([float(part) for part in parts])


def _integers(section: dict[str, str], name: str, size: int) -> np.ndarray:
    parts = section.get(name, "").split(" ")
    if len(parts) != size:
        raise ValueError(f"{name} has {len(parts)} values, not {size}")
    if not all(map(_INTEGER.match, parts)):
        raise ValueError(f"{name} has a value that is not a whole number")
    return np.array([int(part) for part in parts], np.int64)
