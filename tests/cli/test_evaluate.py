"""`lep evaluate` as it is typed, on a real model of a real table."""

import json

import numpy as np
import pandas as pd
import pytest

import leptonai as la

from .test_model import lep  # noqa: F401


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"age": generator.uniform(20, 70, 400), "plan": generator.choice(["basic", "gold"], 400)})
    frame["churn"] = np.where(frame.age + generator.normal(size=400) * 12 > 45, "yes", "no")
    la.LogisticRegression().fit(frame[["age"]][:200], frame["churn"][:200]).publish("churn")
    la.LogisticRegression().fit(frame[["age"]][:4], pd.Series(["no", "yes", "yes", "no"], name="churn")).publish(
        "churn"
    )
    la.import_data("customers", frame[200:].reset_index(drop=True))


def test_json_is_json_and_nothing_else(home, lep, tmp_path):  # noqa: F811
    report = json.loads(lep("evaluate", "churn@1", "customers", "--json", "--slice", "plan"))

    accuracy = report["metrics"]["accuracy"]
    assert 0.7 < accuracy["low"] < accuracy["value"] < accuracy["high"] < 1
    assert report["rows"] == 200
    assert {part["slice"] for part in report["slices"]} == {"basic", "gold"}
    assert not (tmp_path / "home/workspaces/default/reports").exists()


def test_a_table_for_people_and_the_report_in_two_files(home, lep, tmp_path):  # noqa: F811
    said = lep("evaluate", "churn@1", "customers", "--compare", "churn@2", "--output", tmp_path / "out")

    assert "churn@1 on customers@1, 200 rows" in said
    assert "accuracy" in said
    assert "than churn@2: accuracy" in said or "No proven difference from churn@2" in said
    assert str(tmp_path / "out" / "report.html") in said
    assert json.loads((tmp_path / "out" / "report.json").read_text())["comparison"]["other"] == "churn@2"
    assert "Compared with churn@2" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("churn", "custmers"), 3, "customers"),
        (("chrun", "customers"), 3, "Did you mean 'churn'"),
        (("churn", "customers", "--slice", "pln"), 2, "Did you mean 'plan'"),
        (("churn", "customers", "--split", "tset"), 2, "Did you mean 'test'"),
        (("churn", "customers", "--compare", "churn@9"), 3, "no version 9"),
    ],
)
def test_bad_input_is_one_sentence(home, lep, arguments, code, says):  # noqa: F811
    said = lep("evaluate", *arguments, code=code)

    assert says in said
    assert said.count("\n") == 1
