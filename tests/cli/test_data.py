"""`lep data` as a person types it."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from leptonai.base.errors import InvalidInput, NotFound
from leptonai.cli.data import data
from leptonai.cli.dataset_text import bars


@pytest.fixture
def lep(tmp_path, monkeypatch):
    """Run `lep data …`: its output; errors are raised."""
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, answer: str | None = None) -> str:
        return CliRunner().invoke(data, arguments, input=answer, catch_exceptions=False).stdout

    return run


@pytest.fixture
def pets(tmp_path):
    rows = "".join(f"{i},{'cat' if i % 2 else 'dog'},0{i % 7}\n" for i in range(40))
    (tmp_path / "pets.csv").write_text("age,kind,zip\n" + rows)
    return "pets.csv"


def test_the_whole_way(lep, pets, tmp_path):
    shown = lep("import", "pets", pets, "--type", "zip=category", "--description", "cats and dogs")
    assert "pets@1  40 rows × 3 columns" in shown
    assert "lep data split pets" in shown
    assert "28 / 4 / 8 rows" in lep("split", "pets", "--test", "0.2", "--validation", "0.1", "--stratify", "kind")
    listed = lep("ls")
    assert "pets@2" in listed
    assert "28 / 4 / 8" in listed
    assert "cats and dogs" in listed
    shown = lep("show", "pets")
    for words in ("category", "dog 20", "0 … 39, mean 19.5", "pets@1, split: test 0.2", "█"):
        assert words in shown
    assert "cat" in lep("head", "pets@1", "-n", "2")
    assert lep("versions", "pets").count("pets@") == 3
    assert "+ split" in lep("diff", "pets@1", "pets@2")
    assert "40 rows" in lep("export", "pets@1", "copy.csv")
    assert (tmp_path / "copy.csv").read_text().count("\n") == 41
    lep("import", "copy", "copy.csv", "--type", "zip=category")
    assert "hold the same" in lep("diff", "pets@1", "copy")
    assert "Removed version pets@2" in lep("rm", "pets@2", answer="y\n")
    assert "Removed dataset pets" in lep("rm", "pets", "--yes")
    assert "pets@" not in lep("ls")


def test_json_for_programs(lep, pets):
    made = json.loads(lep("import", "pets", pets, "--json"))
    assert (made["ref"], made["rows"], made["parts"]) == ("pets@1", 40, None)
    assert made["columns"][1] == {"name": "kind", "type": "category", "shape": None}
    assert json.loads(lep("split", "pets", "--json"))["parts"] == {"train": 28, "validation": 4, "test": 8}
    assert json.loads(lep("show", "pets", "--json"))["profile"]["age"]["max"] == 39
    assert json.loads(lep("head", "pets", "-n", "1", "--json"))[0]["kind"] == "dog"
    assert [version["ref"] for version in json.loads(lep("versions", "pets", "--json"))] == ["pets@1", "pets@2"]
    assert json.loads(lep("ls", "--json"))[0]["version"] == 2
    assert json.loads(lep("diff", "pets@1", "pets", "--json"))["columns_added"] == ["split"]


def test_nothing_yet_says_what_to_do(lep):
    assert "lep data import NAME PATH" in lep("ls")


def test_mistakes(lep, pets):
    with pytest.raises(InvalidInput, match=r"COLUMN=TYPE, such as zip=category"):
        lep("import", "pets", pets, "--type", "zip")
    with pytest.raises(InvalidInput, match="Did you mean 'zip'"):
        lep("import", "pets", pets, "--type", "zap=category")
    with pytest.raises(NotFound, match="no such file"):
        lep("import", "pets", "nothing.csv")
    lep("import", "pets", pets)
    assert "Removed" not in lep("rm", "pets", answer="n\n")
    assert "pets@1" in lep("ls")


def test_the_process_ends_with_one_sentence_and_a_code(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1\n")
    done = subprocess.run(
        [sys.executable, "-m", "leptonai.cli.main", "data", "import", "x", "a.csv"],
        cwd=tmp_path, env={"LEPTON_HOME": str(tmp_path / "home"), "PATH": ""}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == InvalidInput.exit_code
    assert done.stderr.startswith("Error: line 2 of a.csv has 1 field")
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [sys.executable, "-m", "leptonai.cli.main", "data", "improt"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "Did you mean 'import'" in done.stderr


def test_bars():
    assert bars([0, 1, 50, 100]) == " ▁▄█"
    assert bars([]) == ""
