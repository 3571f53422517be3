"""The order of an epoch is a pure function of (rows, seed, epoch), and batches are the same from memory and from a map."""

from itertools import chain

import numpy as np
import pytest
import torch

from leptonai.base.errors import InvalidInput
from leptonai.train import loader as loader_module
from leptonai.train.loader import Loader

ROWS = 23
X = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 2, 2)
Y = np.arange(ROWS)


def rows_of(batches):
    return [batch["y"].tolist() for batch in batches]


@pytest.fixture
def mapped(tmp_path):
    X.tofile(tmp_path / "x")
    return np.memmap(tmp_path / "x", np.float32, "r", shape=X.shape)


def test_every_row_comes_once_in_an_epoch_and_epochs_differ():
    loader = Loader({"x": X, "y": Y}, batch_size=5)
    epochs = [rows_of(loader.batches(epoch)) for epoch in range(3)]
    assert len(loader) == 5 and [len(batch) for batch in epochs[0]] == [5, 5, 5, 5, 3]
    assert all(sorted(chain(*epoch)) == list(range(ROWS)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and rows_of(loader.batches(1)) == epochs[1]
    assert rows_of(Loader({"y": Y}, batch_size=5, seed=1).batches(0)) != epochs[0]


def test_rows_of_all_arrays_belong_together():
    for batch in Loader({"x": X, "y": Y}, batch_size=4).batches(0):
        assert torch.equal(batch["x"], torch.from_numpy(X[batch["y"].numpy()]))


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": False}, {"drop_last": True}, {"rows": np.arange(20, 2, -1)}], ids=str
)
@pytest.mark.parametrize("small", [False, True])
def test_an_epoch_begun_in_the_middle_goes_on_as_the_whole_one(monkeypatch, options, small):
    if small:
        monkeypatch.setattr(loader_module, "EPOCH_GATHER_BYTES", 10)  # batch by batch
    loader = Loader({"x": X, "y": Y}, batch_size=5, seed=3, **options)
    whole = rows_of(loader.batches(2))
    assert len(whole) == len(loader)
    assert all(rows_of(loader.batches(2, start)) == whole[start:] for start in range(len(loader) + 1))


def test_memory_and_map_give_the_same_batches(monkeypatch, mapped):
    arrays, some = {"x": mapped, "y": Y}, np.array([3, 1, 4, 15, 9, 2, 6])
    for rows in (None, some):
        resident = Loader(arrays, rows, 4)
        monkeypatch.setattr(loader_module, "memory_bytes", lambda: 100)
        read = Loader(arrays, rows, 4)
        monkeypatch.undo()
        assert resident.resident and not read.resident
        for a, b in zip(resident.batches(1), read.batches(1), strict=True):
            assert torch.equal(a["x"], b["x"]) and torch.equal(a["y"], b["y"])
            assert torch.equal(a["x"], torch.from_numpy(X[a["y"].numpy()]))


def test_given_rows_are_the_only_ones(mapped):
    rows = np.array([3, 1, 4, 15])
    loader = Loader({"x": mapped, "y": Y}, rows, 3)
    assert sorted(chain(*rows_of(loader))) == [1, 3, 4, 15]
    assert loader.order(0).tolist() == list(chain(*rows_of(loader.batches(0))))


def test_a_batch_may_be_changed_in_place():
    loader = Loader({"x": torch.from_numpy(X.copy())}, batch_size=ROWS, shuffle=False)
    next(loader.batches(0))["x"].zero_()
    assert torch.equal(next(loader.batches(0))["x"], torch.from_numpy(X))


def test_augmentation_depends_on_seed_epoch_and_batch_alone():
    def noise(batch, generator):
        return {"x": batch["x"] + torch.rand(batch["x"].shape, generator=generator)}

    loader = Loader({"x": X}, batch_size=5, transform=noise)
    whole = [batch["x"] for batch in loader.batches(4)]
    torch.manual_seed(123)
    assert torch.equal(next(loader.batches(4, 3))["x"], whole[3])
    assert not torch.equal(next(loader.batches(5))["x"] % 1, whole[0] % 1)
    assert len({batch.flatten()[0].item() % 1 for batch in whole}) == len(whole)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (({},), "at least one array"),
        (({"x": X, "y": Y[:-1]},), "differ in length"),
        (({"x": X}, None, 0), "at least 1"),
        (({"x": X}, [-1]), "from 0 to 22"),
        (({"x": X}, [0.5]), "whole numbers"),
        (({"x": X}, np.array([], int)), "not one whole batch"),
        (({"x": np.array(["a", "b"])},), "'x' has no numbers"),
        (({"x": np.array([None, "b"])},), "Encode it"),
    ],
)
def test_what_makes_no_batches_is_refused(arguments, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        Loader(*arguments)


def test_a_last_batch_that_would_be_the_only_one_is_not_dropped_silently():
    with pytest.raises(InvalidInput, match="drop_last=False"):
        Loader({"x": X}, batch_size=50, drop_last=True)
