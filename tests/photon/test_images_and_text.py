"""Pictures and texts go round the loop as they were sent: served, corrected, and back in the dataset as it keeps them."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest

from leptonai.data.dataset import open_dataset
from leptonai.data.importing import import_data
from leptonai.photon.collecting import collect, to_dataset
from leptonai.photon.process import start_service

from .conftest import call, publish

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 12, 10, 1), np.uint8)
LABELS = np.array(["left", "right"] * 20)


def png(pixels) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(file, "PNG")
    return file.getvalue()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def publish_untrained(home, task_class, dataset, name):
    """What it answers does not matter here, only what becomes of the pictures."""
    task = task_class.plan(dataset, "label", None)
    columns = dataset.columns()
    task.fit(columns, np.arange(dataset.num_rows))
    network = task.build(task.networks[0], {})
    if hasattr(network, "fit"):
        encoded = task.encode(columns)
        network.fit(encoded.inputs, encoded.target)
    return publish(home, task, network, name)


@pytest.fixture
def pictures(home):
    """The same pictures, kept as pixels and kept as files."""
    from leptonai.tasks.image_classification import ImageClassification

    raw = import_data("raw", {"image": PICTURES, "label": LABELS.tolist()}, types={"image": "image"}, home=home)
    for number, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        path = home.root / "folder" / label / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
    import_data("files", home.root / "folder", home=home)
    publish_untrained(home, ImageClassification, raw, "pictures")
    return home


def test_pictures_of_every_form_come_back_as_the_dataset_keeps_them(pictures):
    home = pictures
    sent = [
        text_of(png(PICTURES[3])),
        PICTURES[4].tolist(),
        "data:image/png;base64," + text_of(png(PICTURES[5])),
        PICTURES[6, :, :, 0].tolist(),
    ]
    with start_service("pictures", "pictures", home=home) as service:
        status, answer, _ = call(service, "POST", "/predict", {"rows": [{"image": value} for value in sent]})
        assert status == 200, answer
        assert answer["predictions"][0]["label"] in ("left", "right")
        for row in range(4):
            given = {"request_id": answer["request_id"], "row": row, "label": "right"}
            assert call(service, "POST", "/feedback", given)[0] == 200
        wrong = call(service, "POST", "/feedback", {"request_id": answer["request_id"], "label": "rihgt"})
        assert (wrong[0], wrong[1]["fix"]) == (400, "Did you mean 'right'?")
        for bad in ("no base64!", text_of(b"GIF89a"), text_of(png(PICTURES[0])[:60]), [[1, 2], [3]], 7, None):
            status, refused, _ = call(service, "POST", "/predict", {"image": bad})
            assert status == 400 and "row 0, column 'image'" in refused["error"], refused

    raw, files = to_dataset("pictures", "raw", home), to_dataset("pictures", "files", home)
    rows = np.arange(40, 44)
    assert np.array_equal(np.asarray(raw.columns(["image"])["image"][rows]), PICTURES[3:7])
    assert np.array_equal(np.asarray(files.columns(["image"])["image"][rows]).reshape(4, 12, 10, 1), PICTURES[3:7])
    assert raw.table(["label"]).column("label").to_pylist()[-4:] == ["right"] * 4
    kept = open_dataset("files", home).take([40], ["image"]).column("image").to_pylist()[0]
    assert kept == png(PICTURES[3]), "the file itself, not a copy of its pixels"
    assert collect("pictures", home).num_rows == 4


def test_a_large_picture_is_refused_before_it_is_unpacked(pictures):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with start_service("pictures", "pictures", home=pictures) as service:
        status, answer, _ = call(service, "POST", "/predict", {"image": text_of(bomb)})
    assert (status, "row 0, column 'image'" in answer["error"]) == (400, True), answer
    assert "pixels" in answer["error"]


def test_texts(home):
    from leptonai.tasks.text_classification import TextClassification

    texts = [f"{'good' if label == 'left' else 'bad'} thing {i}" for i, label in enumerate(LABELS)]
    data = import_data("texts", {"text": texts, "label": LABELS.tolist()}, types={"text": "text"}, home=home)
    publish_untrained(home, TextClassification, data, "texts")
    said = 'naïve "quotes"\n\ttabs, 中文 and 🦉'
    with start_service("texts", "texts", home=home) as service:
        status, answer, _ = call(service, "POST", "/predict", {"text": said})
        assert status == 200, answer
        assert call(service, "POST", "/predict", {"text": 3})[0] == 400
        assert call(service, "POST", "/feedback", {"request_id": answer["request_id"], "label": "left"})[0] == 200
    new = to_dataset("texts", "texts", home)
    assert new.table(["text", "label"]).to_pylist()[-1] == {"text": said, "label": "left"}
