"""Which rows train, validate and test. A pure function of the column values, the fractions and the seed."""

from __future__ import annotations

import numpy as np

from ..base.errors import InvalidInput
from .order import permutation

TRAIN, VALIDATION, TEST = 0, 1, 2
PART_NAMES = ("train", "validation", "test")


def check_fractions(test: float, validation: float) -> None:
    for name, value in (("test", test), ("validation", validation)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise InvalidInput(
                f"the fraction {name} is not one", received=value, expected="a number from 0 to below 1, such as 0.2"
            )
    if test + validation >= 1:
        raise InvalidInput(
            "no rows are left to train on",
            received=f"test {test} + validation {validation}",
            expected="together below 1",
        )
    if test + validation == 0:
        raise InvalidInput(
            "nothing is to be split off",
            received="test 0, validation 0",
            fix="Give at least one fraction, such as --test 0.2.",
        )


def split_rows(n: int, test: float, validation: float, seed: int) -> np.ndarray:
    """(n,) int8 of parts, by chance alone."""
    parts = np.zeros(n, np.int8)
    order = permutation(n, seed, 0)
    tests, validations = _counts(n, test, validation)
    parts[order[:tests]] = TEST
    parts[order[tests : tests + validations]] = VALIDATION
    return parts


def split_stratified(
    codes: np.ndarray, names: list, test: float, validation: float, seed: int, column: str
) -> np.ndarray:
    """Every class in every part in its share. `codes`: (n,) class numbers, −1 for rows without a class; names[code] is shown."""
    parts = np.zeros(len(codes), np.int8)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    needed = 1 + (test > 0) + (validation > 0)
    for code in np.flatnonzero(counts < needed):
        raise InvalidInput(
            f"class {names[code]!r} of column {column!r} has {counts[code]} row{'s' * int(counts[code] != 1)}, too few to be in every part",
            expected=f"at least {needed}", fix="Add rows of that class, remove it, or split without --stratify.",
        )  # fmt: skip
    order = permutation(len(codes), seed, 0)
    order = order[np.argsort(codes[order], kind="stable")]
    starts = np.searchsorted(codes[order], np.arange(-1, len(names)))
    owed = np.zeros(2)
    for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        size = stop - start
        if not size:
            continue
        # What rounding took from one class is given to the next, so the whole has its share too.
        owed += size * np.array([test, validation])
        least = [int(test > 0), int(validation > 0)] if size >= needed else [0, 0]
        takes = np.clip(np.round(owed).astype(int), least, size)
        while takes.sum() >= size:
            takes[np.argmax(takes)] -= 1
        owed -= takes
        parts[order[start : start + takes[0]]] = TEST
        parts[order[start + takes[0] : start + takes.sum()]] = VALIDATION
    return parts


def split_grouped(codes: np.ndarray, test: float, validation: float, seed: int, column: str) -> np.ndarray:
    """Rows of one group stay together: no person, speaker or document is in two parts. −1 is a group of its own."""
    groups, codes = np.unique(codes, return_inverse=True)
    needed = 1 + (test > 0) + (validation > 0)
    if len(groups) < needed:
        raise InvalidInput(
            f"column {column!r} has too few groups to split", received=len(groups), expected=f"at least {needed}",
            fix="Choose another --group, or give fewer parts.",
        )  # fmt: skip
    sizes = np.bincount(codes)
    goal = [len(codes) * share for share in (1 - test - validation, validation, test)]
    wanted = [part for part in (TRAIN, VALIDATION, TEST) if goal[part] > 0]
    part_of = np.zeros(len(groups), np.int8)
    have = [0, 0, 0]
    # Large groups first, equal ones by chance: each goes where most rows are still missing, as a share of the goal.
    order = permutation(len(groups), seed, 0)
    order = order[np.argsort(-sizes[order], kind="stable")]
    for left, (group, size) in zip(
        range(len(order), 0, -1), zip(order.tolist(), sizes[order].tolist(), strict=True), strict=True
    ):
        empty = [part for part in wanted if not have[part]]
        part = empty[0] if left <= len(empty) else max(wanted, key=lambda part: (goal[part] - have[part]) / goal[part])
        part_of[group] = part
        have[part] += size
    return part_of[codes]


def _counts(n: int, test: float, validation: float) -> tuple[int, int]:
    needed = 1 + (test > 0) + (validation > 0)
    if n < needed:
        raise InvalidInput("there are too few rows to split", received=n, expected=f"at least {needed}")
    tests = max(round(n * test), int(test > 0))
    validations = max(round(n * validation), int(validation > 0))
    while tests + validations >= n:
        tests, validations = (tests - 1, validations) if tests >= validations else (tests, validations - 1)
    return tests, validations
