"""Finding, choosing and sharing the library: instruction sets, a missing build, threads, forks."""

import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from leptonai.base.errors import Unavailable
from leptonai.engine import ops
from leptonai.engine.ops import build, native


def ask(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


CODE = "from leptonai.engine.ops import native; print(native.available() and native.library().lep_isa().decode())"


def test_the_environment_chooses():
    if not native.LIBRARY.exists():
        pytest.skip("the CPU kernels are not built")
    assert ask(CODE, LEPTON_ISA="ref").stdout.strip() == "False"
    assert ask(CODE, LEPTON_ISA="avx2").stdout.strip() == "avx2"
    best = ask(CODE, LEPTON_ISA="").stdout.strip()
    with open("/proc/cpuinfo") as info:
        flags = next(line for line in info if line.startswith("flags")).split()
    assert best == ("avx512bf16" if "avx512_bf16" in flags else "avx512" if "avx512_vnni" in flags else "avx2")


def test_an_unknown_set_is_refused_by_name():
    if not native.LIBRARY.exists():
        pytest.skip("the CPU kernels are not built")
    told = ask(CODE, LEPTON_ISA="avx1024").stderr
    assert "InvalidInput" in told and "avx1024" in told and "avx512bf16" in told


def test_without_the_library_torch_does_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "none.so")
    native.library.cache_clear()
    try:
        assert ops.select().NAME == "ref"
        with pytest.raises(Unavailable, match=r"python -m leptonai\.engine\.ops\.build"):
            ops.select("cpu")
    finally:
        native.library.cache_clear()


def test_a_damaged_library_is_refused(monkeypatch, tmp_path):
    (tmp_path / "bad.so").write_bytes(b"\x7fELF nothing")
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "bad.so")
    native.library.cache_clear()
    try:
        assert ops.select().NAME == "ref"
    finally:
        native.library.cache_clear()


def test_threads_may_call_at_once(cpu):
    """One region runs on the pool, another caller works alone: both are right."""
    torch.manual_seed(0)
    layer, x = cpu.pack_linear(torch.randn(512, 256), "int8"), torch.randn(40, 256)
    expected, wrong = layer.apply(x), []

    def work():
        for _ in range(50):
            if not torch.equal(layer.apply(x), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same(cpu, count):
    torch.manual_seed(0)
    layer, x = cpu.pack_linear(torch.randn(512, 256), "int4"), torch.randn(9, 256)
    expected = layer.apply(x)
    cpu.set_threads(count)
    assert native.library().lep_threads() == count
    assert all(torch.equal(layer.apply(x), expected) for _ in range(20))


def test_a_forked_child_has_threads_of_its_own():
    """fork() copies the pool's memory without its threads: a child that waited for them would hang."""
    if not native.LIBRARY.exists():
        pytest.skip("the CPU kernels are not built")
    code = """
import os, ctypes
from leptonai.engine.ops import native
library = native.library()
library.lep_set_threads(2)
data = ctypes.create_string_buffer(b"\\x01" * (4 << 20))
expected = library.lep_read_probe(data, 4 << 20)
child = os.fork()
if not child:
    os._exit(0 if library.lep_read_probe(data, 4 << 20) == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("fine")
"""
    assert ask(code).stdout.strip() == "fine"


def test_no_compiler_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.CannotBuild, match=r"no C\+\+ compiler"):
        build.build(tmp_path / "kernels.so")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here")
def test_broken_sources_are_said_and_leave_nothing(tmp_path):
    source = tmp_path / "native"
    shutil.copytree(build.SOURCE, source)
    for unit in ("kernels.cpp", "forward.cpp", "api.cpp", "pool.cpp"):
        (source / unit).write_text("this is not C++\n")
    with pytest.raises(build.CannotBuild, match=r"this is not|does not name a type"):
        build.build(tmp_path / "kernels.so", source)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here")
def test_the_sources_build_into_a_library_of_this_version(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", build.build(tmp_path / "kernels.so"))
    native.library.cache_clear()
    try:
        assert native.library().lep_abi() == native.ABI
    finally:
        native.library.cache_clear()
