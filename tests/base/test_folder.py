"""`la.train` and `la.evaluate` are folders that can be called, whatever was imported before."""

import subprocess
import sys

import pytest

BEFORE = ["", "import leptonai.train.record", "from leptonai.train import seeds", "la.train", "la.Run"]


@pytest.mark.parametrize("before", BEFORE)
def test_train_is_a_function_and_a_folder_after_any_import(before):
    code = f"""
import leptonai as la
{before}
from leptonai.train import trainer
trainer.train = lambda recipe: ("trained", recipe)
assert la.train("recipe") == ("trained", "recipe")
assert la.train.record.__name__ == "leptonai.train.record"
import leptonai.train.seeds as seeds
assert seeds is la.train.seeds
try:
    la.train.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_evaluate_too():
    code = "import leptonai as la, leptonai.evaluate.report as r; r.evaluate = lambda m: m; assert la.evaluate(1) == 1"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
