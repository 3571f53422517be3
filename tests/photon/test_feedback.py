"""What really happened, joined to the request by its id; then a new dataset version in which each row is used once."""

import contextlib

import pytest

from leptonai.base.errors import InvalidInput, NotFound
from leptonai.data.dataset import list_versions, open_dataset
from leptonai.data.importing import import_data
from leptonai.photon.collecting import collect, gather, summary, to_dataset
from leptonai.photon.process import start_service

from .conftest import ROW, call


@pytest.fixture(scope="module")
def running(zoo, tmp_path_factory):
    import shutil

    from leptonai.base.home import Home

    root = tmp_path_factory.mktemp("feedback")
    shutil.copytree(zoo.root, root / "home")
    with start_service("digits@1", "digits", home=Home(root / "home")) as service:
        yield service


def ask(service, count=None):
    body = ROW if count is None else {"rows": [{**ROW, "p21": float(i)} for i in range(count)]}
    status, answer, _ = call(service, "POST", "/predict", body)
    assert status == 200
    return answer


def tell(service, **given):
    status, answer, _ = call(service, "POST", "/feedback", given)
    assert status == 200, answer
    return answer


def a_dataset(home, name="digits"):
    import pyarrow as pa

    rows = [{**ROW, "p20": float(i), "digit": i % 10, "writer": "somebody"} for i in range(20)]
    return import_data(name, pa.Table.from_pylist(rows), types={"digit": "integer"}, home=home).split(
        test=0.2, validation=0.1
    )


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"label": 11}, 400, "one of 0, 1, 2"),
        ({"label": "seven"}, 400, "no label of 'digit'"),
        ({"label": True}, 400, "no label of 'digit'"),
        ({"label": [3]}, 400, "no label"),
        ({"label": 3, "correct": True}, 400, "same thing"),
        ({"correct": "yes"}, 400, "yes or no"),
        ({"rating": 6}, 400, "from 1 to 5"),
        ({"comment": ""}, 400, "comment"),
        ({}, 400, "says nothing"),
        ({"label": 3, "row": 5}, 400, "no such row"),
        ({"label": 3, "row": -1}, 400, "`row`"),
        ({"lable": 3}, 400, "Did you mean 'label'"),
        ({"request_id": "0" * 32, "label": 3}, 404, "no logged request"),
        ({"request_id": 7, "label": 3}, 400, "request_id"),
    ],
    ids=str,
)
def test_bad_feedback_is_refused_with_a_sentence(running, given, status, words):
    request = ask(running)["request_id"]
    before = summary("digits", running.home)["feedback"]

    got, answer, _ = call(running, "POST", "/feedback", {"request_id": request, **given})

    assert (got, words in answer["error"]) == (status, True), answer
    assert summary("digits", running.home)["feedback"] == before


def test_feedback_of_every_kind_is_stored(running):
    request = ask(running, 3)["request_id"]

    assert tell(running, request_id=request, row=2, label="4") == {"request_id": request, "row": 2, "kinds": ["label"]}
    tell(running, request_id=request, row=0, correct=True, rating=5, comment="good")
    found = summary("digits", running.home)

    assert {"label", "correct", "rating", "comment"} <= set(found["feedback"])
    assert found["newest"][-1]["really"] == found["newest"][-1]["predicted"]
    assert found["newest"][-2]["really"] == 4, "text as a shell sends it becomes the class"


def test_a_regression_takes_numbers_only(home):
    with start_service("prices", "prices", home=home) as service:
        answer = call(service, "POST", "/predict", {"size": 100, "city": "Oslo"})[1]
        assert answer["prediction"]["value"] == pytest.approx(105_000, rel=0.01)
        request = answer["request_id"]
        for wrong in ({"label": "much"}, {"label": True}, {"correct": True}):
            assert call(service, "POST", "/feedback", {"request_id": request, **wrong})[0] == 400
        tell(service, request_id=request, label=99_000)
        table = collect("prices", home)
    assert table.to_pylist() == [{"size": 100.0, "city": "Oslo", "price": 99_000.0}]


def test_the_last_label_wins_and_each_row_is_used_once(home):
    data = a_dataset(home)
    with start_service("digits@1", "digits", home=home) as service:
        batch, single = ask(service, 4), ask(service)
        tell(service, request_id=batch["request_id"], row=1, label=3)
        tell(service, request_id=batch["request_id"], row=1, label=5)
        tell(service, request_id=batch["request_id"], row=3, correct=True)
        tell(service, request_id=batch["request_id"], row=0, correct=False)  # wrong, but nobody says what it is
        tell(service, request_id=batch["request_id"], row=2, rating=1)

        new = to_dataset("digits", "digits", home)

        assert (new.version, new.num_rows) == (data.version + 1, 22)
        added = new.table().slice(20).to_pylist()
        assert [row["digit"] for row in added] == [5, batch["predictions"][3]["label"]]
        assert [row["p21"] for row in added] == [1.0, 3.0]
        assert {row["split"] for row in added} == {"train"}
        assert {row["writer"] for row in added} == {None}
        told = new.lineage["feedback"]
        assert (told["service"], told["rows"], told["models"]) == ("digits", 2, {"digits@1": 2})

        assert to_dataset("digits", "digits", home).version == new.version, "nothing new, no new version"
        assert call(service, "PUT", "/model", {"ref": "digits@2"})[0] == 200
        tell(service, request_id=single["request_id"], label=8)  # after a swap, for an answer of the old version
        tell(service, request_id=batch["request_id"], row=0, label=1)
        tell(service, request_id=batch["request_id"], row=1, label=6)  # its row was used already

        done = gather("digits", "digits", home)

        assert (done.rows, done.changed, done.unusable) == (2, 1, [])
        assert [row["digit"] for row in done.dataset.table().slice(22).to_pylist()] == [1, 8]


def test_a_collection_that_is_killed_neither_loses_nor_doubles_rows(home, monkeypatch):
    """Killed before the version is written: nothing happened. After: the version itself says what was used."""
    from leptonai.data.dataset import Dataset

    a_dataset(home)
    with start_service("digits@1", "digits", home=home) as service:
        tell(service, request_id=ask(service)["request_id"], label=7)
    append = Dataset.append

    def killed_before(self, table, *, lineage):
        raise KeyboardInterrupt

    def killed_after(self, table, *, lineage):
        append(self, table, lineage=lineage)
        raise KeyboardInterrupt

    for kill, rows in ((killed_before, 20), (killed_after, 21), (append, 21)):
        monkeypatch.setattr(Dataset, "append", kill)
        with contextlib.suppress(KeyboardInterrupt):
            to_dataset("digits", "digits", home)
        assert open_dataset("digits", home).num_rows == rows


def test_two_collections_at_once_use_each_row_once(home):
    from concurrent.futures import ThreadPoolExecutor

    a_dataset(home)
    with start_service("digits@1", "digits", home=home) as service:
        batch = ask(service, 5)["request_id"]
        for row in range(5):
            tell(service, request_id=batch, row=row, label=row)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: gather("digits", "digits", home).rows, range(4)))
    assert sorted(done) == [0, 0, 0, 5]
    assert len(list_versions("digits", home)) == 3


def test_wrong_names_are_errors_that_help(home, running):
    with pytest.raises(NotFound, match="Did you mean 'digits'"):
        collect("digitz", running.home)
    with pytest.raises(NotFound):
        to_dataset("digits", "no-such-data", running.home)


def test_a_dataset_of_other_columns_is_refused(running):
    import pyarrow as pa

    tell(running, request_id=ask(running)["request_id"], label=3)
    import_data("other", pa.table({"a": [1.0, 2.5, 3.5], "digit": [1, 2, 3]}), home=running.home)
    with pytest.raises(InvalidInput, match="has no column 'p10'"):
        to_dataset("digits", "other", running.home)
    assert open_dataset("other", running.home).version == 1
