"""A zip from anywhere: hostile ones are refused whole, and nothing is ever unpacked to disk."""

import stat
import time
import zipfile

import numpy as np
import pytest

from leptonai.base.errors import Corrupt, InvalidInput, Refused
from leptonai.data import archive
from leptonai.data.archive import open_tree
from leptonai.data.importing import import_data

from .conftest import png, write_files

NAMES = [
    "../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "C:evil.png", "..\\evil.png", "a\\b.png", "a/..", "\\\\host\\share\\x.png",
]  # fmt: skip


def pack(path, members: dict[str, bytes], mode: int | None = None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode is not None:
                info.external_attr = mode << 16
            file.writestr(info, content)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_are_refused(tmp_path, home, name):
    path = pack(tmp_path / "x.zip", {"a/good.png": png(np.zeros((2, 2))), name: b"x"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(Refused, match="leads out of it"):
        import_data("x", path, home=home)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(Refused, match="a link or device"):
        open_tree(pack(tmp_path / "x.zip", {"a.png": b"/etc/passwd"}, kind | 0o777))


def test_names_that_meet_are_refused(tmp_path):
    with pytest.raises(Refused, match="the same name twice"):
        open_tree(pack(tmp_path / "x.zip", {"a.csv": b"x\n1\n", "A.csv": b"x\n2\n"}))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = pack(tmp_path / "x.zip", {"a.csv": b"n\n" + b"0\n" * 20_000_000})
    started = time.monotonic()
    with pytest.raises(Refused, match="more than 100 times its size"):
        open_tree(path)
    assert time.monotonic() - started < 5


def test_many_small_bombs_and_quotas(tmp_path, monkeypatch):
    with pytest.raises(Refused, match="more than 100 times its size"):
        open_tree(pack(tmp_path / "x.zip", {f"{i}.txt": b"\0" * 900_000 for i in range(20)}))
    fine = pack(tmp_path / "y.zip", {f"{i}.csv": b"n\n1\n" for i in range(5)})
    monkeypatch.setattr(archive, "MOST_BYTES", 10)
    with pytest.raises(Refused, match="unpacks to too much: received 20 bytes"):
        open_tree(fine)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 4)
    with pytest.raises(Refused, match="too many members"):
        open_tree(fine)


def test_a_size_that_lies_is_found_out(tmp_path, home):
    """The directory says 4 bytes, the member holds more: what is read is what was announced, and its checksum is wrong."""
    path = pack(tmp_path / "x.zip", {"a.csv": b"n\n" + b"1\n" * 500})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\1\2")
    data[place + 24 : place + 28] = (4).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"a\.csv in x\.zip cannot be unpacked"):
        import_data("x", path, home=home)


def test_archives_that_are_cut_or_empty(tmp_path, home):
    path = pack(tmp_path / "x.zip", {"a.csv": b"n\n1\n"})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Corrupt, match=r"x\.zip is not a whole zip archive"):
        import_data("x", path, home=home)
    with pytest.raises(InvalidInput, match="no files in it"):
        import_data("x", pack(tmp_path / "y.zip", {"__MACOSX/a": b"", ".DS_Store": b""}), home=home)


def test_a_link_out_of_a_folder_is_not_followed(tmp_path, home):
    (tmp_path / "secret.txt").write_text("secret")
    folder = write_files(tmp_path / "x", {"a/1.txt": b"one"})
    (folder / "a" / "2.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(Refused, match="leads out of its folder"):
        import_data("x", folder, home=home)
    (folder / "a" / "2.txt").unlink()
    (folder / "a" / "2.txt").symlink_to(folder / "a" / "1.txt")
    assert import_data("x", folder, home=home).num_rows == 2


def test_a_zip_with_a_table_or_a_folder_with_a_zip(tmp_path, home):
    (tmp_path / "x").mkdir()
    pack(tmp_path / "x" / "a.zip", {"top/data.csv": b"n\n1\n2\n"})
    assert import_data("x", tmp_path / "x" / "a.zip", home=home).table().to_pydict() == {"n": [1, 2]}
    assert import_data("x", tmp_path / "x", home=home).ref == "x@1"
