"""Every format that can be served gives what its own library gives, and none runs what its file holds."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from leptonai.base.errors import Corrupt, LeptonError, Refused
from leptonai.photon.codec import TensorCodec
from leptonai.photon.runtimes.runtime import load


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """y = x @ W + b for rows of 3 numbers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "W")]
    weights.append(numpy_helper.from_array(np.ones(2, np.float32), "b"))
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        weights,
    )
    path = tmp_path_factory.mktemp("onnx") / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def exported_file(tmp_path_factory):
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    ).eval()
    network[1].running_mean.uniform_(-1, 1)
    program = torch.export.export(network, (torch.rand(4, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(program, path)
    return path, network


def test_onnx(onnx_file):
    runtime = load(f"onnx:{onnx_file}")
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    assert runtime.signature.batched
    assert np.allclose(runtime.run({"x": x})["y"], x @ np.arange(6).reshape(3, 2) + 1, atol=1e-5)


def test_an_onnx_model_that_names_other_files_is_refused(onnx_file, tmp_path):
    import onnx

    model = onnx.load(onnx_file)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(Refused, match="other files"):
        load(str(tmp_path / "m.onnx"))


def test_an_exported_program_gives_what_the_network_gives(exported_file):
    import torch

    path, network = exported_file
    runtime = load(str(path))
    x = torch.rand(7, 3, 8, 8)

    assert runtime.signature.batched
    assert len(runtime.program.steps) < 6, "batch norm is folded into the convolution"
    with torch.inference_mode():
        assert np.allclose(
            runtime.run({runtime.signature.inputs[0].name: x.numpy()})["output"], network(x).numpy(), atol=1e-5
        )


def _rewritten(path, target, change):
    """The archive with one member's JSON changed by `change(name, document)`."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(".json"):
                document = json.loads(data)
                change(info.filename, document)
                data = json.dumps(document).encode()
            new.writestr(info.filename, data)
    return target


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "os.system",
        "_operator.call",
        "torch.ops.prim.device.default",
        "torch.ops.aten.rand.default",
    ],
)
def test_an_exported_program_with_an_operator_that_is_not_listed_is_refused(exported_file, tmp_path, target):
    def change(name, document):
        if name.endswith("model.json"):
            document["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(Refused, match="operator"):
        load(str(_rewritten(exported_file[0], tmp_path / "m.pt2", change)))


def test_an_exported_program_that_would_have_to_be_unpickled_is_refused(exported_file, tmp_path):
    def change(name, document):
        for entry in document.get("config", {}).values():
            entry["use_pickle"] = True

    with pytest.raises(Refused, match="pickle"):
        load(str(_rewritten(exported_file[0], tmp_path / "m.pt2", change)))


@pytest.mark.parametrize("size", [2**40, -1, "9", None])
def test_an_exported_program_whose_weights_do_not_fit_is_corrupt(exported_file, tmp_path, size):
    def change(name, document):
        for entry in document.get("config", {}).values():
            entry["tensor_meta"]["sizes"][:1] = [{"as_int": size}]

    with pytest.raises(Corrupt):
        load(str(_rewritten(exported_file[0], tmp_path / "m.pt2", change)))


def test_keras(tmp_path):
    keras = __import__("leptonai.nets.keras", fromlist=["load_keras"]).load_keras()
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
    )
    model.save(tmp_path / "m.keras")
    runtime = load(str(tmp_path / "m.keras"))
    x = np.random.default_rng(0).uniform(size=(4, 6, 6, 1)).astype(np.float32)

    assert runtime.signature.batched
    assert np.allclose(
        runtime.run({runtime.signature.inputs[0].name: x})["output"], model.predict(x, verbose=0), atol=1e-5
    )

    def hide_a_lambda(name, document):
        if name == "config.json":
            document["config"]["layers"][1] = {
                "module": "keras.layers",
                "class_name": "Lambda",
                "config": {"function": "x"},
            }

    with pytest.raises(Refused):  # S12
        load(str(_rewritten(tmp_path / "m.keras", tmp_path / "bad.keras", hide_a_lambda)))


def test_keras_weights_that_lead_to_another_file_are_refused(tmp_path):
    import h5py

    from leptonai.photon.runtimes.keras import check_weights

    for name, make in {
        "link": lambda file: file.__setitem__("w", h5py.ExternalLink("/etc/passwd", "/")),
        "external": lambda file: file.create_dataset("w", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
    }.items():
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            make(file)
        with pytest.raises(Refused):
            check_weights(memory.getvalue(), name)


@pytest.mark.parametrize("kind", ["linear", "forest"])
def test_sklearn(tmp_path, kind):
    import pandas
    import skops.io
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    X = pandas.DataFrame(generator.normal(size=(80, 3)), columns=["a", "b", "c"])
    y = np.where(X.a + X.b > 0, "yes", "no")
    made = LogisticRegression() if kind == "linear" else RandomForestClassifier(5, random_state=0)
    estimator = make_pipeline(StandardScaler(), made).fit(X, y)
    skops.io.dump(estimator, tmp_path / "m.skops")
    runtime = load(str(tmp_path / "m.skops"))
    codec = TensorCodec(runtime.kind, runtime.signature)
    rows = X.head(9).to_dict("records")
    (part,) = codec.parse_rows(rows)
    predictions = codec.decode(runtime.run(part.columns), part.rows)

    assert [one["label"] for one in predictions] == estimator.predict(X.head(9)).tolist()
    assert np.allclose([one["scores"] for one in predictions], estimator.predict_proba(X.head(9)))


def test_a_skops_file_with_a_type_of_its_own_is_refused(tmp_path):
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    skops.io.dump(FunctionTransformer(io.open), tmp_path / "m.skops")
    with pytest.raises(LeptonError):
        load(str(tmp_path / "m.skops"))


@pytest.mark.parametrize("objective", ["binary", "multiclass", "regression"])
def test_lightgbm(tmp_path, objective):
    import lightgbm

    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 3))
    y = generator.integers(0, 3 if objective == "multiclass" else 2, 200)
    options = {
        "objective": objective,
        "verbose": -1,
        "num_threads": 1,
        **({"num_class": 3} if objective == "multiclass" else {}),
    }
    booster = lightgbm.train(options, lightgbm.Dataset(X, y, feature_name=["a", "b", "c"]), 3)
    booster.save_model(tmp_path / "m.txt")
    runtime = load(f"lightgbm:{tmp_path / 'm.txt'}")
    (found,) = runtime.run({name: X[:, number] for number, name in enumerate("abc")}).values()

    assert np.allclose(found, booster.predict(X))
    text = (tmp_path / "m.txt").read_text()
    for broken in (text[: len(text) // 2], text.replace("left_child=1", "left_child=9999", 1), "tree\n"):
        (tmp_path / "bad.txt").write_text(broken)
        if broken != text:
            with pytest.raises(Corrupt):
                load(f"lightgbm:{tmp_path / 'bad.txt'}")


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "suffix", [".pt", ".ckpt", ".pkl", ".joblib", ".npy", ".keras", ".skops", ".onnx", ".pt2", ".bin", ".h5", ".txt"]
)
@pytest.mark.parametrize("prefix", ["", "onnx:", "keras:", "skops:", "lightgbm:", "export:"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_never_loaded_whatever_it_is_called(tmp_path, suffix, prefix, zipped):
    """S11, S13: the extension, the prefix and a zip around it decide nothing."""
    marker, path = tmp_path / "ran", tmp_path / f"model{suffix}"
    body = pickle.dumps(Canary(marker))
    if zipped:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            for name in ("data.pkl", "config.json", "schema.json", "model.weights.h5", "archive/models/model.json"):
                archive.writestr(name, body)
        body = memory.getvalue()
    path.write_bytes(body)
    with pytest.raises(LeptonError):
        load(f"{prefix}{path}")
    assert not marker.exists()


def test_rows_that_are_not_independent_are_not_batched(tmp_path):
    """A model that subtracts the mean over its rows gives another answer in company: it is found out, and served one by one."""
    import torch

    class Centred(torch.nn.Module):
        def forward(self, x):
            return x - x.mean(0, keepdim=True)

    program = torch.export.export(Centred(), (torch.rand(4, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "m.pt2")
    assert not load(str(tmp_path / "m.pt2")).signature.batched
