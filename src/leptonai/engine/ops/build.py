"""Builds the CPU kernels (`native/`) into one shared library beside this file: `python -m leptonai.engine.ops.build`.

Standard library only: the build hook of the package runs this file before anything is installed. Each instruction set is a
translation unit of its own, so the library runs on any x86-64 and chooses at load.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

LIBRARY = Path(__file__).parent / "_lepton_cpu.so"
SOURCE = Path(__file__).resolve().parents[4] / "native"
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
SETS = {"avx2": AVX2, "avx512": AVX512, "avx512bf16": (*AVX512, "-mavx512bf16")}
# No -ffast-math: sums are written in lanes already, and NaN must stay NaN. The silenced warnings are about GCC's own intrinsics.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")


class CannotBuild(RuntimeError):
    """No compiler, another processor, or the compiler said no. The engine then runs on torch alone."""


def wheel_platform() -> str:
    """Platform part of a wheel's tag. The library asks for nothing newer than what this system has: pip only installs it on such."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compiler() -> str:
    """The C++ compiler: `CXX`, else g++, else clang++. Raises CannotBuild if there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise CannotBuild("no C++ compiler (g++ or clang++, or CXX)")


def build(target: Path = LIBRARY, source: Path = SOURCE) -> Path:
    """Compile `source` into `target`, which appears whole or not at all. Raises CannotBuild and says why."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise CannotBuild(f"the kernels are for Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    if not source.is_dir():
        raise CannotBuild(f"no sources at {source}: build from a source tree")
    cxx = compiler()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        units = [("kernels.cpp", f"kernels_{name}.o", (*flags, f"-DLEPTON_ISA={name}")) for name, flags in SETS.items()]
        units += [(f"{name}.cpp", f"{name}.o", ()) for name in ("api", "forward", "pool")]
        processes = [
            subprocess.Popen(
                [cxx, *FLAGS, *QUIET, *flags, "-c", source / unit, "-o", f"{folder}/{name}"],
                stderr=subprocess.PIPE,
                text=True,
            )
            for unit, name, flags in units
        ]
        messages = [process.communicate()[1] for process in processes]
        if any(process.returncode for process in processes):
            raise CannotBuild(f"{cxx} failed:\n" + "\n".join(filter(None, messages))[:4000])
        objects = [f"{folder}/{name}" for _, name, _ in units]
        library = f"{folder}/{target.name}"
        link = subprocess.run(
            [cxx, "-shared", "-pthread", "-static-libgcc", *objects, "-o", library], capture_output=True, text=True
        )
        if link.returncode:
            raise CannotBuild(f"{cxx} could not link:\n{link.stderr}")
        os.replace(library, target)
    return target


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f"the CPU kernels were not built: {error}")
