"""YAML from people is plain data with lines; what could run code, fill the memory or be misread is refused."""

import math
import time

import pytest

from leptonai.base.errors import InvalidInput, LeptonError, NotFound
from leptonai.base.yaml import parse_yaml, read_yaml


def test_scalars_mean_what_they_look_like():
    text = "a: 1e-3\nb: 0x10\nc: 007\nd: -.inf\ne: .nan\nf: ~\ng: true\nh: '1'\non: no\ntime: 1:30\nday: 2024-01-01\n"
    data = parse_yaml(text).data
    assert math.isnan(data.pop("e"))
    assert data == {
        **{"a": 0.001, "b": 16, "c": 7, "d": -math.inf, "f": None, "g": True, "h": "1"},
        **{"on": "no", "time": "1:30", "day": "2024-01-01"},
    }


def test_every_key_knows_its_line():
    document = parse_yaml("a: 1\n\nb:\n  c: [x,\n    y]\n")
    assert document.lines == {("a",): 1, ("b",): 3, ("b", "c"): 4, ("b", "c", 0): 4, ("b", "c", 1): 5}
    assert document.line(("b", "missing")) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "anchor or alias in line 1"),
        ("a: 1\nb: 2\na: 3", "`a` in line 3 of YAML is there twice, first in line 1"),
        ("a: !!python/object/apply:os.system [true]", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: !!set {x}", "tag"),
        ("a: !!int x", "number in line 1"),
        ("a: " + "9" * 5000, "number in line 1"),
        ("a: [1", "not valid YAML in line"),
        ("a: 1\n---\nb: 2", "another document"),
        ("? [1]\n: 2", "not a word"),
        ("a: \x00", "not valid YAML"),
        ("a: " + "x" * 300_000, "too large"),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(text, says):
    with pytest.raises(InvalidInput, match=says.replace("(", r"\(")) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{a: " * 50_000, "- " * 100_000, "a: &a [x]\nb: &b [*a,*a,*a]\n" * 5000]
)
def test_a_bomb_is_refused_quickly(text):
    started = time.process_time()
    with pytest.raises(LeptonError):
        parse_yaml(text)
    assert time.process_time() - started < 1.0


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(NotFound, match=r"no file .*nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"latin\.yaml is not UTF-8"):
        read_yaml(path)
