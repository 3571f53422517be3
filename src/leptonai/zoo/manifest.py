"""`lepton.json`, the manifest of a model folder: what the model is, what it takes and gives, where it comes from, which files it has.

A manifest may come from a stranger. Reading one checks every type, name and bound, and leaves the rest of the program plain data.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from .. import __version__
from ..base.errors import Corrupt, InvalidInput, did_you_mean, shorten
from ..base.structs import prepare

NAME = "lepton.json"
FORMAT = 1
MAX_BYTES = 64 << 20
MAX_FILES = 1_000
# Plain names below the folder: no '..', no absolute path, no drive, no hidden file, at most three folders deep.
_PATH = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/){0,3}[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class FileEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    sha256: str
    bytes: int

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)


class Manifest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`name` and `version` are given by the store; before that they are empty and 0."""

    task: str
    network: dict[str, Any]
    """`{"kind": str, "config": dict}`; the kind `external` is one that Lepton cannot build by itself."""
    task_state: dict[str, Any] = {}
    signature: dict[str, Any] = {}
    """`{"inputs": JSON Schema of a request's row, "outputs": JSON Schema of a prediction}`."""
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}
    """`data` (ref), `data_hash`, `run`, `recipe`, `code`, `parent`, as far as they are known."""
    files: dict[str, FileEntry] = {}
    name: str = ""
    version: int = 0
    format: int = FORMAT
    created_at: str = msgspec.field(default_factory=now)
    lepton_version: str = __version__

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name or "(unpublished model)"

    def content_hash(self) -> str:
        """Hash of what makes this model this model: weights, files, task, network, lineage; not its name, its date or its card."""
        same = {
            "task": self.task,
            "task_state": self.task_state,
            "network": self.network,
            "signature": self.signature,
            "metrics": self.metrics,
            "lineage": self.lineage,
            "files": {path: entry.sha256 for path, entry in self.files.items()},
        }
        return hashlib.sha256(msgspec.json.encode(same, order="deterministic")).hexdigest()

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def to_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)


prepare(Manifest)


def parse_manifest(data: bytes, where: str = NAME) -> Manifest:
    """The manifest in `data`. Raises Corrupt if it is not JSON, InvalidInput if it says what a manifest may not say."""
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{where} is too large", received=f"{len(data):,} bytes", expected=f"at most {MAX_BYTES:,}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{where} is not a model's manifest: {shorten(str(error), 200)}", fix=_hint(str(error))
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(
            f"{where} is not whole JSON ({shorten(str(error), 120)})",
            fix="Copy the model folder again, or pull it from the store.",
        ) from None
    except RecursionError:
        raise InvalidInput(f"{where} is nested too deeply", expected="a model's manifest") from None
    check_manifest(manifest, where)
    return manifest


def _hint(message: str) -> str | None:
    unknown = re.search(r"unknown field `(.*?)`", message)
    return did_you_mean(unknown[1], Manifest.__struct_fields__) if unknown else None


def check_manifest(manifest: Manifest, where: str = NAME) -> None:
    """Raise InvalidInput for a value of the right type that cannot be meant."""

    def wrong(what: str, received: Any, expected: str) -> InvalidInput:
        return InvalidInput(f"{where}: {what}", received=received, expected=expected)

    if manifest.format != FORMAT:
        raise InvalidInput(
            f"{where} is of a format that this Lepton does not know",
            received=manifest.format,
            expected=str(FORMAT),
            fix="Upgrade with: pip install -U lepton-platform.",
        )
    if not manifest.task or len(manifest.task) > 100:
        raise wrong("`task` is empty or too long", manifest.task, "the name of a task")
    if not isinstance(manifest.network.get("kind"), str) or not isinstance(manifest.network.get("config", {}), dict):
        raise wrong("`network` does not say what to build", manifest.network, '{"kind": "mlp", "config": {…}}')
    if not 0 <= manifest.version < 1 << 31:
        raise wrong("`version` is out of range", manifest.version, "a whole number from 0")
    if len(manifest.files) > MAX_FILES:
        raise wrong("too many files", len(manifest.files), f"at most {MAX_FILES}")
    for path, entry in manifest.files.items():
        if not _PATH.match(path) or ".." in path or path == NAME:
            raise wrong("a path in `files` leads elsewhere", path, "a plain relative path inside the folder")
        if not _SHA256.match(entry.sha256) or not 0 <= entry.bytes < 1 << 48:
            raise wrong(f"the entry of {path} in `files`", entry, "a SHA-256 in hexadecimal and a size in bytes")
