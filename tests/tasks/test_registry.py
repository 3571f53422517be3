"""Which task suits a table, by its target and by what stands beside it."""

import pytest

from leptonai.base.home import Home
from leptonai.data.importing import import_data
from leptonai.tasks.registry import infer_task

SENTENCES = [
    f"the {thing} was {word} when I looked at it"
    for thing in ("film", "soup", "room")
    for word in ("good", "bad", "odd", "new")
] * 3
LABELS = ["yes", "no", "no"] * 12
NUMBERS = [float(row) + 0.5 for row in range(36)]


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ({"text": SENTENCES, "label": LABELS}, "text-classification"),
        ({"text": SENTENCES, "label": LABELS, "source": ["web", "shop"] * 18}, "text-classification"),
        ({"text": SENTENCES, "label": LABELS, "a": NUMBERS, "b": NUMBERS, "c": NUMBERS}, "tabular-classification"),
        ({"colour": ["red", "blue"] * 18, "label": LABELS}, "tabular-classification"),
        ({"colour": ["red", "blue"] * 18, "label": NUMBERS}, "tabular-regression"),
    ],
    ids=["text alone", "text and its source", "a table with notes", "categories", "a quantity"],
)
def test_infer_task(tmp_path, columns, task):
    dataset = import_data("d", columns, types={"text": "text"} if "text" in columns else None, home=Home(tmp_path))
    assert infer_task(dataset, "label") == task
