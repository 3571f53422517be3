"""A model folder: `lepton.json`, `model.safetensors`, tokenizer files, `README.md`. Written whole; read only if every hash is right.

Models are data. Nothing from the folder is imported or unpickled; files that could carry code are refused by name and by first bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..base.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused
from ..base.files import folder_atomic
from .card import README, is_generated, write_card
from .manifest import MAX_BYTES, NAME, FileEntry, Manifest, check_manifest, parse_manifest
from .tensors import TensorInfo, header_length, read_header, read_tensors, write_tensors

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = "model.safetensors"
# What a model may consist of. An allow-list: a deny-list is only as good as its author's memory.
SUFFIXES = {
    ".safetensors",
    ".json",
    ".jsonl",
    ".txt",
    ".md",
    ".yaml",
    ".yml",
    ".csv",
    ".model",
    ".vocab",
    ".merges",
    ".tiktoken",
}
# Formats that can run code when they are opened, or are opened by loaders that do.
CODE = {
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".dill",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".keras",
    ".py",
    ".pyc",
}
CODE |= {".so", ".dll", ".dylib", ".sh", ".exe", ".zip", ".tar", ".whl", ".pb", ".marshal", ".pth.tar"}
MAGIC = {
    b"PK\x03\x04": "a zip, as torch.save writes",
    b"\x93NUMPY": "a numpy file",
    b"\x89HDF": "an HDF5 file",
    b"\x7fELF": "a program",
}
CONVERT = (
    "Where you trust its author, convert it with: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')."
)


@dataclass(frozen=True)
class ModelFiles:
    """`files` are those beside the weights (tokenizer, vocabulary), by path."""

    manifest: Manifest
    tensors: dict[str, np.ndarray]
    files: dict[str, bytes] = field(default_factory=dict)


def write_model(
    folder: str | Path, manifest: Manifest, tensors: Mapping[str, np.ndarray], files: Mapping[str, bytes] | None = None
) -> Manifest:
    """Write the model folder, whole or not at all, with its card; return the manifest as written.

    A model folder that is already there is replaced; any other folder with something in it is a Conflict.
    """
    contents = {WEIGHTS: write_tensors(dict(tensors)), **(files or {})}
    entries = {path: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(contents.items())}
    manifest = msgspec.structs.replace(manifest, files=entries)
    check_manifest(manifest)
    for path, data in contents.items():
        refuse_code(path, data[:16])
    with replacing_folder(Path(folder)) as temporary:
        for path, data in contents.items():
            target = temporary / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        (temporary / NAME).write_bytes(manifest.to_json())
        (temporary / README).write_text(write_card(manifest), "utf-8")
    return manifest


@contextlib.contextmanager
def replacing_folder(folder: Path):
    """`folder_atomic`, and an older model folder in that place goes away at the last moment."""
    old = None
    if folder.is_dir() and not folder.is_symlink() and any(folder.iterdir()) and not (folder / NAME).is_file():
        raise Conflict("this folder holds something else", received=str(folder), fix="Choose a new or empty folder.")
    if folder.exists() and not folder.is_dir():
        raise Conflict("there is a file in this place", received=str(folder), fix="Choose a new or empty folder.")
    with folder_atomic(folder) as temporary:
        yield temporary
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
            os.rename(folder, old)
    if old:
        shutil.rmtree(old, ignore_errors=True)


def read_model(folder: str | Path) -> ModelFiles:
    """The model in `folder`, every file verified against the manifest. The bytes that are hashed are the bytes that are used.

    Raises NotFound without a folder, Refused for pickles, code and links, Corrupt for a cut or changed file.
    """
    import numpy as np

    folder = Path(folder)
    manifest = read_manifest(folder)
    refuse_strangers(folder)
    tensors: dict[str, np.ndarray] = {}
    files: dict[str, bytes] = {}
    for path, entry in manifest.files.items():
        with open_listed(folder, path, entry) as file:
            buffer = np.empty(entry.bytes, np.uint8)
            read = file.readinto(memoryview(buffer)) if entry.bytes else 0
        check_bytes(path, entry, read, hashlib.sha256(buffer).hexdigest(), buffer[:16].tobytes())
        if path == WEIGHTS:
            tensors = read_tensors(buffer, path)
        else:
            files[path] = buffer.tobytes()
    return ModelFiles(manifest, tensors, files)


def verify_model(folder: str | Path) -> tuple[Manifest, dict[str, TensorInfo]]:
    """As `read_model`, without holding the weights in memory (and without numpy): the manifest and the tensors' shapes."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    refuse_strangers(folder)
    infos: dict[str, TensorInfo] = {}
    for path, entry in manifest.files.items():
        with open_listed(folder, path, entry) as file:
            start = file.read(16)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            check_bytes(path, entry, file.tell(), digest, start)
            if path == WEIGHTS:
                length = header_length(start, entry.bytes, path)
                file.seek(0)
                infos, _ = read_header(file.read(8 + length), entry.bytes, path)
    return manifest, infos


def read_manifest(folder: Path) -> Manifest:
    """The checked manifest of `folder`, before any of its files is opened."""
    if folder.is_file():
        refuse_pickle(folder.name, first_bytes(folder))
        raise InvalidInput(
            "a model is a folder, not a file", received=str(folder), expected=f"a folder with {NAME} and {WEIGHTS}"
        )
    if not folder.is_dir():
        raise NotFound(
            "there is no model folder here", received=str(folder), fix="See what there is with: lep model ls."
        )
    path = folder / NAME
    if not path.is_file():
        refuse_other_weights(folder)
        raise InvalidInput(
            f"this folder has no {NAME}, so it is not a Lepton model",
            received=str(folder),
            expected=f"{NAME} and {WEIGHTS}",
        )
    if path.is_symlink() or path.stat().st_size > MAX_BYTES:
        raise Refused(f"{NAME} is a link or is larger than {MAX_BYTES >> 20} MiB", received=str(path))
    manifest = parse_manifest(path.read_bytes(), str(path))
    if WEIGHTS not in manifest.files:
        refuse_other_weights(folder)
        raise InvalidInput(
            f"{NAME} does not list {WEIGHTS}", received=list(manifest.files), expected="the weights as safetensors"
        )
    return manifest


def open_listed(folder: Path, path: str, entry: FileEntry):
    """Open a file of the manifest: a regular file, reached through no link, of the size that the manifest says."""
    refuse_code(path, b"")
    target = folder
    for part in path.split("/"):
        target = target / part
        if target.is_symlink():
            raise Refused(
                "a file of a model may not be a link", received=path, fix="Copy the file itself into the folder."
            )
    try:
        file = open(target, "rb")  # noqa: SIM115
    except OSError:
        raise Corrupt(
            f"the file {path} is missing", fix="Copy the model folder again, or pull it from the store."
        ) from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.bytes:
        with file:
            start = file.read(16) if stat.S_ISREG(status.st_mode) else b""
        refuse_code(path, start)
        raise damaged(path, f"{status.st_size:,} bytes", f"{entry.bytes:,} bytes")
    return file


def check_bytes(path: str, entry: FileEntry, read: int, digest: str, start: bytes) -> None:
    if read != entry.bytes or digest != entry.sha256:
        refuse_code(path, start)
        raise damaged(path, f"SHA-256 {digest[:12]}…", f"{entry.sha256[:12]}…")
    refuse_code(path, start)


def damaged(path: str, received: str, expected: str) -> Corrupt:
    return Corrupt(
        f"the file {path} is not what was written (cut short or changed)",
        received=received,
        expected=expected,
        fix="Copy the model folder again, or pull it from the store.",
    )


def refuse_code(path: str, start: bytes) -> None:
    """Raise Refused if `path`, by its name or its first bytes, is something whose loader can run code, or is no kind we know."""
    refuse_pickle(path, start)
    if Path(path).suffix.lower() not in SUFFIXES:
        raise Refused(
            f"{path} is refused: it is not a kind of file that a model consists of",
            expected=", ".join(sorted(SUFFIXES)),
        )


def refuse_pickle(path: str, start: bytes) -> None:
    suffix = Path(path).suffix.lower()
    found = next((what for magic, what in MAGIC.items() if start.startswith(magic)), None)
    # A pickle of protocol 2 to 5 begins with its PROTO opcode. A safetensors header of such a length has zeros from the
    # fourth byte on, where a pickle has opcodes.
    if len(start) >= 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
        found = None if suffix == ".safetensors" and start[3:8] == bytes(5) else "a pickle"
    if found or suffix in CODE:
        raise Refused(
            f"{path} is refused: {found or suffix + ' files'} can run code when opened", expected=WEIGHTS, fix=CONVERT
        )


def refuse_strangers(folder: Path) -> None:
    """Raise Refused if the folder holds code, pickles or links, listed or not. Other files that are not listed are left alone."""
    for root, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise Refused(
                    "a model's folder may not hold links",
                    received=relative,
                    fix="Copy the file itself into the folder.",
                )
            if name in names and path.suffix.lower() in CODE:
                refuse_pickle(relative, first_bytes(path))


def refuse_other_weights(folder: Path) -> None:
    """Raise Refused if a folder that is not ours holds weights in a format that can run code: then say how to convert them."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in CODE - {".py", ".pyc", ".sh"}:
            refuse_pickle(path.name, first_bytes(path))


def first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""


def copy_model(source: Path, target: Path, manifest: Manifest, tensors: dict[str, TensorInfo] | None = None) -> None:
    """Copy the listed files of `source` into the new folder `target`, with this manifest. A card written by hand is kept."""
    for path in manifest.files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path, follow_symlinks=False)
    (target / NAME).write_bytes(manifest.to_json())
    card = source / README
    if card.is_file() and not card.is_symlink() and not is_generated(text := card.read_text("utf-8", errors="replace")):
        (target / README).write_text(text, "utf-8")
    else:
        (target / README).write_text(write_card(manifest, tensors), "utf-8")
