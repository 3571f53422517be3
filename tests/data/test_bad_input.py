"""What cannot be meant is refused with one sentence that says where, and what to do; nothing is stored."""

import contextlib
import gzip
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.base.errors import Corrupt, InvalidInput, LeptonError, NotFound, Refused
from leptonai.data.importing import import_data, read_source

from .conftest import idx, png, wav, write_files

CASES = {
    "ragged": ("a.csv", b"a,b\n1,2\n3\n", InvalidInput, ["line 3 of a.csv has 1 field", "expected 2"]),
    "too many fields": ("a.csv", b"a,b\n1,2\n3,4,5\n", InvalidInput, ["line 3", "3 fields", "double quotes"]),
    "ragged after a quoted line break": ("a.csv", b'a,b\n"x\ny",2\n3\n', InvalidInput, ["line 4 of a.csv"]),
    "latin-1": ("a.csv", "a,b\nx,1\nÉté,2\n".encode("latin-1"), InvalidInput, ["not UTF-8", "0xc9", "line 3", "--encoding latin-1"]),
    "latin-1 header": ("a.csv", "é,b\nx,1\n".encode("latin-1"), InvalidInput, ["not UTF-8", "line 1"]),
    "latin-1 lines": ("a.jsonl", '{"a": "é"}\n'.encode("latin-1"), InvalidInput, ["not UTF-8", "--encoding"]),
    "empty file": ("a.csv", b"", InvalidInput, ["a.csv is empty"]),
    "blank first line": ("a.csv", b"\n\n", InvalidInput, ["begins with an empty line"]),
    "header only": ("a.csv", b"a,b\n", InvalidInput, ["a header and no rows"]),
    "duplicate names": ("a.csv", b"a,b,a\n1,2,3\n", InvalidInput, ["two columns have the same name: received a"]),
    "a column without values": ("a.csv", b"a,b\n1,NaN\n2,\n", InvalidInput, ["column 'b' has no value in any row", "--type b=number"]),
    "numbers for names": ("a.csv", b"5.1,3.5,0\n4.9,3.0,1\n", InvalidInput, ["first line of a.csv holds numbers", "names of the columns"]),
    "quote never closed": ("a.csv", b'a,b\n1,x\n2,"y\n3,z\n', InvalidInput, ["begins in line 3 of a.csv is never closed"]),
    "broken json line": ("a.jsonl", b'{"a": 1}\n{"a": \n', InvalidInput, ["line 2 of a.jsonl is not JSON"]),
    "json of another kind": ("a.jsonl", b'{"a": 1}\n[1]\n', InvalidInput, ["line 2", "JSON object"]),
    "json null": ("a.jsonl", b"null", InvalidInput, ["line 1", "JSON object"]),
    "json null behind an object": ("a.jsonl", b'{"a": 1} null\n', InvalidInput, ["line 1"]),
    "deep json": ("a.jsonl", b'{"a": ' + b"[" * 100_000, InvalidInput, ["a.jsonl is nested too deeply"]),
    "mixed json": ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', InvalidInput, ["column 'a'", "mixes types: record 2 is str"]),
    "json number": ("a.json", b"3", InvalidInput, ["not a table"]),
    "no text": ("a.txt", b"\n \n", InvalidInput, ["no text in it"]),
    "not parquet": ("a.parquet", b"PAR1 not really", Corrupt, ["a.parquet is not a whole Parquet file"]),
    "not arrow": ("a.arrow", b"ARROW1\0\0 cut", Corrupt, ["a.arrow is not a whole Arrow file"]),
    "not gzip": ("a.csv.gz", b"a,b\n1,2\n", InvalidInput, ["not gzipped"]),
    "cut gzip": ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:40], Corrupt, ["a.csv.gz", "cut short"]),
    "unknown format": ("a.xlsx", b"PK\3\4....", InvalidInput, ["this format is not read", "Save it as CSV"]),
    "pickle by name": ("a.pkl", b"anything", Refused, ["a pickle can run code", "Parquet"]),
    "pickle by content": ("a.csv", b"\x80\x04\x95\x10\0\0\0\0\0\0\0.", Refused, ["a pickle can run code"]),
    "idx cut short": ("t10k-images-idx3-ubyte", idx(np.zeros((5, 8, 8)))[:-10], Corrupt, ["cut short", "310 bytes", "expected 320"]),
    "idx too long": ("a-idx1-ubyte", idx(np.zeros(5)) + b"x", Corrupt, ["longer than its header says"]),
    "idx gzip cut short": ("a-idx3-ubyte.gz", gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 8, 8))))[:-99], Corrupt, ["cut short"]),
    "idx bomb": ("a-idx3-ubyte", bytes([0, 0, 8, 3]) + b"\xff" * 12, Refused, ["says it holds too much"]),
    "not idx": ("a-idx3-ubyte", b"hello, this is text", InvalidInput, ["not an idx file"]),
    "image": ("x.png", png(np.zeros((8, 8)))[:-20], InvalidInput, ["x.png does not decode as an image"]),
    "wav": ("x.wav", b"RIFFxxxxAVI ", InvalidInput, ["x.wav is not a WAV file"]),
}  # fmt: skip


NAMES = [
    "a.csv",
    "a.tsv",
    "a.jsonl",
    "a.json",
    "a.txt",
    "a.parquet",
    "a.arrow",
    "a.npz",
    "a-idx3-ubyte",
    "a.csv.gz",
    "a.zip",
    "a.png",
    "a.wav",
]


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_says_what_is_wrong(tmp_path, home, case):
    name, content, error, words = CASES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as caught:
        import_data("x", tmp_path / name, home=home)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not home.datasets.exists()


def test_paths(tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        read_source(tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match="no files in it"):
        read_source(write_files(tmp_path / "empty", {".hidden": b""}))
    with pytest.raises(InvalidInput, match="nothing in odd that is read"):
        read_source(write_files(tmp_path / "odd", {"a.docx": b"x"}))
    with pytest.raises(InvalidInput, match="cannot be the name of a dataset"):
        import_data("../x", {"a": [1]})


def test_encoding_is_taken_at_its_word(tmp_path):
    (tmp_path / "a.csv").write_bytes("a\nÉté\n".encode("latin-1"))
    assert read_source(tmp_path / "a.csv", encoding="latin-1").column("a").to_pylist() == ["Été"]
    with pytest.raises(InvalidInput, match="encoding is not known"):
        read_source(tmp_path / "a.csv", encoding="latin-42")


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_types_that_are_not_there(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_text("price,name\n1,x\n" if suffix == "csv" else '[{"price": 1, "name": "x"}]')
    with pytest.raises(InvalidInput, match="Did you mean 'price'"):
        read_source(tmp_path / f"a.{suffix}", {"prise": "number"})
    with pytest.raises(InvalidInput, match="Did you mean 'category'"):
        read_source(tmp_path / f"a.{suffix}", {"name": "categry"})
    with pytest.raises(
        InvalidInput, match=r"column 'name' has a value that is not of type number in row 1: received x"
    ):
        read_source(tmp_path / f"a.{suffix}", {"name": "number"})


def test_the_first_value_of_another_type_is_shown(tmp_path):
    (tmp_path / "a.csv").write_text("n\n" + "1\n" * 5000 + "?\n" + "2\n" * 5000)
    with pytest.raises(InvalidInput, match=r"in row 5001: received \?"):
        read_source(tmp_path / "a.csv", {"n": "integer"})


def test_a_column_without_values_can_be_kept(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,\n2,\n")
    assert read_source(tmp_path / "a.csv", {"b": "number"}).column("b").null_count == 2


def test_objects_that_are_not_tables():
    import pandas as pd

    with pytest.raises(InvalidInput, match="cannot be read as a table: received int"):
        read_source(3)
    with pytest.raises(InvalidInput, match="column 'a' mixes types"):
        read_source(pd.DataFrame({"a": [1, "x", object()]}))
    with pytest.raises(InvalidInput, match="unequal lengths"):
        read_source({"a": [1], "b": [1, 2]})
    with pytest.raises(InvalidInput, match="no rows"):
        read_source({"a": np.empty(0)})
    with pytest.raises(InvalidInput, match="same name"):
        read_source(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_an_npz_of_objects_is_a_pickle(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Refused, match="pickle"):
        read_source(tmp_path / "a.npz")


def test_folders_that_mix_or_break(tmp_path):
    with pytest.raises(InvalidInput, match="holds images and sounds"):
        read_source(write_files(tmp_path / "mixed", {"a/1.png": png(np.zeros((2, 2))), "a/1.wav": wav()}))
    with pytest.raises(InvalidInput, match=r"b/2.png does not decode as an image"):
        read_source(write_files(tmp_path / "bad", {"a/1.png": png(np.zeros((2, 2))), "b/2.png": b"not a picture"}))
    with pytest.raises(InvalidInput, match=r"lies in no class folder, others do: received 2.png"):
        read_source(write_files(tmp_path / "loose", {"a/1.png": png(np.zeros((2, 2))), "2.png": png(np.zeros((2, 2)))}))
    with pytest.raises(InvalidInput, match="unequal numbers of rows"):
        read_source(
            write_files(
                tmp_path / "idx",
                {"train-images-idx3-ubyte": idx(np.zeros((3, 2, 2))), "train-labels-idx1-ubyte": idx(np.zeros(2))},
            )
        )


def test_bytes_that_are_no_image(tmp_path):
    pa.parquet.write_table(pa.table({"blob": [b"\0\1", b"\2"]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match="row 1 of column 'blob' does not decode as an image"):
        read_source(tmp_path / "a.parquet")


def test_a_full_disk_leaves_the_dataset_as_it_was(tmp_path, home):
    """RLIMIT_FSIZE stands for the disk: a write past it fails, in Python and in Lance."""
    before = import_data("x", {"a": [1, 2, 3]}, home=home)
    script = """
import resource, sys, numpy as np
from pathlib import Path
from leptonai.base.errors import DiskFull
from leptonai.base.home import Home
from leptonai.data.importing import import_data
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for name in ("x", "new"):
    try:
        import_data(name, {"a": np.random.default_rng(0).random(500_000)}, home=Home(Path(sys.argv[1])))
    except DiskFull as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(home.root)], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("the disk is full") == 2, done.stderr
    from leptonai.data.dataset import list_datasets

    assert [dataset.ref for dataset in list_datasets(home)] == ["x@1"]
    assert not [file for file in home.datasets.rglob("*") if file.is_file() and file.stat().st_size > 100_000]
    assert before.table().to_pydict() == {"a": [1, 2, 3]}
    assert import_data("x", {"a": [4]}, home=home).ref == "x@2"


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text(alphabet='ab1,;"\n\r\t é{}[]:.', max_size=60).map(str.encode),
    name=st.sampled_from(NAMES),
)
def test_any_bytes_give_a_table_or_our_error(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    with contextlib.suppress(LeptonError):
        assert read_source(path).num_rows > 0
