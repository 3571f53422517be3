"""A manifest or a safetensors header from a stranger: accepted, or one clear error. Never another exception, never a huge allocation."""

import hashlib
import json
import random
import resource
import struct

import pytest

from leptonai.base.errors import Corrupt, InvalidInput, LeptonError
from leptonai.zoo.files import WEIGHTS, read_model
from leptonai.zoo.manifest import parse_manifest

from .conftest import manifest
from .test_files import relist

GOOD = json.loads(manifest(files={}).to_json())
ENTRY = {"sha256": "0" * 64, "bytes": 3}


@pytest.mark.parametrize(
    "path",
    ["../evil.json", "/etc/passwd", "a/../../b.json", "C:\\evil.json", "a\\..\\b.json", "", ".", "..", "a//b.json", ".hidden.json",
     "a/./b.json", "x" * 300 + ".json", "nul\0.json", "lepton.json", "a/b/c/d/e.json", "file:///etc/passwd", "%2e%2e/x.json", "‥/x.json"],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(InvalidInput, match="leads elsewhere"):
        parse_manifest(json.dumps({**GOOD, "files": {path: ENTRY}}).encode())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tsk": "x"}, "Did you mean 'task'"),
        ({"task": 3}, "task"),
        ({"task": ""}, "empty"),
        ({"network": {}}, "what to build"),
        ({"network": {"kind": ["mlp"]}}, "what to build"),
        ({"network": {"kind": "mlp", "config": 3}}, "what to build"),
        ({"format": 2}, "Upgrade"),
        ({"version": -1}, "out of range"),
        ({"version": 10**30}, "version"),
        ({"files": {"a.json": {**ENTRY, "bytes": -1}}}, "a.json"),
        ({"files": {"a.json": {**ENTRY, "bytes": 2**62}}}, "a.json"),
        ({"files": {"a.json": {**ENTRY, "bytes": 1e400}}}, "not a model's manifest|not whole JSON"),
        ({"files": {"a.json": {**ENTRY, "sha256": "../../x"}}}, "a.json"),
        ({"files": {"a.json": {**ENTRY, "sha256": "A" * 64}}}, "a.json"),
        ({"files": {"a.json": {**ENTRY, "url": "http://x"}}}, "unknown field"),
        ({"files": {f"{i}.json": ENTRY for i in range(1001)}}, "too many"),
        ({"files": []}, "manifest"),
        ({"lineage": "x"}, "lineage"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_meant_is_one_sentence(change, says):
    text = json.dumps({**GOOD, **change}).replace("Infinity", "1e400")
    with pytest.raises(LeptonError, match=says):
        parse_manifest(text.encode())


def test_deep_nesting_is_refused():
    deep = json.dumps(GOOD)[:-1] + ', "metrics": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}"
    with pytest.raises(InvalidInput, match="deeply"):
        parse_manifest(deep.encode())


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"\xff\xfe{}", b'{"task": "x"', b"3", b'{"task":"\xed\xa0\x80"}']
)
def test_what_is_no_manifest(data):
    with pytest.raises(LeptonError):
        parse_manifest(data)


def header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


F4 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "weights",
    [
        header({"w": F4}, bytes(7)),
        header({"w": F4}, bytes(9)),
        header({"w": {**F4, "shape": [3]}}, bytes(8)),
        header({"w": {**F4, "shape": [-1, -2]}}, bytes(8)),
        header({"w": {**F4, "shape": [2**40, 2**40]}}, bytes(8)),
        header({"w": {**F4, "data_offsets": [8, 0]}}, bytes(8)),
        header({"w": {**F4, "data_offsets": [-8, 0]}}, bytes(8)),
        header({"w": {**F4, "data_offsets": [0, 2**63]}}, bytes(8)),
        header({"w": F4, "v": F4}, bytes(8)),
        header({"w": F4, "v": {**F4, "data_offsets": [12, 20]}}, bytes(20)),
        header({"w": {**F4, "dtype": "F8_E4M3"}}, bytes(8)),
        header({"w": {**F4, "dtype": "object"}}, bytes(8)),
        header({"w": {**F4, "more": 1}}, bytes(8)),
        header({"w": [1, 2]}, bytes(8)),
        header(b"[" * 50_000),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_999_999) + b"{}",
        b"",
        b"\x02",
        header(b"\xff\xff"),
    ],
)
def test_a_header_that_lies_is_refused(folder, weights):
    relist(folder, WEIGHTS, weights)
    with pytest.raises((Corrupt, InvalidInput), match="safetensors"):
        read_model(folder)


def test_thousands_of_edits_in_headers_and_manifests(folder):
    """Each mutation is right by its hash, so that it reaches the parser: ok or LeptonError, and memory stays flat."""
    random.seed(0)
    weights, listed = (folder / WEIGHTS).read_bytes(), json.loads((folder / "lepton.json").read_text())
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"ok": 0, "error": 0}
    for turn in range(1500):
        text = json.dumps(listed).encode()
        data = mutate(weights) if turn % 3 else weights
        if turn % 3:
            files = {**listed["files"], WEIGHTS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
            text = json.dumps({**listed, "files": files}).encode()
        else:
            text = mutate(text)
        (folder / WEIGHTS).write_bytes(data)
        (folder / "lepton.json").write_bytes(text)
        try:
            read_model(folder)
            outcomes["ok"] += 1
        except LeptonError as error:
            assert str(error)
            outcomes["error"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    assert outcomes["error"] > 500, outcomes
    assert outcomes["ok"] > 50, outcomes
    assert grown < 64 * 1024, f"{grown} KiB"


def mutate(data: bytes) -> bytes:
    """One to four edits: flip, delete, insert, repeat, or a number replaced by a hostile one."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(data) or 1)
        kind = random.randrange(5)
        if kind == 0 and data:
            data[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            del data[place : place + random.randint(1, 8)]
        elif kind == 2:
            data[place:place] = random.choice(
                [b"9" * 30, b"-1", b"[[", b"}}", b"\0", b'"', b"1e999", b"\xff\xfe", b"../"]
            )
        elif kind == 3:
            data[place:place] = data[place : place + random.randint(1, 60)]
        else:
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                at = random.choice(digits)
                data[at : at + 1] = random.choice([b"0", b"9", b"4294967296", b"18446744073709551616", b"-7", b"2.5"])
    return bytes(data)
