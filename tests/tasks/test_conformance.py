"""What holds for every task with every network it can build. A new task or network is tested here by being registered."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from leptonai.base.errors import InvalidInput, Refused
from leptonai.base.home import Home
from leptonai.nets.registry import options
from leptonai.tasks.model import Model, load
from leptonai.tasks.registry import task_class
from leptonai.zoo.store import ModelStore

from .cases import PAIRS, TARGETS, dataset_of, fit_network, make_model, train_model

every_pair = pytest.mark.parametrize(("name", "kind"), PAIRS, ids=[f"{name}-{kind}" for name, kind in PAIRS])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(name, kind) → (model, dataset), each trained once."""
    home, made, datasets = Home(tmp_path_factory.mktemp("home")), {}, {}

    def get(name, kind):
        if name not in datasets:
            datasets[name] = dataset_of(name, 120, home, name)
        if (name, kind) not in made:
            made[name, kind] = train_model(name, kind, datasets[name])
        return made[name, kind], datasets[name]

    return get


def json_rows(dataset, model, n=20):
    """Rows as a client would send them: through JSON."""
    rows = dataset.table([c.name for c in model.task.inputs]).slice(0, n).to_pylist()
    return json.loads(json.dumps(rows, default=lambda value: value.isoformat()))


@every_pair
def test_it_learns(trained, name, kind):
    model, dataset = trained(name, kind)
    columns = dataset.columns()
    metrics = model.task.metrics(model.task.truth(columns), model.outputs(columns))
    floor = {"tabular-regression": ("r2", 0.3), "tabular-classification": ("roc_auc", 0.75)}
    metric, value = floor.get(name, ("accuracy", 0.8))
    assert metrics[metric] > value
    assert model.task.metric in metrics


@every_pair
def test_outputs_have_the_promised_form(trained, name, kind):
    model, dataset = trained(name, kind)
    outputs = model.outputs(dataset.columns(), np.arange(7))
    if model.task.classes is None:
        assert outputs.shape == (7,) and outputs.dtype == np.float64
    else:
        assert outputs.shape == (7, len(model.task.classes)) and outputs.dtype == np.float32
        assert np.allclose(outputs.sum(1), 1, atol=1e-5)


@every_pair
def test_a_saved_model_predicts_the_same(trained, name, kind, tmp_path):
    model, dataset = trained(name, kind)
    again = Model.load(model.save(tmp_path / "model"))
    assert np.array_equal(again.outputs(dataset.columns()), model.outputs(dataset.columns()))
    assert again.task.state() == model.task.state()
    assert again.task.request_schema == model.task.request_schema
    assert again.task.response_schema == model.task.response_schema
    assert again.task.classes == model.task.classes


@every_pair
def test_a_request_predicts_what_the_columns_predict(trained, name, kind):
    model, dataset = trained(name, kind)
    from_rows = model.outputs(model.task.columns_of(json_rows(dataset, model)))
    from_columns = model.outputs(dataset.columns(), np.arange(20))
    assert np.array_equal(from_rows, from_columns)


@every_pair
def test_every_door_of_predict_agrees(trained, name, kind):
    model, dataset = trained(name, kind)
    expected = model.predict(dataset)[:20]
    table = dataset.table([c.name for c in model.task.inputs]).slice(0, 20)
    # A matrix product may round differently for one row than for twenty.
    for predicted in (
        model.predict(json_rows(dataset, model)),
        model.predict(table),
        [model.predict(row) for row in json_rows(dataset, model)],
    ):
        assert_alike(predicted, expected)
    if name.startswith("tabular"):
        assert_alike(model.predict(table.to_pandas()), expected)


def assert_alike(predicted, expected):
    assert len(predicted) == len(expected)
    for ours, theirs in zip(predicted, expected, strict=True):
        assert ours.keys() == theirs.keys() and ours.get("label") == theirs.get("label")
        assert [*numbers(ours)] == pytest.approx([*numbers(theirs)], rel=1e-4, abs=2e-6)


def numbers(prediction):
    yield prediction["value"] if "value" in prediction else prediction["score"]
    yield from prediction.get("scores", {}).values()


@every_pair
def test_the_result_does_not_depend_on_the_batch(trained, name, kind):
    model, dataset = trained(name, kind)
    columns = dataset.columns()
    assert np.allclose(model.outputs(columns, batch=7), model.outputs(columns, batch=1024), rtol=1e-4, atol=1e-5)


@every_pair
def test_threads_get_what_one_thread_gets(trained, name, kind):
    model, dataset = trained(name, kind)
    rows = json_rows(dataset, model)
    expected = model.predict_rows(rows)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(model.predict_rows, [rows] * 8))


@every_pair
def test_its_example_is_a_valid_request_and_its_answer_a_valid_response(trained, name, kind):
    model, _ = trained(name, kind)
    request, response = model.task.request_schema, model.task.response_schema
    json.dumps([request, response], allow_nan=False)
    assert set(request["example"]) == set(request["required"]) == {c.name for c in model.task.inputs}
    answer = model.predict(request["example"])
    assert set(answer) == set(response["required"]) == set(response["properties"])
    if "label" in answer:
        assert answer["label"] in response["properties"]["label"]["enum"]
        assert type(answer["label"]) is type(model.task.classes[0])
        assert answer["score"] == max(answer["scores"].values())
    json.dumps(answer, allow_nan=False)


@every_pair
def test_no_rows_give_no_predictions(trained, name, kind):
    model, dataset = trained(name, kind)
    assert model.predict([]) == []
    assert len(model.outputs(dataset.columns(), np.array([], np.int64))) == 0
    assert len(model.outputs(model.task.columns_of([]))) == 0


@every_pair
def test_bad_rows_are_named(trained, name, kind):
    model, dataset = trained(name, kind)
    good = json_rows(dataset, model, 1)[0]
    column = model.task.inputs[0].name
    without = {key: value for key, value in good.items() if key != column}
    with pytest.raises(InvalidInput, match=rf"row 1 has no '{column}'"):
        model.predict([good, without])
    with pytest.raises(InvalidInput, match="row 1 is not an object"):
        model.predict([good, "text"])
    with pytest.raises(InvalidInput, match=rf"row 1.*'{column}'"):
        model.predict([good, {**good, column: {"deep": 1}}])


@every_pair
def test_what_is_not_rows_is_refused(trained, name, kind):
    model, _ = trained(name, kind)
    with pytest.raises(InvalidInput, match="a model cannot predict this"):
        model.predict("mnist")


@every_pair
def test_tiny_data(name, kind, tmp_path):
    model = train_model(name, kind, dataset_of(name, 8, Home(tmp_path)))
    assert len(model.predict([model.task.request_schema["example"]])) == 1


@every_pair
def test_training_twice_gives_the_same(trained, name, kind):
    import torch

    model, dataset = trained(name, kind)
    columns, rows = dataset.columns(), np.arange(dataset.num_rows)
    outputs = []
    for _ in range(2):
        torch.manual_seed(1)
        network = model.task.build(kind, model.network.config)
        outputs.append(make_model(model.task, fit_network(model.task, network, columns, rows, 3)).outputs(columns))
    assert np.array_equal(*outputs)


@every_pair
def test_an_unknown_option_is_named(trained, name, kind):
    model, _ = trained(name, kind)
    with pytest.raises(InvalidInput, match="no such option"):
        model.task.build(kind, {"widht": 3})
    assert options(kind), "an option without a default is a size, which the task gives"


@pytest.mark.parametrize("name", TARGETS)
def test_an_unknown_target_is_named(trained, name):
    _, dataset = trained(name, task_class(name).networks[0])
    target = TARGETS[name]
    with pytest.raises(InvalidInput, match=f"Did you mean '{target}'"):
        task_class(name).plan(dataset, target[:-1] + "x", None)


def test_a_model_is_loaded_by_its_name(trained, tmp_path):
    model, dataset = trained("tabular-regression", "linear")
    home = Home(tmp_path / "home")
    ModelStore(home).push(model.save(tmp_path / "model"), "house")
    assert np.array_equal(load("house@1", home).outputs(dataset.columns()), model.outputs(dataset.columns()))
    assert repr(load("house", home)) == "Model(house@1, tabular-regression, linear)"


def test_code_of_a_model_is_not_run(trained, tmp_path):
    model, _ = trained("tabular-regression", "linear")
    model.manifest.network, before = {"kind": "external"}, model.manifest.network
    try:
        folder = model.save(tmp_path / "model")
    finally:
        model.manifest.network = before
    with pytest.raises(Refused, match="cannot build by itself"):
        Model.load(folder)
