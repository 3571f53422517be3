"""A version never changes, equal content makes no new one, and a crash at any moment leaves what was there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leptonai.base.errors import Corrupt, InvalidInput, NotFound
from leptonai.base.home import Home
from leptonai.data import versions
from leptonai.data.dataset import list_datasets, list_versions, open_dataset, remove_dataset
from leptonai.data.importing import import_data, read_source
from leptonai.data.store import Store

from .conftest import png


def test_same_content_is_the_same_version(home, tmp_path):
    first = import_data("x", {"a": [1, 2, 3], "b": ["u", "v", None]}, home=home)
    (tmp_path / "x.csv").write_text("a,b\n1,u\n2,v\n3,\n")
    assert import_data("x", tmp_path / "x.csv", home=home) == first
    other = import_data("x", {"a": [1, 2, 4], "b": ["u", "v", None]}, home=home)
    assert (first.ref, other.ref) == ("x@1", "x@2")
    assert other.content_hash != first.content_hash
    assert first.table().column("a").to_pylist() == [1, 2, 3]
    assert import_data("x", {"a": [1, 2, 3], "b": ["u", "v", None]}, types={"a": "number"}, home=home).ref == "x@3"


def test_the_hash_does_not_depend_on_chunks(home):
    table = read_source(
        {
            "n": [1.5, None, 3.0] * 50,
            "s": ["a", None, "ccc"] * 50,
            "image": np.arange(600, dtype=np.uint8).reshape(150, 2, 2),
        }
    )
    chunked = pa.concat_tables([table.slice(start, 7) for start in range(0, 150, 7)])
    assert import_data("a", table, home=home).content_hash == import_data("b", chunked, home=home).content_hash


def test_a_moved_null_or_byte_is_another_content(home):
    tables = [{"s": ["ab", "c"]}, {"s": ["a", "bc"]}, {"s": ["abc", ""]}, {"s": ["abc", None]}, {"t": ["abc", None]}]
    assert len({import_data("x", table, home=home).content_hash for table in tables}) == len(tables)


def test_open_list_remove(home):
    for values in ([1], [2], [3]):
        import_data("x", {"a": values}, description="three", home=home)
    assert open_dataset("x", home).ref == "x@3"
    assert open_dataset("x@2", home).table().to_pydict() == {"a": [2]}
    remove_dataset("x@3", home)
    assert [dataset.ref for dataset in list_versions("x", home)] == ["x@1", "x@2"]
    assert import_data("x", {"a": [4]}, home=home).ref == "x@4", "a number is never given twice"
    remove_dataset("x", home)
    assert list_datasets(home) == []
    with pytest.raises(NotFound, match="lep data import"):
        open_dataset("x", home)


def test_what_is_not_there_is_named(home):
    import_data("mnist", {"a": [1]}, home=home)
    with pytest.raises(NotFound, match="Did you mean 'mnist'"):
        open_dataset("mnits", home)
    with pytest.raises(NotFound, match=r"no version 7. There is: 1"):
        open_dataset("mnist@7", home)
    with pytest.raises(InvalidInput, match="expected a number"):
        open_dataset("mnist@latest", home)
    with pytest.raises(InvalidInput, match="no such column: received b"):
        open_dataset("mnist", home).table(["b"])
    with pytest.raises(InvalidInput, match=r"not split. Split it: lep data split mnist"):
        open_dataset("mnist", home).rows("train")


def test_append_fills_coerces_and_trains(home):
    dataset = import_data(
        "x", {"n": [1.0, 2.0, 3.0, 4.0], "s": ["a", "b", "a", "b"], "flag": [True, False, True, True]}, home=home
    )
    parted = dataset.split(test=0.5, validation=0, seed=1)
    longer = parted.append(pa.table({"s": ["c"], "n": ["7"]}), lineage={"service": "desk"})
    assert longer.head(5).slice(4).to_pylist() == [{"n": 7.0, "s": "c", "flag": None, "split": "train"}]
    assert longer.rows("test").tolist() == parted.rows("test").tolist()
    assert longer.lineage == {"kind": "append", "parent": "x@2", "rows": 1, "service": "desk"}
    assert longer.profile["s"]["distinct"] == 3
    assert longer.columns()["flag"].tolist()[:4] == [1, 0, 1, 1]
    assert np.isnan(longer.columns()["flag"][4])
    with pytest.raises(InvalidInput, match="Did you mean 'flag'"):
        longer.append({"flog": [True]}, lineage={})
    with pytest.raises(
        InvalidInput, match=r"column 'n' has a value that is not of type number in row 1: received seven"
    ):
        longer.append({"n": ["seven"]}, lineage={})
    assert longer.append(pa.table({"n": pa.array([], pa.float64())}), lineage={}) == longer


def test_append_equals_the_import_of_all_rows(home):
    parts = import_data("a", {"n": [1, 2], "s": ["u", None]}, home=home).append({"n": [3], "s": ["w"]}, lineage={})
    assert parts.content_hash == import_data("b", {"n": [1, 2, 3], "s": ["u", None, "w"]}, home=home).content_hash


def test_append_goes_behind_its_own_version_not_the_newest(home):
    first = import_data("x", {"n": [1, 2]}, home=home)
    import_data("x", {"n": [9, 9, 9]}, home=home)
    assert first.append({"n": [3]}, lineage={}).table().to_pydict() == {"n": [1, 2, 3]}


def test_appended_images_become_what_the_dataset_has(home):
    grey = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    raw = import_data("raw", {"image": grey, "label": [0, 1]}, home=home)
    longer = raw.append({"image": [png(grey[0] + 1)], "label": [2]}, lineage={})
    assert longer.columns()["image"][2, :, :, 0].tolist() == (grey[0] + 1).tolist()
    nested = raw.append({"image": [grey[0].tolist()], "label": [3]}, lineage={})
    assert nested.columns()["image"][2, :, :, 0].tolist() == grey[0].tolist()
    with pytest.raises(
        InvalidInput, match=r"row 1 of column 'image' is an image of another size: received 2 × 2, expected 4 × 4"
    ):
        raw.append({"image": [png(np.zeros((2, 2)))]}, lineage={})
    files = import_data("files", {"image": [png(grey[0]), png(grey[1])]}, home=home)
    assert files.append({"image": np.stack([grey[0]])}, lineage={}).columns()["image"].shape == (3, 4, 4, 1)
    assert files.append({"image": [png(np.zeros((9, 9)))]}, lineage={}).schema["image"].shape is None
    with pytest.raises(InvalidInput, match="does not decode"):
        files.append({"image": [b"GIF89a no"]}, lineage={})


CRASH = """
import os, sys
from pathlib import Path
from leptonai.base.home import Home
from leptonai.data import store
from leptonai.data.importing import import_data
from leptonai.data.dataset import open_dataset
home = Home(Path(sys.argv[1]))
store.Store.commit = lambda self, record: os._exit(9)
if sys.argv[2] == "import":
    import_data("x", {"n": [7, 8]}, home=home)
elif sys.argv[2] == "append":
    open_dataset("x", home).append({"n": [7, 8]}, lineage={})
else:
    open_dataset("x", home).split(test=0.5, validation=0)
"""


def crash_in(action: str, home: Home) -> None:
    """A process that dies after the table is written and before the version is."""
    assert subprocess.run([sys.executable, "-c", CRASH, str(home.root), action], timeout=60).returncode == 9


@pytest.mark.parametrize("action", ["import", "append", "split"])
def test_a_crash_before_the_commit_leaves_no_trace_of_its_rows(home, action):
    first = import_data("x", {"n": [1, 2, 3, 4]}, home=home)
    crash_in(action, home)
    assert open_dataset("x", home) == first
    assert first.table().to_pydict() == {"n": [1, 2, 3, 4]}
    longer = first.append({"n": [5]}, lineage={})
    assert longer.ref == "x@2"
    assert longer.table().to_pydict() == {"n": [1, 2, 3, 4, 5]}
    assert len(longer.split(test=0.2, validation=0).rows("test")) == 1


def test_a_crash_in_the_first_import_leaves_no_dataset(home):
    crash_in("import", home)
    assert list_datasets(home) == []
    assert import_data("x", {"n": [1]}, home=home).ref == "x@1"


def test_many_writers_at_once(home):
    """Processes that import different content under one name each get a version of their own."""
    script = "import sys; from pathlib import Path; from leptonai.base.home import Home; from leptonai.data.importing import import_data\n"
    script += "print(import_data('x', {'n': [int(sys.argv[2])] * 3}, home=Home(Path(sys.argv[1]))).ref)"
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(home.root), str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    refs = sorted(writer.communicate(timeout=120)[0].strip() for writer in writers)
    assert refs == ["x@1", "x@2", "x@3", "x@4"]
    assert sorted(version.table().column("n")[0].as_py() for version in list_versions("x", home)) == [0, 1, 2, 3]


def test_a_failed_write_is_taken_back(home, monkeypatch):
    first = import_data("x", {"n": [1]}, home=home)
    files = {file for file in home.datasets.rglob("*") if file.is_file()}

    def fail(*_):
        raise RuntimeError("power")

    monkeypatch.setattr(versions, "profile_column", fail)
    with pytest.raises(RuntimeError):
        import_data("x", {"n": [2]}, home=home)
    assert {file for file in home.datasets.rglob("*") if file.is_file()} == files
    assert first.table().to_pydict() == {"n": [1]}


def test_damage_is_told(home):
    import_data("x", {"n": [1]}, home=home)
    record = home.datasets / "x" / "versions" / "1.json"
    record.write_text(record.read_text()[:50])
    with pytest.raises(Corrupt, match=r"1\.json of dataset x is damaged"):
        open_dataset("x", home)


def test_the_record_tells_where_a_version_came_from(home, tmp_path):
    (tmp_path / "a.csv").write_text("n\n1\n2\n")
    dataset = import_data("x", tmp_path / "a.csv", home=home, description="two numbers")
    record = json.loads((home.datasets / "x" / "versions" / "1.json").read_text())
    assert record["lineage"] == {"kind": "import", "source": str(tmp_path / "a.csv")}
    assert record["schema"] == [{"name": "n", "type": "integer", "shape": None}]
    assert record["profile"]["n"] | {"histogram": 0} == {
        "type": "integer", "missing": 0, "distinct": 2, "min": 1, "max": 2, "mean": 1.5, "std": 0.5, "histogram": 0,
    }  # fmt: skip
    assert (dataset.description, dataset.num_rows) == ("two numbers", 2)


def test_home_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "elsewhere"))
    assert import_data("x", {"n": [1]}).home.root == Path(os.environ["LEPTON_HOME"])
    assert Store("x", Home.current()).versions() == [1]
