"""Images, sounds and texts come from folders, zips and idx files."""

import gzip
import zipfile

import numpy as np
import pytest

from leptonai.data.fields import schema_of
from leptonai.data.importing import import_data, read_source

from .conftest import idx, png, wav, write_files

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_class_folders_give_labels(tmp_path, home):
    write_files(tmp_path / "pets", {"cat/1.png": png(GREY), "cat/2.png": png(GREY + 1), "dog/1.png": png(GREY + 2)})
    dataset = import_data("pets", tmp_path / "pets", home=home)
    assert [(c.name, c.type, c.shape) for c in dataset.schema] == [
        ("image", "image", (3, 4, 1)),
        ("file", "text", None),
        ("label", "category", None),
    ]
    assert dataset.columns()["label"].strings() == ["cat", "cat", "dog"]
    assert np.array_equal(dataset.columns()["image"][:, :, :, 0], [GREY, GREY + 1, GREY + 2])


def test_part_folders_give_the_split(tmp_path, home):
    files = {
        f"{part}/{label}/{i}.png": png(GREY) for part in ("train", "val", "test") for label in "ab" for i in range(2)
    }
    dataset = import_data("x", write_files(tmp_path / "x", files), home=home)
    assert {part: len(dataset.rows(part)) for part in ("train", "validation", "test")} == {
        "train": 4,
        "validation": 4,
        "test": 4,
    }
    assert dataset.profile["label"]["distinct"] == 2


def test_one_folder_is_no_class_and_a_table_beside_tells_facts(tmp_path):
    files = {f"images/{i}.png": png(GREY) for i in range(3)}
    facts = b'{"file": "2.png", "name": "two"}\n{"file": "0.png", "name": "zero"}\n{"file": "1.png", "name": "one"}\n'
    table = read_source(write_files(tmp_path, {**files, "facts.jsonl": facts}))
    assert table.column_names == ["image", "file", "name"]
    assert table.column("name").to_pylist() == ["zero", "one", "two"]


def test_sizes_that_differ_stay_encoded_and_can_be_resized(tmp_path, home):
    write_files(tmp_path / "x", {"a/1.png": png(GREY), "b/2.png": png(np.full((6, 8, 3), 200))})
    dataset = import_data("x", tmp_path / "x", home=home)
    assert dataset.schema["image"].shape is None
    columns = dataset.columns()
    assert columns["image"][0] == png(GREY)
    resized = columns.images("image", size=(6, 8), channels=3)
    assert resized.shape == (2, 6, 8, 3)
    assert (resized[1] == 200).all()
    assert columns.images("image", size=(3, 4), channels=1)[0, :, :, 0].tolist() == GREY.tolist()


def test_raw_images_can_be_resized_too(home):
    dataset = import_data("x", {"image": np.full((2, 4, 4), 7, np.uint8)}, home=home)
    assert dataset.columns()["image"].shape == (2, 4, 4, 1)
    assert (dataset.columns().images("image", size=(8, 8), channels=3) == 7).all()


def test_transparency_is_white(tmp_path, home):
    drawing = np.zeros((2, 2, 4), np.uint8)
    drawing[0, 0] = [10, 20, 30, 255]
    dataset = import_data("x", write_files(tmp_path / "x", {"1.png": png(drawing)}), home=home)
    assert dataset.columns()["image"][0].tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [255] * 3]]


def test_wav_folder_and_zip(tmp_path, home):
    write_files(tmp_path / "x", {f"{word}/{i}.wav": wav(800 * (i + 1)) for word in ("yes", "no") for i in range(2)})
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted((tmp_path / "x").rglob("*.wav")):
            archive.write(file, f"top/{file.relative_to(tmp_path / 'x')}")
    folder, packed = import_data("folder", tmp_path / "x", home=home), import_data("zip", tmp_path / "x.zip", home=home)
    assert folder.content_hash == packed.content_hash
    assert folder.columns()["audio"][0] == wav(800)
    assert folder.profile["audio"]["sample_rates"] == {"8000": 4}
    assert folder.profile["audio"]["seconds"]["max"] == pytest.approx(0.2)


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress], ids=["plain", "gzip"])
def test_mnist_files_with_both_parts(tmp_path, home, pack):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    ending = ".gz" if pack is gzip.compress else ""
    for part, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        (tmp_path / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(images[rows])))
        (tmp_path / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(np.arange(5)[rows])))
    dataset = import_data("mnist", tmp_path, home=home)
    assert np.array_equal(dataset.columns()["image"][..., 0], images)
    assert dataset.columns()["label"].tolist() == [0, 1, 2, 3, 4]
    assert dataset.rows("test").tolist() == [3, 4]
    # One of the files brings its part alone.
    assert read_source(tmp_path / f"train-images-idx3-ubyte{ending}").num_rows == 3


def test_texts_in_class_folders(tmp_path):
    write_files(tmp_path / "x", {"pos/1.txt": b"good\nfilm", "neg/1.txt": b"bad"})
    table = read_source(tmp_path / "x")
    assert table.to_pydict() == {
        "text": ["bad", "good\nfilm"],
        "file": ["neg/1.txt", "pos/1.txt"],
        "label": ["neg", "pos"],
    }
    assert [c.type for c in schema_of(table)] == ["text", "text", "category"]


def test_the_real_sets(shared, home):
    """What lies in ../shared/data comes in as its makers mean it."""
    mnist = import_data("mnist", shared / "mnist", home=home)
    assert (mnist.num_rows, mnist.schema["image"].shape, mnist.profile["label"]["distinct"]) == (
        60_000,
        (28, 28, 1),
        10,
    )
    spoken = import_data("spoken", shared / "spoken-digits", home=home)
    assert (spoken.num_rows, spoken.schema.names) == (2700, ["audio", "file"])
    emoji = import_data("emoji", shared / "emoji-image-text" / "train.zip", home=home)
    assert emoji.schema["category"].type == "category"
    assert emoji.columns()["image"].shape == (1242, 64, 64, 3)
    adult = import_data("adult", shared / "adult-census", home=home)
    assert (adult.num_rows, adult.schema["income"].type, adult.schema["age"].type) == (32_561, "category", "integer")
    bank = import_data("bank", shared / "banking77" / "train.csv", home=home)
    assert (bank.schema["text"].type, bank.profile["category"]["distinct"]) == ("text", 77)
