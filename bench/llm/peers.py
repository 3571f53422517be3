"""Peers in environments of their own, built once: llama.cpp from source, OpenVINO GenAI and its converter from wheels."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from ..common import ROOT
from .checkpoint import write_openvino

LLAMA_CPP = "llama-cpp-python==0.3.36"
OPENVINO = ["openvino-genai==2026.4.1", "optimum-intel>=1.25", "torch==2.13.0+cpu", "numpy"]


@dataclass
class Peer:
    """command: the server's binary, or the environment's Python. models: (shape, bits) -> what it reads."""

    command: Path
    version: str
    models: dict[tuple[str, str], Path] = field(default_factory=dict)


def prepare(cache: Path, folders: dict[str, Path], bits: tuple[str, ...]) -> dict[str, Peer]:
    """Build what is missing; a peer that cannot be built is named and left out."""
    found = {}
    for name, build in (("llama.cpp", llama_cpp), ("openvino", openvino), ("transformers", transformers)):
        try:
            found[name] = build(cache, folders, bits)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} is left out: {error}", flush=True)
    return found


def run(*command: object, **options) -> None:
    subprocess.run([*map(str, command)], check=True, **options)


def environment(folder: Path, packages: list[str]) -> Path:
    """A virtual environment with the packages; returns its Python."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        run(sys.executable, "-m", "venv", folder)
        run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints" / "cpu.txt", *packages)
        (folder / "ready").touch()
    return python


def llama_cpp(cache: Path, folders: dict[str, Path], bits: tuple[str, ...]) -> Peer:
    build = cache / "llama.cpp" / "build"
    binary = build / "bin" / "llama-server"
    if not binary.exists():
        source = cache / "llama.cpp"
        source.mkdir(parents=True, exist_ok=True)
        run(
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            "llama-cpp-python",
            LLAMA_CPP,
            "-d",
            source,
        )
        with tarfile.open(next(source.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(source, filter="data")
        tree = next(source.glob("llama_cpp_python-*/vendor/llama.cpp"))
        flags = [
            "-DGGML_NATIVE=ON",
            "-DLLAMA_CURL=OFF",
            "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_BUILD_UI=OFF",
        ]
        run("cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *flags)
        run("cmake", "--build", build, "-j2", "-t", "llama-server")
    python = environment(cache / "gguf-env", ["gguf>=0.17,<1", "torch==2.13.0+cpu", "safetensors", "numpy"])
    peer = Peer(binary, LLAMA_CPP)
    for shape, folder in folders.items():
        for one in bits if shape == "qwen3-0.6b" else ():
            code = f"from pathlib import Path; from bench.llm.checkpoint import *; print(write_gguf(Path({str(folder)!r}), SHAPES[{shape!r}], {one!r}))"
            run(python, "-c", code, cwd=ROOT)
            peer.models[shape, one] = folder.with_name(f"{folder.name}-{one}.gguf")
    return peer


def openvino(cache: Path, folders: dict[str, Path], bits: tuple[str, ...]) -> Peer:
    python = environment(cache / "openvino-env", OPENVINO)
    peer = Peer(python, OPENVINO[0])
    for one in bits:
        if one != "bf16":  # its bf16 on a machine without AMX is fp32
            peer.models["qwen3-0.6b", one] = write_openvino(folders["qwen3-0.6b"], one, cache / "openvino-env")
    return peer


def transformers(cache: Path, folders: dict[str, Path], bits: tuple[str, ...]) -> Peer:
    from importlib.metadata import version

    return Peer(
        Path(sys.executable),
        f"transformers=={version('transformers')}",
        {("qwen3-0.6b", "bf16"): folders["qwen3-0.6b"]},
    )


def versions(found: dict[str, Peer]) -> str:
    return ", ".join(re.sub("==", " ", peer.version) for peer in found.values()) or "none"
