"""The network kind `keras`: architectures are data, hostile ones are refused, and the rebuilt model answers as the live one did."""

import copy
import json
import os

import numpy as np
import pytest
import torch

from leptonai.base.errors import Corrupt, InvalidInput, LeptonError, Refused
from leptonai.nets.keras_config import checked
from leptonai.nets.registry import build, load_state, state_of

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
from keras import layers as L  # noqa: E402

from leptonai.nets.keras import architecture_of, ending_of, weight_names  # noqa: E402


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
            L.MaxPooling2D(),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(3, activation="softmax"),
        ]
    )


def functional():
    image = keras.Input((8, 8, 1))
    x = L.Flatten()(L.Rescaling(1 / 255)(image))
    return keras.Model(image, L.Dense(3)(L.Concatenate()([L.Dense(4)(x), L.Dense(5, activation="gelu")(x)])))


def nested():
    inside = keras.Sequential([keras.Input((64,)), L.Dense(6, activation="relu"), L.Dense(1, activation="sigmoid")])
    return keras.Sequential([keras.Input((8, 8, 1)), L.Reshape((64,)), inside])


def recurrent():
    return keras.Sequential([keras.Input((8, 8)), L.Bidirectional(L.LSTM(5)), L.Dense(3), L.Softmax()])


def flat():
    return keras.Sequential([keras.Input((64,)), L.Dense(3, activation="softmax")])


def without_input():
    model = keras.Sequential([L.Flatten(), L.Dense(3)])
    model(np.zeros((2, 8, 8), "float32"))
    return model


ZOO = [cnn, functional, nested, recurrent, flat, without_input]


def tensors_of(model):
    values = [weight.value.detach().numpy() for weight in model.weights]
    return dict(zip(weight_names(model), values, strict=True))


def network_of(model, scale=1.0, offset=0.0):
    network = build(
        "keras",
        {
            "architecture": json.loads(json.dumps(architecture_of(model))),
            "ends": ending_of(model),
            "scale": scale,
            "offset": offset,
        },
    )
    load_state(network, tensors_of(model))
    return network.eval()


@pytest.mark.parametrize("make", ZOO)
def test_a_rebuilt_model_gives_the_same_probabilities(make):
    model, image = make(), np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    seen = image.astype("float32") / 255
    shape = tuple(model.input_shape[1:])

    with torch.no_grad():
        raw = network_of(model, scale=1 / 255)(image=torch.from_numpy(image))

    live = model.predict(seen.reshape(-1, *shape), verbose=0)
    probabilities = raw.softmax(1).numpy()
    if live.shape[1] == 1:
        live = np.hstack([1 - live, live])
    elif ending_of(model) == "logits":
        live = torch.from_numpy(live).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, live, atol=1e-5)


def test_its_state_survives_and_wrong_state_is_corrupt():
    network = network_of(cnn())
    again = build(network.kind, network.config).eval()
    load_state(again, state_of(network))
    image = torch.randint(0, 256, (3, 8, 8, 1))
    assert torch.equal(network(image=image), again(image=image))
    with pytest.raises(Corrupt):
        load_state(network_of(flat()), state_of(network))


def test_it_can_be_trained_further_like_any_network():
    network = network_of(cnn(), scale=1 / 255)
    image, label = torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8), torch.randint(0, 3, (32,))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    network.train()
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(network(image=image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_channels_first_models_get_channels_first():
    model = keras.Sequential(
        [keras.Input((3, 8, 8)), L.Permute((2, 3, 1)), L.Conv2D(2, 3), L.GlobalAveragePooling2D(), L.Softmax()]
    )
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    with torch.no_grad():
        raw = network_of(model)(image=torch.from_numpy(image))
    live = model.predict(np.moveaxis(image, 3, 1).astype("float32"), verbose=0)
    np.testing.assert_allclose(raw.softmax(1).numpy(), live, atol=1e-5)


# What a stranger may write


def document():
    return json.loads(cnn().to_json())


def layer(class_name, config=None, module="keras.layers", **more):
    return {"module": module, "class_name": class_name, "config": config or {}, "registered_name": None, **more}


LAMBDA_CODE = {"class_name": "__lambda__", "config": {"value": "4wEAAAAAAAAA"}}
HOSTILE = {
    "Lambda": layer("Lambda", {"function": LAMBDA_CODE}),
    "lambda inside a known layer": layer("Dense", {"units": 3, "activation": LAMBDA_CODE}),
    "function of a module": layer(
        "Activation",
        {"activation": {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}},
    ),
    "torch module": layer("TorchModuleWrapper", {"module": "gASVIAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU"}),
    "own module": layer("Popen", {"args": ["true"]}, module="subprocess"),
    "own class as keras": layer("Dense", {"units": 3}, registered_name="evil>Dense"),
    "saved model": layer("TFSMLayer", {"filepath": "/etc"}),
    "vocabulary file": layer("TextVectorization", {"vocabulary": "/etc/passwd"}),
    "get_file": {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None},
    "wrapper of a lambda": layer("TimeDistributed", {"layer": layer("Lambda", {"function": LAMBDA_CODE})}),
    "initializer": layer("Dense", {"units": 3, "kernel_initializer": layer("exec", module="builtins")}),
    "tensor with a class": {"class_name": "__keras_tensor__", "config": {"shape": [layer("Lambda")]}},
    "numpy object": {"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}},
    "type spec": {"class_name": "__typespec__", "module": "os", "spec_name": "x", "config": []},
    "class name of a list": layer(["Dense"]),
    "module without class": {"module": "os", "config": {}},
    "huge number": layer("Dense", {"units": 10**12}),
    "not finite": layer("Dropout", {"rate": float("inf")}),
    "unknown key": layer("Dense", {"units": 3}, run="x"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_layers_are_refused_before_keras_sees_them(case, monkeypatch):
    monkeypatch.setattr("leptonai.nets.keras.load_keras", lambda: pytest.fail("Keras was asked"))
    architecture = document()
    architecture["config"]["layers"].insert(3, HOSTILE[case])
    with pytest.raises(Refused) as refused:
        build("keras", {"architecture": architecture, "ends": "softmax", "scale": 1.0, "offset": 0.0})
    assert len(str(refused.value)) < 400


def test_deep_and_wide_documents_are_refused():
    deep = document()
    node = deep["config"]
    for _ in range(500):
        node["x"] = {}
        node = node["x"]
    wide = document()
    wide["config"]["x"] = [0] * 300_000
    cyclic = document()
    cyclic["config"]["x"] = cyclic
    for architecture in (deep, wide, cyclic, [], None, "x", {"class_name": "Sequential"}, {}):
        with pytest.raises(Refused):
            checked(architecture)


def test_a_model_too_large_for_memory_is_refused_before_it_is_built():
    huge = document()
    huge["config"]["layers"][-1]["config"]["units"] = 1_000_000_000
    with pytest.raises(LeptonError, match="too large"):
        build("keras", {"architecture": huge, "ends": "softmax", "scale": 1.0, "offset": 0.0})
    wide = document()
    wide["config"]["layers"].insert(1, layer("UpSampling2D", {"name": "up", "size": [100_000, 100_000]}))
    with pytest.raises(LeptonError):
        build("keras", {"architecture": wide, "ends": "softmax", "scale": 1.0, "offset": 0.0})


def mutations(value, random):
    """A copy with one leaf or key changed to something silly."""
    value = copy.deepcopy(value)
    node = value
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return value
        key = keys[random.integers(len(keys))]
        if isinstance(node[key], (dict, list)) and node[key] and random.random() < 0.85:
            node = node[key]
            continue
        silly = [None, -1, 0, 1e300, "", "relu", [], {}, True, [[]], "x" * 400, {"class_name": "Dense"}, float("nan")]
        node[key] = silly[random.integers(len(silly))]
        return value


def test_broken_documents_never_give_anything_but_a_sentence():
    random = np.random.default_rng(0)
    documents = [architecture_of(cnn()), architecture_of(functional()), architecture_of(recurrent())]
    refused = 0
    for number in range(120):
        try:
            build(
                "keras",
                {
                    "architecture": mutations(documents[number % 3], random),
                    "ends": "softmax",
                    "scale": 1.0,
                    "offset": 0.0,
                },
            )
        except LeptonError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ends": "tanh"}, "one of softmax"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": "1"}, "finite"),
        ({"x": 1}, "no such option"),
    ],
)
def test_a_wrong_config_is_a_sentence(change, sentence):
    config = {"architecture": document(), "ends": "softmax", "scale": 1.0, "offset": 0.0}
    with pytest.raises(InvalidInput, match=sentence):
        build("keras", config | change)


def test_a_model_with_own_parts_cannot_be_written_as_data():
    class Own(L.Layer):
        def call(self, x):
            return x * 2

    for part in (Own(), L.Lambda(lambda x: x)):
        with pytest.raises(Refused):
            architecture_of(keras.Sequential([keras.Input((4,)), part, L.Dense(2)]))
