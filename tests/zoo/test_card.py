"""The card: front matter that a Hub reads, what a person asks first, and no way for a stranger's names to break out."""

import yaml

from leptonai.zoo.card import flat_metrics, write_card

from .conftest import manifest


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_says_what_a_reader_asks(store, make):
    card = store.push(make(1), "loans-model").card

    assert front(card)["pipeline_tag"] == "tabular-classification"
    assert front(card)["model-index"][0]["results"][0]["metrics"] == [
        {"type": "accuracy", "name": "accuracy", "value": 0.91}
    ]
    assert "0.9100 (0.8800 to 0.9300, 95 %)" in card
    assert "400 rows" in card
    assert "loans@2" in card
    assert "lep serve loans-model@1" in card
    assert "la.load('loans-model@1')" in card
    assert """'{"age": 0.5, "job": "…"}'""" in card
    assert "| `age` | number |" in card
    assert "2 classes: `no`, `yes`" in card


def test_metrics_of_a_training_say_which_rows_they_are_from():
    parts = {"validation": {"accuracy": 0.9, "rows": 50}, "test": {"accuracy": 0.8, "rows": 60}}

    assert flat_metrics(parts) == {"accuracy": (0.8, None, None)}
    assert "60 rows that training never saw" in write_card(manifest(metrics=parts))
    assert "chose the best epoch" in write_card(
        manifest(metrics={"validation": parts["validation"], "test": {"rows": 0}})
    )
    assert "it was trained on" in write_card(manifest(metrics={"train": {"rmse": 2.0, "rows": 9}}))


def test_names_cannot_break_out_of_the_card():
    evil = "x`|</td><script>alert(1)</script>\n---\n# Heading [a](javascript:alert(1))"
    card = write_card(
        manifest(
            task_state={"classes": [evil]},
            lineage={"data": evil, "run": evil},
            metrics={evil: 0.5},
            signature={"inputs": {"properties": {evil: {"type": evil, "description": evil}}}},
        )
    )

    outside_code = card.split("```")[0] + card.split("```")[-1]  # between them: JSON and Python literals
    assert "<script" not in outside_code
    assert "](javascript" not in outside_code.split("---\n", 2)[2]
    assert "\n# Heading" not in card.split("---\n", 2)[2]
    assert isinstance(front(card), dict)


def test_odd_manifests_still_get_a_card():
    write_card(
        manifest(
            signature={"inputs": []}, metrics={"a": {"b": [1]}}, task_state={"classes": 3}, task="external", lineage={}
        )
    )
    write_card(
        manifest(
            signature={"inputs": {"properties": {"x": {"type": ["number", "null"], "enum": []}}}},
            metrics={"rows": "many"},
        )
    )
