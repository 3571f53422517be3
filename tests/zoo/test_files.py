"""A model folder comes back as it was written, or says which file is not what was written."""

import json
import os
import zipfile

import numpy as np
import pytest

from leptonai.base.errors import Conflict, Corrupt, InvalidInput, LeptonError, NotFound, Refused
from leptonai.zoo.files import WEIGHTS, read_model, verify_model, write_model
from leptonai.zoo.tensors import read_tensors, write_tensors

from .conftest import manifest, tensors


def test_what_is_written_is_read_back(folder):
    found = read_model(folder)

    assert found.manifest.task == "tabular-classification"
    assert found.files == {"tokenizer/vocab.json": b'{"a": 1}'}
    for name, tensor in tensors().items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape


def test_tensors_may_be_changed_after_reading(folder):
    found = read_model(folder)

    found.tensors["weight"][0, 0] = 5  # torch.from_numpy needs writable memory

    assert read_model(folder).tensors["weight"][0, 0] != 5


def test_another_reader_of_safetensors_agrees(folder):
    from safetensors.numpy import load_file

    theirs = load_file(folder / WEIGHTS)

    assert all(np.array_equal(theirs[name], tensor) for name, tensor in tensors().items())


def test_bfloat16_from_elsewhere_is_widened():
    values = np.array([1.0, -2.5, 3e38, 0.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")  # bfloat16 is the upper half of float32
    head = b'{"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    data = len(head).to_bytes(8, "little") + head + upper.tobytes()

    read = read_tensors(np.frombuffer(data, np.uint8), "w")["w"]

    np.testing.assert_allclose(read.ravel(), values, rtol=2**-7)
    assert (read.shape, read.dtype) == ((2, 2), np.float32)


def test_the_same_tensors_give_the_same_bytes():
    assert write_tensors(tensors()) == write_tensors(dict(reversed(tensors().items())))


@pytest.mark.parametrize(
    "transposed", [np.arange(6.0).reshape(2, 3).T, np.arange(10)[::2], np.asfortranarray(np.eye(3))]
)
def test_arrays_of_any_memory_order_are_stored_by_value(tmp_path, transposed):
    write_model(tmp_path / "m", manifest(), {"w": transposed})

    np.testing.assert_array_equal(read_model(tmp_path / "m").tensors["w"], transposed)


def test_objects_are_not_tensors(tmp_path):
    with pytest.raises(InvalidInput, match="'w' cannot be stored"):
        write_model(tmp_path / "m", manifest(), {"w": np.array([{}], object)})
    assert not (tmp_path / "m").exists()


def test_every_cut_and_every_flipped_byte_is_noticed(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for length in range(0, len(whole), 7):
        (folder / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(Corrupt, match=r"model.safetensors"):
            read_model(folder)
        with pytest.raises(Corrupt, match=r"model.safetensors"):
            verify_model(folder)
    for place in range(0, len(whole), 11):
        (folder / WEIGHTS).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LeptonError, match=r"model.safetensors"):
            read_model(folder)


def test_a_missing_file_is_named(folder):
    (folder / "tokenizer" / "vocab.json").unlink()

    with pytest.raises(Corrupt, match=r"tokenizer/vocab.json is missing"):
        read_model(folder)


def test_no_folder_and_no_manifest(tmp_path):
    with pytest.raises(NotFound):
        read_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no lepton\.json"):
        read_model(tmp_path / "empty")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.joblib", "model.npy", "model.h5"]
)
def test_weights_that_could_run_code_are_refused_with_what_to_do(tmp_path, name):
    folder = tmp_path / "download"
    folder.mkdir()
    (folder / name).write_bytes(b"\x80\x04\x95\x10\x00")

    with pytest.raises(Refused, match=r"can run code when opened.*[Cc]onvert it with") as error:
        read_model(folder)
    assert name in str(error.value)
    with pytest.raises(Refused, match="can run code"):
        read_model(folder / name)


@pytest.mark.parametrize(
    "start",
    [
        b"\x80\x04\x95\x10\x00\x00\x00\x00",
        b"\x80\x02}q\x00X\x01",
        b"PK\x03\x04\x14\x00",
        b"\x93NUMPY\x01\x00",
        b"\x89HDF\r\n\x1a\n",
    ],
)
def test_a_pickle_under_the_name_of_weights_is_refused(folder, start):
    relist(folder, WEIGHTS, start + bytes(200))

    with pytest.raises(Refused, match="can run code"):
        read_model(folder)
    with pytest.raises(Refused, match="can run code"):
        verify_model(folder)


def test_a_real_torch_checkpoint_is_refused_and_never_opened(folder, tmp_path):
    marker = tmp_path / "ran"
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("archive/data.pkl", f"cposix\nsystem\n(S'touch {marker}'\ntR.")
    (folder / "extra.pt").write_bytes((tmp_path / "evil.pt").read_bytes())

    with pytest.raises(Refused, match=r"extra\.pt"):
        read_model(folder)
    assert not marker.exists()


def test_code_in_the_folder_is_refused_and_never_imported(folder):
    (folder / "modeling_evil.py").write_text("open('/tmp/never', 'w')")

    with pytest.raises(Refused, match=r"modeling_evil\.py"):
        read_model(folder)


def test_links_are_refused(folder, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_bytes((folder / "tokenizer" / "vocab.json").read_bytes())
    (folder / "tokenizer" / "vocab.json").unlink()
    os.symlink(secret, folder / "tokenizer" / "vocab.json")

    with pytest.raises(Refused, match="links"):
        read_model(folder)


def test_a_linked_folder_inside_is_refused(folder, tmp_path):
    (folder / "tokenizer").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "tokenizer")

    with pytest.raises(Refused, match="links"):
        verify_model(folder)


def test_other_files_of_people_are_left_alone(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / ".DS_Store").write_bytes(b"\0\0")

    assert "notes.txt" not in read_model(folder).files


def test_saving_again_replaces_a_model_but_nothing_else(tmp_path):
    write_model(tmp_path / "m", manifest(), tensors(0), {"vocab.txt": b"a"})
    write_model(tmp_path / "m", manifest(), tensors(1))
    np.testing.assert_array_equal(read_model(tmp_path / "m").tensors["weight"], tensors(1)["weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(Conflict, match="something else"):
        write_model(tmp_path / "photos", manifest(), tensors())
    assert (tmp_path / "photos" / "cat.png").exists()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("leptonai.zoo.files.write_card", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        write_model(tmp_path / "m", manifest(), tensors())
    assert list(tmp_path.iterdir()) == []


def relist(folder, path, data):
    """Write `data` to `path` and let the manifest say that this is right."""
    import hashlib

    (folder / path).write_bytes(data)
    listed = json.loads((folder / "lepton.json").read_text())
    listed["files"][path] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "lepton.json").write_text(json.dumps(listed))
