"""A checkpoint is whole or absent, verified before use, and holds no pickle. A damaged one is passed over, and it is said."""

import json
import resource
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.base.errors import DiskFull, InvalidInput
from leptonai.base.home import Home
from leptonai.train.checkpoint import CheckpointStore, flatten, unflatten
from leptonai.train.record import read_run
from leptonai.train.run import Run

PARTS = {
    "model": {"weight": torch.arange(1000.0), "bias": torch.ones(3, dtype=torch.bfloat16)},
    "state": {"step": (1, [2.5, None])},
}


@pytest.fixture
def store(tmp_path):
    said = []
    store = CheckpointStore(tmp_path / "checkpoints", keep=2, warn=said.append)
    store.said = said
    return store


def test_what_was_saved_comes_back(store):
    store.save(7, PARTS)
    found = store.newest()
    assert found.step == 7 and found.parts["state"] == {"step": (1, [2.5, None])}
    assert torch.equal(found.parts["model"]["weight"], PARTS["model"]["weight"])
    assert found.parts["model"]["bias"].dtype is torch.bfloat16
    assert (store.folder / "LATEST").read_text() == "step-000000007\n" and store.said == []


def test_the_last_ones_are_kept(store):
    for step in (1, 2, 3):
        store.save(step, PARTS)
    assert sorted(path.name for path in store.folder.glob("step-*")) == ["step-000000002", "step-000000003"]


def test_nothing_saved_is_nothing_found(store):
    assert store.newest() is None


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, remove])
@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(store, damage, file):
    store.save(1, PARTS)
    store.save(2, PARTS)
    damage(store.folder / "step-000000002" / file)
    if file == "manifest.json" and damage is flip_a_bit:
        manifest = json.loads((store.folder / "step-000000001" / "manifest.json").read_text())
        manifest["files"]["state.json"]["sha256"] = "0" * 64
        (store.folder / "step-000000002" / "manifest.json").write_text(json.dumps(manifest))
    assert store.newest().step == 1
    [sentence] = store.said
    assert "step-000000002 is damaged" in sentence and "continuing from step-000000001" in sentence
    # The run comes past step 2 again and takes its place; the damaged one is gone.
    store.save(2, PARTS)
    assert store.newest().step == 2


def test_when_all_are_damaged_the_run_begins_again(store):
    store.save(1, PARTS)
    cut_short(store.folder / "step-000000001" / "state.json")
    assert store.newest() is None
    assert "continuing from the beginning" in store.said[0]


def test_a_future_that_did_not_happen_is_removed(store):
    store.save(8, PARTS)
    store.save(9, PARTS)
    cut_short(store.folder / "step-000000009" / "model.safetensors")
    assert store.newest().step == 8
    store.save(8 + 0, PARTS)
    assert [path.name for path in store.folder.glob("step-*")] == ["step-000000008"]


@contextmanager
def no_file_larger_than(size):
    """A disk that is full: writing past `size` bytes fails, in this process, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(store):
    store.save(1, PARTS)
    with no_file_larger_than(2000), pytest.raises(DiskFull, match="Free space"):
        store.save(2, PARTS)
    assert [path.name for path in store.folder.iterdir() if path.is_dir()] == ["step-000000001"]
    assert store.newest().step == 1 and store.said == []


def test_a_killed_save_leaves_nothing_that_is_found(store):
    store.save(1, PARTS)
    unfinished = store.folder / ".step-000000002.abcd"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert store.newest().step == 1
    store.clear_unfinished()
    assert not unfinished.exists()


def test_what_is_no_data_is_refused_and_named(store):
    with pytest.raises(InvalidInput, match=r"state\.best\.model cannot be kept in a checkpoint: received Linear"):
        store.save(1, {"state": {"best": {"model": torch.nn.Linear(1, 1)}}})
    assert store.newest() is None


def test_tied_and_overlapping_tensors(store):
    whole = torch.arange(6.0)
    store.save(
        1, {"model": {"a": whole, "b": whole, "c": whole[1:4], "t": whole.view(2, 3).t(), "none": torch.zeros(0)}}
    )
    found = store.newest().parts["model"]
    assert found["a"] is found["b"]
    assert (
        found["c"].tolist() == [1, 2, 3]
        and found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
        and found["none"].shape == (0,)
    )
    header = (store.folder / "step-000000001" / "model.safetensors").read_bytes()
    assert b'"model.a"' in header and b'"model.b"' not in header


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(nested)
def test_any_nested_state_survives_json(value):
    tensors = {}
    text = json.dumps(flatten({"value": value}, "p", tensors, {}))
    assert unflatten(json.loads(text), tensors) == {"value": value}


def test_a_run_goes_on_from_the_checkpoint_before_and_says_so(tmp_path, capsys):
    home = Home(tmp_path)

    def train(stop_after=None):
        run = Run("exp", home=home, track=(), checkpoint_every=2)
        model = torch.nn.Linear(1, 1)
        model, optimizer, loader = run.prepare(model, torch.optim.Adam(model.parameters()), [torch.ones(1, 1)] * 9)
        for step, batch in run.steps(loader):
            run.backward(model(batch).sum())
            optimizer.step()
            optimizer.zero_grad()
            if step == stop_after:
                break
        return run, model.weight.item()

    train(stop_after=7)
    flip_a_bit(home.runs / "exp" / "checkpoints" / "step-000000006" / "optimizer.safetensors")
    run, weight = train()
    said = capsys.readouterr().err
    assert (
        "Warning: checkpoint step-000000006 is damaged (the hash of optimizer.safetensors is not what was written); continuing from step-000000004."
        in said
    )
    assert any("step-000000006 is damaged" in event["event"] for event in read_run(run.folder)["events"])
    run.finish()
    assert train()[1] == weight  # the unbroken run
