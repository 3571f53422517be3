"""Versions never change, tags move, and a push, a tag or a removal is whole or absent, whoever else writes."""

import multiprocessing
import os
import signal
import threading

import pytest

from leptonai.base.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused
from leptonai.base.home import Home
from leptonai.zoo.files import read_model
from leptonai.zoo.store import ModelStore


def test_versions_count_up_and_tags_point_at_them(store, make):
    first = store.push(make(1), "mnist", ["production"])
    second = store.push(make(2), "mnist")

    assert (first.ref, second.ref) == ("mnist@1", "mnist@2")
    assert store.resolve("mnist").version == 2
    assert store.resolve("mnist@latest").version == 2
    assert store.resolve("mnist@1").version == 1
    assert store.resolve("mnist@production").version == 1
    assert second.manifest.name == "mnist"
    assert second.manifest.version == 2
    assert read_model(second.folder).manifest.version == 2

    store.tag("mnist@2", "production")
    assert store.resolve("mnist@production").version == 2
    assert store.resolve("mnist@1").tags == ()


def test_the_same_model_pushed_again_is_the_same_version(store, make):
    first = store.push(make(1), "mnist")
    again = store.push(make(1), "mnist", ["production"])
    from_the_store = store.push(store.pull("mnist@1", store.home.root / "copy"), "mnist")

    assert first.ref == again.ref == from_the_store.ref == "mnist@1"
    assert again.tags == ("production",)
    # Other lineage is another model, even with equal weights.
    assert store.push(make(1, lineage={"data": "other@1"}), "mnist").version == 2


def test_pull_gives_a_folder_that_verifies(store, make, tmp_path):
    store.push(make(1), "mnist")

    path = store.pull("mnist@1", tmp_path / "out")

    assert read_model(path).manifest.ref == "mnist@1"
    with pytest.raises(Conflict, match="not an empty folder"):
        store.pull("mnist@1", path)
    (tmp_path / "empty").mkdir()
    assert (store.pull("mnist", tmp_path / "empty") / "lepton.json").is_file()


def test_a_damaged_version_is_neither_pulled_nor_pushed(store, make, tmp_path):
    entry = store.push(make(1), "mnist")
    weights = entry.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        store.pull("mnist@1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Corrupt):
        store.push(entry.folder, "copy")
    assert store.names() == ["mnist"]


def test_a_tagged_version_goes_only_by_force(store, make):
    store.push(make(1), "mnist", ["production", "best"])

    with pytest.raises(Conflict, match="best, production"):
        store.remove("mnist@1")
    store.remove("mnist@1", force=True)

    with pytest.raises(NotFound, match="no model 'mnist'"):
        store.resolve("mnist@production")
    assert store.list() == []


def test_a_number_is_never_given_twice(store, make):
    store.push(make(1), "mnist")
    store.push(make(2), "mnist")
    store.remove("mnist@2")

    assert store.push(make(3), "mnist").ref == "mnist@3"
    store.remove("mnist@1")
    store.remove("mnist@3")
    assert store.push(make(1), "mnist").ref == "mnist@4"


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("mnits", "Did you mean 'mnist'"),
        ("mnist@9", "There is: 1"),
        ("mnist@prodution", "Did you mean 'production'"),
        ("mnist@" + "9" * 50, "no version"),
    ],
)
def test_what_is_not_there_names_what_is(store, make, ref, says):
    store.push(make(1), "mnist", ["production"])

    with pytest.raises(NotFound, match=says):
        store.resolve(ref)


@pytest.mark.parametrize("ref", ["", "@1", "a@b@c", "../mnist", "mnist@../x", "a/b", ".", "mnist@"])
def test_a_ref_that_cannot_be_one(store, ref):
    with pytest.raises(InvalidInput):
        store.resolve(ref)


@pytest.mark.parametrize("tag", ["latest", "3", "3rd", "a/b", "", "..", "a b"])
def test_a_tag_that_cannot_be_one(store, make, tag):
    store.push(make(1), "mnist")

    with pytest.raises(InvalidInput):
        store.tag("mnist@1", tag)


def test_removing_needs_a_version(store, make):
    store.push(make(1), "mnist")

    with pytest.raises(InvalidInput, match="mnist@1"):
        store.remove("mnist")


def test_a_model_from_a_stranger_is_refused_before_anything_is_written(store, make):
    folder = make(1)
    (folder / "evil.pkl").write_bytes(b"\x80\x04.")

    with pytest.raises(Refused):
        store.push(folder, "evil")
    assert store.names() == []


def test_a_card_written_by_hand_is_kept_and_a_generated_one_is_renewed(store, make):
    folder = make(1)
    assert "# mnist@1" in store.push(folder, "mnist").card
    (folder / "README.md").write_text("# My own words\n")
    assert store.push(folder, "other").card == "# My own words\n"


def push_many(home, folders, name):
    for folder in folders:
        ModelStore(home).push(folder, name)


def test_pushes_at_the_same_time_get_different_versions(tmp_path, make):
    home = Home(tmp_path / "home")
    folders = [make(seed) for seed in range(12)]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=push_many, args=(home, folders[i::4], "mnist")) for i in range(4)]
    threads = [threading.Thread(target=push_many, args=(home, [folders[0]], "mnist"))]
    for worker in [*workers, *threads]:
        worker.start()
    for worker in [*workers, *threads]:
        worker.join(60)

    entries = ModelStore(home).list("mnist")
    assert sorted(entry.version for entry in entries) == list(range(1, 13))
    assert len({entry.manifest.content_hash() for entry in entries}) == 12
    for entry in entries:
        read_model(entry.folder)


def push_and_die(home, folder, after):
    """Push, and be killed at the `after`-th fsync or rename."""
    import leptonai.base.files as files

    calls = iter(range(10_000))

    def counted(real):
        def call(*arguments):
            if next(calls) == after:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    for name in ("fsync", "rename", "replace"):
        setattr(files.os, name, counted(getattr(os, name)))
    ModelStore(home).push(folder, "mnist", ["production"])


def test_a_push_killed_anywhere_leaves_a_whole_store(tmp_path, make):
    home = Home(tmp_path / "home")
    ModelStore(home).push(make(0), "mnist", ["production"])
    context = multiprocessing.get_context("fork")
    finished = False
    for after in range(40):
        worker = context.Process(target=push_and_die, args=(home, make(after + 1), after))
        worker.start()
        worker.join(60)
        finished = worker.exitcode == 0
        entries = ModelStore(home).list("mnist")
        for entry in entries:
            read_model(entry.folder)
        assert ModelStore(home).resolve("mnist@production") in entries
        if finished:
            break
    assert finished, "the loop must reach a push that survives"
    # The next writer sweeps what the killed ones left.
    ModelStore(home).push(make(99), "mnist")
    left = [path.name for path in (home.models / "mnist").iterdir() if path.name.startswith(".")]
    assert left == [".lock"]
