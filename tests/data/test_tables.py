"""Tables come in from every format with the types that a reader of the file would give them."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from leptonai.data.fields import schema_of
from leptonai.data.importing import import_data, read_source

CSV = """age,income,city,member,since,note
31,1000.5,Graz,true,2020-01-31,likes long walks
,2000.0,Wien,false,2021-05-01,"says ""hi"", often"
47,,Graz,,2022-07-09,
"""
TYPES = {
    "age": "integer",
    "income": "number",
    "city": "text",
    "member": "boolean",
    "since": "timestamp",
    "note": "text",
}


def types(table: pa.Table) -> dict[str, str]:
    return {column.name: column.type for column in schema_of(table)}


def test_csv_types_and_missing_values(tmp_path):
    (tmp_path / "people.csv").write_text(CSV)
    table = read_source(tmp_path / "people.csv")
    assert types(table) == TYPES
    assert table.column("age").to_pylist() == [31, None, 47]
    assert table.column("note").to_pylist() == ["likes long walks", 'says "hi", often', None]
    assert table.schema.field("since").type == pa.timestamp("us")


def test_repeated_short_strings_are_a_category():
    words = {
        "kind": ["cat", "dog"] * 50,
        "name": [f"pet {i}" for i in range(100)],
        "essay": ["long " * 40, "longer " * 40] * 50,
    }
    assert types(read_source(words)) == {"kind": "category", "name": "text", "essay": "text"}


def test_given_type_keeps_the_zeros_of_a_zip_code(tmp_path):
    (tmp_path / "a.csv").write_text("zip,n\n01234,1\n90210,2\n")
    assert read_source(tmp_path / "a.csv").column("zip").to_pylist() == [1234, 90210]
    table = read_source(tmp_path / "a.csv", {"zip": "category", "n": "number"})
    assert table.column("zip").to_pylist() == ["01234", "90210"]
    assert types(table) == {"zip": "category", "n": "number"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", b"x\ty\n1\tb\n2\tc\n"),
        ("a.csv", b"x;y\n1;b\n2;c\n"),
        ("a.csv", "\ufeffx,y\n1,b\n2,c\n".encode()),
        ("a.csv", "x,y\n1,b\n2,c\n".encode("utf-16")),
        ("a.csv", b"x,y\r\n1,b\r\n2,c\r\n"),
        ("a.csv.gz", gzip.compress(b"x,y\n1,b\n2,c\n")),
        ("a.jsonl", b'{"x": 1, "y": "b"}\n\n{"x": 2, "y": "c"}\n'),
        ("a.json", b'[{"x": 1, "y": "b"}, {"x": 2, "y": "c"}]'),
        ("a.json", b'{"x": [1, 2], "y": ["b", "c"]}'),
        ("a.csv", b'x,y\n"1",b\n"2",c\n'),
    ],
)
def test_the_same_table_in_many_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_source(tmp_path / name).to_pydict() == {"x": [1, 2], "y": ["b", "c"]}


def test_arrow_formats(tmp_path):
    table = pa.table({"x": [1, 2], "y": ["b", "c"]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, tmp_path / "a.feather")
    with pa.ipc.new_stream(tmp_path / "a.arrows", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.feather", "a.arrows"):
        assert read_source(tmp_path / name).equals(read_source(table))


def test_npz_arrays_are_columns_and_parts(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([1, 2]), y=np.array([0.5, 1.5]))
    assert read_source(tmp_path / "a.npz").to_pydict() == {"x": [1, 2], "y": [0.5, 1.5]}
    images = np.zeros((3, 4, 4), np.uint8)
    np.savez(
        tmp_path / "b.npz", train_images=images[:2], train_labels=[[1], [2]], test_images=images[2:], test_labels=[[3]]
    )
    table = read_source(tmp_path / "b.npz").select(["label", "split"])
    assert table.to_pydict() == {"label": [1, 2, 3], "split": ["train", "train", "test"]}


def test_objects_of_python():
    import pandas as pd

    frame = pd.DataFrame({"n": [1.0, None], "i": [1, 2], "s": ["a", None], "c": pd.Categorical(["u", "v"])})
    assert types(read_source(frame)) == {"n": "number", "i": "integer", "s": "text", "c": "category"}
    arrays = {"image": np.zeros((2, 4, 5), np.uint8), "vector": np.ones((2, 3), np.float32), "label": np.array([1, 2])}
    schema = schema_of(read_source(arrays))
    assert [(c.type, c.shape) for c in schema] == [("image", (4, 5, 1)), ("tensor", (3,)), ("integer", None)]


def test_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    parts = {
        part: datasets.Dataset.from_dict(
            {"text": [f"{part} {i}" for i in range(3)], "label": [0, 1, -1]}, features=features
        )
        for part in ("train", "test")
    }
    table = read_source(datasets.DatasetDict(parts))
    assert table.column("label").to_pylist() == ["no", "yes", None] * 2
    assert table.column("split").to_pylist() == ["train"] * 3 + ["test"] * 3
    assert types(table)["label"] == "category"


def test_nested_json_becomes_columns_and_lists_become_tensors_or_text(tmp_path):
    rows = [
        {"user": {"age": 3, "name": "a"}, "xy": [1.0, 2.0], "tags": ["u"]},
        {"user": {"age": 4, "name": "b"}, "xy": [3.0, 4.0], "tags": []},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = read_source(tmp_path / "a.jsonl")
    assert types(table) == {"user.age": "integer", "user.name": "text", "xy": "tensor", "tags": "text"}
    assert table.column("tags").to_pylist() == ['["u"]', "[]"]


def test_json_moments_and_large_numbers(tmp_path):
    rows = [
        {"at": "2020-01-31T10:00:00Z", "day": "2020-01-31", "id": 2**70},
        {"at": "2021-01-31T10:00:00Z", "day": None, "id": 1},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = read_source(tmp_path / "a.jsonl")
    assert types(table) == {"at": "timestamp", "day": "timestamp", "id": "number"}
    assert table.column("at")[1].as_py().isoformat() == "2021-01-31T10:00:00+00:00"


def test_text_file_is_one_row_per_line_that_is_not_blank(tmp_path):
    (tmp_path / "a.txt").write_text("First line\n\nSecond line\n")
    assert read_source(tmp_path / "a.txt").to_pydict() == {"text": ["First line", "Second line"]}


def test_folder_with_train_and_test_files_is_split(tmp_path):
    (tmp_path / "train.csv").write_text("x\n1\n2\n")
    (tmp_path / "test.csv").write_text("x\n3\n")
    assert read_source(tmp_path).sort_by("x").to_pydict() == {"x": [1, 2, 3], "split": ["train", "train", "test"]}


def test_names_of_parts_become_ours():
    table = read_source({"x": [1, 2, 3, 4], "split": ["train", "val", "Test", None]})
    assert table.column("split").to_pylist() == ["train", "validation", "test", "train"]
    assert read_source({"split": ["left", "right"]}).column("split").to_pylist() == ["left", "right"]


def test_index_column_without_a_name(tmp_path):
    (tmp_path / "a.csv").write_text(",x\n0,5\n1,6\n")
    assert read_source(tmp_path / "a.csv").column_names == ["column_1", "x"]


def test_names_are_trimmed_and_a_separator_at_the_end_of_lines_is_no_column(tmp_path):
    (tmp_path / "a.csv").write_text("x, y,\n0,5,\n1,6,\n")
    assert read_source(tmp_path / "a.csv").to_pydict() == {"x": [0, 1], "y": [5, 6]}


def test_columns_that_pandas_has_numbered(tmp_path):
    (tmp_path / "a.csv").write_text("0,1\n7,8\n")
    assert read_source(tmp_path / "a.csv").to_pydict() == {"0": [7], "1": [8]}


def test_decimal_commas_of_files_with_semicolons(tmp_path):
    (tmp_path / "a.csv").write_text("price;n;name\n1.234,50;1;a,b\n-0,5;2;c\n;3;d\n")
    table = read_source(tmp_path / "a.csv").to_pydict()
    assert table == {"price": [1234.5, -0.5, None], "n": [1, 2, 3], "name": ["a,b", "c", "d"]}


def test_whole_numbers_past_64_bits_keep_their_digits(tmp_path):
    (tmp_path / "a.csv").write_text("id,mass\n9223372036854775807,1e30\n123456789012345678901234567890,2.5\n")
    table = read_source(tmp_path / "a.csv").to_pydict()
    assert table == {"id": ["9223372036854775807", "123456789012345678901234567890"], "mass": [1e30, 2.5]}


def test_quoted_line_breaks_across_blocks(tmp_path):
    rows = [f'{i},"first line\nsecond line {"x" * 90}"' for i in range(60_000)]
    (tmp_path / "a.csv").write_text("n,text\n" + "\n".join(rows) + "\n")
    table = read_source(tmp_path / "a.csv")
    assert table.num_rows == 60_000
    assert table.column("n").to_pylist()[-1] == 59_999


def test_column_names_with_dots_and_other_signs(home):
    values = {
        "sepal.length": [1.5, 2.5],
        "100%": [1, 2],
        "a%2Eb": [3, 4],
        "größe (m)": ["x", "y"],
        "_rowid": [5, 6],
        "A": [7, 8],
        "a": [9, 10],
    }
    dataset = import_data("iris", values, home=home)
    assert dataset.table().to_pydict() == values
    assert dataset.columns()["sepal.length"].tolist() == [1.5, 2.5]
    longer = dataset.append({"sepal.length": [3.5]}, lineage={})
    assert longer.table(["sepal.length"]).column(0).to_pylist() == [1.5, 2.5, 3.5]
