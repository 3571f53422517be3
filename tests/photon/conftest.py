"""Real models, real server processes, real HTTP. Two versions of a digits model are trained once for all tests of serving."""

import http.client
import json
import shutil
import urllib.parse

import numpy as np
import pytest

from leptonai.base.home import Home


def publish(home: Home, task, network, name: str):
    """What a training does at its end: a model folder, pushed into the store."""
    from leptonai.tasks.model import Model, network_manifest, signature
    from leptonai.zoo.manifest import Manifest
    from leptonai.zoo.store import ModelStore

    manifest = Manifest(
        task=task.name,
        task_state=task.state(),
        network=network_manifest(network),
        signature=signature(task),
        metrics={"accuracy": 0.9},
    )
    folder = home.root / "export"
    Model(task, network, manifest).save(folder)
    entry = ModelStore(home).push(folder, name)
    shutil.rmtree(folder)
    return entry


def train_digits(home: Home, rows: int, name: str = "digits", classes: int = 10):
    from sklearn.datasets import load_digits

    from leptonai.data.schema import Column
    from leptonai.tasks.tabular_classification import TabularClassification

    data = load_digits()
    keep = data.target < classes
    columns = {f"p{i}": data.data[keep][:rows, i].astype(np.float64) for i in (10, 20, 21, 26, 34, 36, 42, 43)}
    columns["digit"] = data.target[keep][:rows].astype(np.int64)
    task = TabularClassification([Column(c, "number") for c in columns if c != "digit"], Column("digit", "integer"))
    return _fit(home, task, columns, "linear", name)


def train_prices(home: Home, name: str = "prices"):
    """A regression with a number, a category and a timestamp-free table."""
    from leptonai.data.schema import Column
    from leptonai.tasks.tabular_regression import TabularRegression

    generator = np.random.default_rng(0)
    size = generator.uniform(20, 200, 300)
    city = generator.integers(0, 3, 300)
    columns = {"size": size, "city": [["Rome", "Oslo", "Lima"][i] for i in city], "price": 1000 * size + 5000 * city}
    task = TabularRegression([Column("size", "number"), Column("city", "category")], Column("price", "number"))
    return _fit(home, task, columns, "linear", name)


def _fit(home, task, columns, kind, name):
    rows = np.arange(len(columns[task.target.name]))
    task.fit(columns, rows)
    encoded = task.encode(columns, rows)
    network = task.build(kind, {})
    network.fit(encoded.inputs, encoded.target)
    return publish(home, task, network, name)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Home:
    """A home with models `digits@1`, `digits@2`, `prices@1` and `few@1` (knows three digits only). Read it, or copy it."""
    home = Home(tmp_path_factory.mktemp("zoo"))
    train_digits(home, 300)
    train_digits(home, 1500)
    train_prices(home)
    train_digits(home, 500, name="few", classes=3)
    return home


@pytest.fixture
def home(zoo, tmp_path) -> Home:
    """A home of the test's own, with the models of `zoo`."""
    shutil.copytree(zoo.root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def served(zoo, tmp_path_factory):
    """One running service `digits`, of `digits@1`, shared by the tests of a file that leave it as they found it."""
    from leptonai.photon.process import start_service

    root = tmp_path_factory.mktemp("served")
    shutil.copytree(zoo.root, root / "home")
    with start_service("digits@1", "digits", home=Home(root / "home")) as service:
        yield service


ROW = {"p10": 9.0, "p20": 3.0, "p21": 15.0, "p26": 0.0, "p34": 4.0, "p36": 0.0, "p42": 0.0, "p43": 7.0}


def call(service, method: str, path: str, body=None, headers=None, **more) -> tuple[int, dict, dict[str, str]]:
    """One HTTP request by the standard library: (status, JSON, headers). `body`: an object, or bytes as they are."""
    url = urllib.parse.urlsplit(service if isinstance(service, str) else service.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **(headers or {})}
        connection.request(
            method, path, content, {key: value for key, value in headers.items() if value is not None}, **more
        )
        answer = connection.getresponse()
        text = answer.read()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, json.loads(text) if is_json and text else text.decode(), dict(answer.getheaders())
    finally:
        connection.close()
