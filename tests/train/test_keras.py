"""Keras in a run: its metrics are tracked, and what is published scales its inputs as the script did, or says that it cannot."""

import os

import numpy as np
import pytest

import leptonai as la
from leptonai.base.errors import InvalidInput, Refused
from leptonai.base.home import Home
from leptonai.train.provenance import find_dataset, take_sample

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from leptonai.train import keras as tracking  # noqa: E402
from leptonai.train.keras_publish import remember  # noqa: E402
from leptonai.train.trackers import read_metrics  # noqa: E402


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    return Home(tmp_path)


def pictures(rows=120, shape=(6, 6, 1), seed=0):
    random = np.random.default_rng(seed)
    label = np.arange(rows) % 3
    image = random.integers(0, 100, (rows, *shape)).astype(np.uint8)
    image[np.arange(rows), label] += 150  # a bright row says which class it is
    return image, label


@pytest.fixture
def dataset(home):
    image, label = pictures()
    return la.import_data("bars", {"image": image, "label": label}, home=home).split(test=0.25, validation=0, seed=0)


def network(outputs=3, last="softmax", shape=(6, 6, 1)):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(outputs, activation=last),
        ]
    )
    loss = {
        "softmax": "sparse_categorical_crossentropy",
        "sigmoid": "binary_crossentropy",
        None: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if outputs > 1
        else keras.losses.BinaryCrossentropy(from_logits=True),
    }[last]
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def train_part(dataset):
    columns, rows = dataset.columns(["image", "label"]), dataset.rows("train")
    return columns["image"][rows], columns["label"][rows]


# Where the rows came from


SCALES = {
    "raw": (lambda x: x, 1.0, 0.0),
    "1/255": (lambda x: x.astype("float32") / 255, 1 / 255, 0.0),
    "-1 to 1": (lambda x: x / 127.5 - 1, 1 / 127.5, -1.0),
    "by its maximum": (lambda x: x / x.max(), 1 / 249, 0.0),
    "standardised": (lambda x: ((x - 80.5) / 33.25).astype("float32"), 1 / 33.25, -80.5 / 33.25),
    "flat": (lambda x: x.reshape(len(x), -1) / 255, 1 / 255, 0.0),
}


@pytest.mark.parametrize("case", SCALES)
def test_the_scale_is_found_by_comparing_rows(home, dataset, case):
    prepare, scale, offset = SCALES[case]
    image, label = train_part(dataset)
    if case == "by its maximum":
        scale = 1 / image.max()
    order = np.random.default_rng(1).permutation(len(image))

    match = find_dataset(take_sample(prepare(image)[order], label[order]), 3, home)

    assert match.dataset.ref == dataset.ref and (match.input, match.target) == ("image", "label")
    assert match.scale == pytest.approx(scale, rel=1e-3) and match.offset == pytest.approx(offset, abs=1e-2)
    assert match.labels == [0, 1, 2]
    raw = dataset.columns(["image"])["image"][match.rows]
    passed = prepare(image)[order][match.sample_rows]  # of so few rows, the sample is all
    np.testing.assert_allclose(raw.reshape(passed.shape) * match.scale + match.offset, passed, atol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x[::-1] * 0 + 7, y),  # blank pictures prove nothing
        lambda x, y: (np.random.default_rng(5).integers(0, 256, x.shape).astype("uint8"), y),  # other pictures
        lambda x, y: (x, np.roll(y, 1)),  # other labels
        lambda x, y: (x / 255 + np.random.default_rng(0).normal(0, 0.1, x.shape), y),  # noise
        lambda x, y: (x[:, ::-1], y),  # upside down
    ],
    ids=["blank", "other", "labels", "noise", "flipped"],
)
def test_what_is_not_the_dataset_is_not_taken_for_it(home, dataset, change):
    image, label = train_part(dataset)
    assert find_dataset(take_sample(*change(image, label)), 3, home) is None


def test_names_of_classes_follow_the_script_not_the_alphabet(home):
    image, label = pictures()
    names = np.array(["cherry", "apple", "plum"])
    la.import_data("fruit", {"image": image, "label": names[label].tolist()}, types={"label": "category"}, home=home)
    one_hot = np.eye(3)[label]
    match = find_dataset(take_sample(image / 255, one_hot), 3, home)
    assert match.labels == ["cherry", "apple", "plum"]


def test_generators_and_texts_are_no_sample():
    assert take_sample((x for x in [1]), None) is None
    assert take_sample(np.array(["a", "b"]), np.array([0, 1])) is None
    assert take_sample(np.zeros((3, 2)), np.array([0.5, 1.5, 2.0])) is None
    assert take_sample(np.zeros((3, 2)), np.array([0, 1])) is None


# What is published


ENDS = {"softmax": (3, "softmax"), "logits": (3, None), "sigmoid": (1, "sigmoid"), "logit": (1, None)}


@pytest.mark.parametrize("ends", ENDS)
def test_a_published_model_answers_as_the_live_one(home, ends):
    outputs, last = ENDS[ends]
    image, label = pictures()
    label = label if outputs > 1 else (label > 0).astype(int)
    data = la.import_data("bars", {"image": image, "label": label}, home=home).split(test=0.25, validation=0, seed=0)
    x, y = train_part(data)
    model = network(outputs, last)
    remember(model, x / 255, y)
    model.fit(x / 255, y, epochs=3, verbose=0)

    entry = tracking.publish(model, "bars", home=home)
    loaded = la.load("bars", home=home)

    assert entry.manifest.network["kind"] == "keras" and entry.manifest.task == "image-classification"
    assert entry.manifest.network["config"]["ends"] == ends
    live = model.predict(image[:9] / 255, verbose=0)
    live = (
        live
        if last
        else (1 / (1 + np.exp(-live)) if outputs == 1 else np.exp(live) / np.exp(live).sum(1, keepdims=True))
    )
    live = np.hstack([1 - live, live]) if outputs == 1 else live
    np.testing.assert_allclose(loaded.outputs({"image": image[:9]}), live, atol=1e-5)
    answer = loaded.predict({"image": image[0, :, :, 0].tolist()})
    assert answer["label"] == int(live[0].argmax())
    assert entry.manifest.lineage["data"] == data.ref and "proven on" in entry.manifest.lineage["scaling"]
    assert entry.manifest.metrics["test"]["rows"] == 30


def test_a_wrong_scale_is_refused_if_what_fit_received_is_known(home, dataset):
    x, y = train_part(dataset)
    model = network()
    remember(model, x / 255, y)
    with pytest.raises(InvalidInput, match=r"received scale=1, expected scale=0\.00392157"):
        tracking.publish(model, "bars", dataset="bars", scale=1.0, home=home)


def test_the_scripts_word_is_taken_and_written_down_if_nothing_is_known(home, dataset):
    entry = tracking.publish(network(), "bars", dataset="bars", scale=1 / 255, home=home)
    assert "as the script said" in entry.manifest.lineage["scaling"]
    assert la.load("bars", home=home).task.classes == [0, 1, 2]
    with pytest.raises(InvalidInput, match="4 outputs"):
        tracking.publish(network(4), "bars", dataset="bars", scale=1 / 255, home=home)


def test_without_proof_the_weights_are_kept_but_not_served(home, dataset, capsys):
    x, y = train_part(dataset)
    model = network()
    remember(model, x * x.astype("float32"), y)

    entry = tracking.publish(model, "odd", home=home)

    assert entry.manifest.network["kind"] == "external"
    assert "does not know how the script scaled" in capsys.readouterr().err
    with pytest.raises(Refused):
        la.load("odd", home=home)
    again = tracking.load("odd", home=home)
    np.testing.assert_allclose(again.predict(x[:5], verbose=0), model.predict(x[:5], verbose=0), atol=1e-6)


def test_test_rows_that_fit_saw_measure_nothing(home, dataset, capsys):
    columns = dataset.columns(["image", "label"])
    model = network()
    remember(model, np.asarray(columns["image"]) / 255, np.asarray(columns["label"]))
    entry = tracking.publish(model, "bars", home=home)
    assert "test" not in entry.manifest.metrics
    assert "fit() received test rows" in capsys.readouterr().err


def test_own_layers_are_kept_as_weights(home, dataset, capsys):
    class Twice(keras.layers.Layer):
        def call(self, x):
            return x * 2

    x, y = train_part(dataset)
    model = keras.Sequential([keras.Input((6, 6, 1)), Twice(), keras.layers.Flatten(), keras.layers.Dense(3)])
    remember(model, x / 255, y)
    entry = tracking.publish(model, "own", home=home)
    assert entry.manifest.network["kind"] == "external"
    assert "may run code or that Lepton does not know" in capsys.readouterr().err


# Metrics


def test_track_logs_every_epoch_into_a_run_that_publishes_the_model(home, dataset):
    x, y = train_part(dataset)
    run = la.Run("bars", seed=0, home=home)
    model = network()

    model.fit(
        x / 255, y, epochs=3, batch_size=30, validation_split=0.2, verbose=0, callbacks=[la.train.keras.Track(run)]
    )
    entry = run.publish(model, "bars", tags=["first"])

    assert (
        entry.manifest.lineage["run"] == "bars"
        and entry.tags == ("first",)
        and entry.manifest.metrics["accuracy"] == run.metrics["accuracy"]
    )
    lines = read_metrics(run.folder)
    assert [(line["step"], line["epoch"]) for line in lines] == [(3, 1), (6, 2), (9, 3)]
    assert {"loss", "accuracy", "validation.loss", "validation.accuracy"} <= set(lines[0])
    assert list(run.folder.glob("events.out.tfevents.*"))
