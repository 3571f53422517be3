"""The .photon package, the local store and `lep photon`: source travels, pickles do not, hostile archives do nothing."""

import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from leptonai.base.errors import Corrupt, InvalidInput, LeptonError, NotFound, Refused
from leptonai.photon import Photon
from leptonai.photon.framework import models, package, store

SOURCE = """
from pathlib import Path
from leptonai.photon import Photon
import helper

class Packed(Photon):
    \"\"\"Packed.\"\"\"
    requirement_dependency = ["numpy>=2"]
    extra_files = {"data/words.txt": "words.txt"}
    @Photon.handler
    def read(self) -> str:
        return helper.shout(Path("data/words.txt").read_text())
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "packed.py").write_text(SOURCE)
    (folder / "helper.py").write_text("def shout(text):\n    return text.upper()\n")
    (folder / "words.txt").write_text("words")
    monkeypatch.chdir(folder)
    return folder


def lep(*arguments, cwd=None):
    command = [sys.executable, "-m", "leptonai.cli.main", "photon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_a_package_runs_elsewhere_with_its_files(project, tmp_path, process):
    assert lep("create", "-n", "packed", "-m", "packed.py:Packed").returncode == 0
    kept = store.find("packed")
    with zipfile.ZipFile(kept.path) as archive:
        assert set(archive.namelist()) == {"metadata.json", "src/packed.py", "src/helper.py", "extra/data/words.txt"}
    about = json.loads(lep("metadata", "-n", "packed").stdout)
    assert (about["entry"], about["requirement_dependency"]) == ("src/packed.py:Packed", ["numpy>=2"])
    assert "/read" in about["openapi_schema"]["paths"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project / "helper.py").unlink()
    url, _ = process("photon", "runlocal", "-n", "packed", "-p", 0, cwd=elsewhere)
    assert httpx.post(f"{url}/read").json() == "WORDS"
    assert json.loads(lep("list", "-l", "--json").stdout)[0]["id"] == kept.id
    assert lep("prepare", "-n", "packed", "--dry-run").stdout == "pip install numpy>=2\n"
    assert lep("remove", "-l", "-n", "packed").returncode == 0
    assert "there is no photon" in lep("metadata", "-n", "packed").stderr


def test_equal_content_is_one_package(project):
    made = models.create("packed", "packed.py")
    assert store.keep(made).id == store.keep(made).id
    assert len(store.versions("packed")) == 1
    loaded = Photon.load(store.find("packed").path)
    assert (loaded.name, loaded.read()) == ("packed", "WORDS")


@pytest.mark.parametrize("name", ["Upper", "1a", "a-", "a_b", "", "a" * 33, "a/b", "é"])
def test_names(name, project):
    with pytest.raises(InvalidInput, match="name of a photon"):
        models.create(name, "packed.py")


def test_requirements_are_no_options():
    from leptonai.cli.photon import pip_commands

    assert pip_commands(["a", "b==1", "uninstall c", "d"]) == [
        ["pip", "install", "a", "b==1"],
        ["pip", "uninstall", "-y", "c"],
        ["pip", "install", "d"],
    ]
    for bad in ("--index-url=http://evil", "-r x", "uninstall -r x", " "):
        with pytest.raises(InvalidInput):
            pip_commands([bad])


def official(path, *, source):
    """A package as the official library writes it; its pickle writes a file when it is loaded."""
    canary = path.parent / "canary"
    pickle = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    about = {
        "name": "old",
        "model": "py:old.py:Old",
        "type": "photon",
        "py_obj": {"name": "Old", "obj_pkl_file": "obj.pkl", "src_file": "py.py"},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps(about))
        archive.writestr("obj.pkl", pickle)
        if source:
            archive.writestr(
                "py.py",
                "from leptonai.photon import Photon\nclass Old(Photon):\n    @Photon.handler\n    def f(self):\n        return 'old'\n",
            )
    return canary


def test_s13_a_package_with_only_a_pickle_is_refused_with_what_to_do(tmp_path):
    canary = official(tmp_path / "old.photon", source=False)
    with pytest.raises(Refused, match=r"lep photon create -n old -m FILE\.py:Old"):
        package.load(tmp_path / "old.photon")
    assert not canary.exists()


def test_an_official_package_with_its_source_runs_from_it(tmp_path):
    canary = official(tmp_path / "old.photon", source=True)
    assert package.load(tmp_path / "old.photon").f() == "old"
    assert not canary.exists()
    assert not list((tmp_path / "home").rglob("*.pkl"))


ABOUT = json.dumps({"name": "bad", "entry": "src/a.py:A", "model": "a", "type": "photon"})
NAMES = [
    "../evil", "src/../../evil", "/evil", "//evil", "C:\\evil", "C:/evil", "..\\evil", "src\\..\\evil", "a/../../b", "./../evil", "src/..", "..",
    "src/\nname", "src/\x1bname", "x" * 600, "src/" + "y" * 250, "/etc/cron.d/evil", "~/../../evil", "src/a:stream", "\\\\host\\share",
    "src//../../../e", "a/b/c/../../../../d", "../" * 20 + "etc/passwd", "src/x/..",
]  # fmt: skip


def hostile(kind):
    """Writers of archives, each bad in one way."""

    def link(archive, mode=stat.S_IFLNK, name="src/link"):
        info = zipfile.ZipInfo(name)
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    def through(archive):
        link(archive, name="src")
        archive.writestr("src/file", "x")

    def twice(archive, second="src/a.py"):
        archive.writestr("src/a.py", "1")
        archive.writestr(second, "2")

    return {
        "symlink": link,
        "through a symlink": through,
        "fifo": lambda a: link(a, stat.S_IFIFO),
        "device": lambda a: link(a, stat.S_IFCHR),
        "block device": lambda a: link(a, stat.S_IFBLK),
        "socket": lambda a: link(a, stat.S_IFSOCK),
        "case clash": lambda a: twice(a, "src/A.py"),
        "unicode clash": lambda a: (a.writestr("src/e\u0301", "1"), a.writestr("src/\u00e9", "2")),
        "file and folder": lambda a: twice(a, "src/a.py/b"),
        "bomb": lambda a: a.writestr("src/zeros", bytes(64 << 20), zipfile.ZIP_DEFLATED),
        "many": lambda a: [a.writestr(f"src/{n}", b"") for n in range(10_001)],
        "duplicate": twice,
    }[kind]


@pytest.mark.parametrize("kind", ["symlink", "through a symlink", "fifo", "device", "block device", "socket", "case clash", "unicode clash", "file and folder", "bomb", "many", "duplicate"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_s17_s19_hostile_archives_write_nothing(tmp_path, kind):
    path = tmp_path / "bad.photon"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", ABOUT)
        hostile(kind)(archive)
    refused(path, tmp_path)


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_s17_names_that_lead_elsewhere_write_nothing(tmp_path, number):
    path = tmp_path / "bad.photon"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", ABOUT)
        info = zipfile.ZipInfo("x")
        info.filename = NAMES[number]
        archive.writestr(info, "evil")
    refused(path, tmp_path)


def refused(path, folder):
    before = {one for one in folder.rglob("*")}
    started = time.monotonic()
    with pytest.raises(Refused):
        package.unpack(path)
    assert time.monotonic() - started < 5
    written = [one for one in folder.rglob("*") if one not in before and one.is_file()]
    assert not written


def test_a_cut_or_changed_package_is_corrupt(project):
    whole = store.keep(models.create("packed", "packed.py")).path.read_bytes()
    for number, position in enumerate(range(0, len(whole), 97)):
        path = project / f"cut{number}.photon"
        path.write_bytes(
            whole[:position]
            if number % 2
            else whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
        )
        try:
            package.read_metadata(path)
            package.unpack(path)
        except (Corrupt, Refused, zipfile.BadZipFile):
            continue


def test_s18_a_link_in_extra_files_is_refused(project, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    (project / "words.txt").unlink()
    os.symlink(secret, project / "words.txt")
    with pytest.raises(Refused, match="link"):
        store.keep(models.create("packed", "packed.py"))
    folder = project / "many"
    folder.mkdir()
    os.symlink(secret, folder / "inner")
    with pytest.raises(Refused, match="link"):
        package.extra_files(["many"], project)
    for name in ("../x", "/etc/passwd"):
        with pytest.raises(Refused):
            package.extra_files({name: "words.txt"}, project)
    assert not any(
        b"the secret" in one.read_bytes() for one in Path(os.environ["LEPTON_HOME"]).rglob("*") if one.is_file()
    )


def test_an_extra_file_does_not_replace_yours(project, tmp_path, monkeypatch):
    kept = store.keep(models.create("packed", "packed.py")).path
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "data" / "words.txt").write_text("mine")
    monkeypatch.chdir(other)
    with pytest.raises(LeptonError, match="replace a file of yours"):
        package.load(kept)
    assert (other / "data" / "words.txt").read_text() == "mine"


def test_model_strings(project, tmp_path):
    assert models.create(None, "packed.py").read.__name__ == "read"
    assert type(models.create("x", "py:packed.py:Packed")).__name__ == "Packed"
    assert type(models.create("x", "packed.Packed")).__name__ == "Packed"
    with pytest.raises(NotFound, match="Did you mean 'Packed'"):
        models.create("x", "packed.py:Packd")
    with pytest.raises(InvalidInput, match="names no model"):
        models.create("x", "pi:packed.py")
    with pytest.raises(LeptonError, match="vllm is not installed"):
        models.create("x", "vllm:some/model")
    served = models.create(None, "zoo:Digits@3")
    assert (served.name, served.ref) == ("digits", "Digits@3")
    assert store.keep(served).metadata["model"] == "zoo:Digits@3"
    assert type(package.load(store.find("digits").path)).__name__ == "Served"


def git(*arguments, cwd):
    name = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *name, *arguments], cwd=cwd, check=True, capture_output=True)


def test_git_sources(project):
    git("init", "-q", "-b", "main", cwd=project)
    git("add", ".", cwd=project)
    git("commit", "-q", "-m", "one", cwd=project)
    git("tag", "v1", cwd=project)
    url = f"file://{project}/.git"
    found = models.create("x", f"py:{url}@v1:packed.py:Packed")
    assert type(found).__name__ == "Packed"
    (project / "packed.py").write_text(SOURCE.replace("Packed", "Newer"))
    git("commit", "-qam", "two", cwd=project)
    assert type(models.create("x", f"{url}:packed.py")).__name__ == "Newer"
    for bad in (
        "http://host.example/x.git:a.py",
        f"py:{url}@--upload-pack=x:packed.py",
        "py:ssh://-oProxyCommand=x/r.git:a.py",
    ):
        with pytest.raises(LeptonError):
            models.create("x", bad)
    with pytest.raises(LeptonError):
        models.create("x", f"{url}:../../packed.py")


def test_scaffold_runs(tmp_path, process):
    assert lep("scaffold", "my-service", cwd=tmp_path).returncode == 0
    url, _ = process("photon", "runlocal", "-m", tmp_path / "my-service" / "my_service.py", "-p", 0)
    assert httpx.post(f"{url}/greet", json={"name": "you"}).json() == "Hello, you!"


def test_hugging_face_task_and_model():
    from leptonai.photon.framework.hf import parse

    assert parse("text-generation:org/model@main") == ("text-generation", "org/model", "main")
    assert parse("org/model") == (None, "org/model", None)
