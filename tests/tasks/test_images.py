"""Pictures in requests: the forms that are taken, the ones that would be misread, and the limits; shifting as augmentation."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from leptonai.base.errors import InvalidInput
from leptonai.data.importing import import_data
from leptonai.data.schema import Column
from leptonai.tasks.image_classification import ImageClassification
from leptonai.tasks.images import read_image

from .cases import train_model

GREY, COLOUR = (6, 5, 1), (6, 5, 3)


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def file_of(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def text_of(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_every_form_gives_the_same_pixels(shape):
    pixels = picture(shape)
    data = file_of(pixels)
    forms = [pixels, pixels.tolist(), pixels.ravel().tolist(), pixels.astype(float).tolist(), data, text_of(data)]
    forms.append("data:image/png;base64," + text_of(data))
    if shape == GREY:
        forms.append(pixels[:, :, 0].tolist())
    for form in forms:
        assert np.array_equal(read_image(form, shape, "row 0"), pixels)


def test_a_file_of_another_size_is_resized_and_pixels_are_not():
    large = np.full((60, 50, 1), 200, np.uint8)
    assert (read_image(file_of(large), GREY, "row 0") == 200).all()
    with pytest.raises(
        InvalidInput, match=r"row 0 has another size: received 60×50×1, expected 6×5 whole.*base64 PNG instead"
    ):
        read_image(large.tolist(), GREY, "row 0")


def test_colour_and_grey_are_converted():
    assert read_image(file_of(picture(COLOUR)), GREY, "row 0").shape == GREY
    assert read_image(file_of(picture(GREY)), COLOUR, "row 0").shape == COLOUR


def test_a_16_bit_picture_is_scaled():
    deep = Image.fromarray(np.full((6, 5), 65535, np.uint16))
    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    assert (read_image(buffer.getvalue(), GREY, "row 0") == 255).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("not base64!", "row 0 is not base64"),
        (text_of(b"hello"), "row 0 cannot be decoded as a picture"),
        (text_of(file_of(picture((60, 50, 3)))[:200]), "row 0 cannot be decoded as a picture"),
        ((picture(GREY) / 255).tolist(), "not whole numbers from 0 to 255.*as they are in the image file"),
        ((picture(GREY).astype(int) - 300).tolist(), "not whole numbers from 0 to 255"),
        ([[1, 2], [3]], "rows of different lengths"),
        ([["a"] * 5] * 6, "not a number"),
        ([[float("nan")] * 5] * 6, "not whole numbers"),
        ([], "another size"),
        (None, "row 0 is not a picture"),
        (5, "row 0 is not a picture"),
        ({"png": 1}, "row 0 is not a picture"),
    ],
)
def test_what_would_be_misread_is_refused(value, message):
    with pytest.raises(InvalidInput, match=message):
        read_image(value, GREY, "row 0")


def test_a_bomb_is_refused_by_its_header():
    """8,000 × 8,000 black pixels are some kilobytes as a PNG, and 64 MB as an array."""
    buffer = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(InvalidInput, match="row 0 is too large: received 64,000,000 pixels"):
        read_image(buffer.getvalue(), GREY, "row 0")


def test_rare_formats_do_not_reach_a_decoder():
    with pytest.raises(InvalidInput, match="expected a whole PNG, JPEG"):
        read_image(file_of(picture(COLOUR), "TIFF"), COLOUR, "row 0")


def task_of(shape, **columns):
    task = ImageClassification(Column("image", "image", shape), Column("label", "integer"))
    images = np.stack([picture(shape, seed) for seed in range(20)])
    task.fit({"image": images, "label": np.arange(20) % 2}, np.arange(20))
    return task, images


@pytest.mark.parametrize("shape", [GREY, COLOUR, (4, 4, 4), (1, 1, 1), (33, 17, 2)])
def test_any_height_width_and_channels(shape):
    task, images = task_of(shape)
    network = task.build("cnn", {}).eval()
    assert network(torch.from_numpy(images)).shape == (20, 2)
    assert len(task.columns_of([task.request_schema["example"]])["image"]) == 1


def test_pixels_are_standardised_inside_the_network():
    task, images = task_of(COLOUR)
    network = task.build("cnn", {})
    standard = network.inputs(torch.from_numpy(images))
    assert standard.mean((0, 2, 3)).abs().max() < 1e-5 and (standard.std((0, 2, 3)) - 1).abs().max() < 1e-2
    assert {"inputs.mean", "inputs.std"} <= set(network.state_dict())
    assert standard.is_contiguous(memory_format=torch.channels_last)


def test_augment_moves_each_picture_by_at_most_two_of_28_pixels():
    task, _ = task_of((28, 28, 1))
    images = torch.from_numpy(np.stack([picture((28, 28, 1), seed) for seed in range(64)]))
    batch = {"image": images, "other": torch.arange(64)}
    moved = task.augment(batch, torch.Generator().manual_seed(0))
    assert moved["image"].dtype == torch.uint8 and torch.equal(moved["other"], batch["other"])
    shifts = set()
    for before, after in zip(images, moved["image"], strict=True):
        matches = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(after[2:26, 2:26], before[2 + dy : 26 + dy, 2 + dx : 26 + dx])
        ]
        assert len(matches) == 1
        shifts.add(matches[0])
    assert len(shifts) > 15
    again = task.augment(batch, torch.Generator().manual_seed(0))
    assert torch.equal(again["image"], moved["image"])


def test_an_image_folder_with_pictures_of_different_sizes(tmp_path, home):
    for label, value in (("dark", 40), ("light", 220)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            pixels = np.full((10 + i, 12, 3), value + i, np.uint8)
            (tmp_path / "pictures" / label / f"{i}.png").write_bytes(file_of(pixels))
    dataset = import_data("pictures", tmp_path / "pictures", home=home)
    model = train_model("image-classification", "cnn", dataset)
    assert model.task.shape == (14, 12, 3)
    truth = model.task.truth(dataset.columns())
    assert model.task.metrics(truth, model.outputs(dataset.columns()))["accuracy"] > 0.9
    # A file in a request goes the way that a file in the dataset went.
    row = int(np.flatnonzero(truth == 1)[0])
    data = dataset.columns()["image"][row]
    expected = model.outputs(dataset.columns(), np.array([row]))
    assert np.allclose(model.outputs(model.task.columns_of([{"image": text_of(data)}])), expected, atol=1e-6)


def test_a_dataset_without_pictures_is_refused(home):
    dataset = import_data("plain", {"x": [1.0, 2.0, 3.0], "label": ["a", "b", "a"]}, home=home)
    with pytest.raises(InvalidInput, match="image-classification needs one image column"):
        ImageClassification.plan(dataset, "label", None)


def test_pictures_of_another_size_are_refused_in_evaluation():
    task, _ = task_of(GREY)
    with pytest.raises(InvalidInput, match="have another size: received 8×8, expected 6×5"):
        task.encode({"image": np.zeros((2, 8, 8, 1), np.uint8)})
