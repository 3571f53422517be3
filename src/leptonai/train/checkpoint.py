"""Checkpoints of a run. Owns `checkpoints/`: each is whole or absent, verified before it is used, and holds no pickle.

checkpoints/
  step-000000200/          complete: it came by rename from a temporary folder, every file fsynced
    model.safetensors      one file per part that has tensors
    state.json             everything else; a tensor in it is {"$tensor": key}
    manifest.json          written last: SHA-256 and length of every file
  LATEST                   the newest, for people; loading looks at the folders themselves
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..base.errors import Corrupt, InvalidInput
from ..base.files import folder_atomic, write_atomic

FORMAT = 1
_STEP = re.compile(r"step-(\d+)\Z")


@dataclass(frozen=True)
class Checkpoint:
    """`parts`: what was saved, with its tensors in place."""

    step: int
    parts: dict[str, Any]


class CheckpointStore:
    """The last `keep` checkpoints of one run. `warn` is told, in one sentence, of each checkpoint that does not verify."""

    def __init__(self, folder: Path, keep: int = 2, warn: Callable[[str], None] = lambda sentence: None):
        self.folder, self.keep, self._warn = folder, keep, warn

    def save(self, step: int, parts: Mapping[str, Any]) -> Path:
        """Write `parts` (nested dicts, lists, tuples, numbers, text and tensors) as the checkpoint of `step`.

        Raises DiskFull, with every older checkpoint untouched, and InvalidInput for a value that is not data.
        """
        path = self.folder / f"step-{step:09d}"
        if path.exists():
            # Only a checkpoint that did not verify can be in the way: the run went back and has come here again.
            shutil.rmtree(path)
        with folder_atomic(path) as temporary:
            files = write_parts(temporary, parts)
            manifest = {"format": FORMAT, "step": step, "files": files}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        write_atomic(self.folder / "LATEST", path.name + "\n")
        self._prune(step)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies. Those after it, cut short or altered, are named to `warn` and passed over."""
        found = sorted(self._steps().items(), reverse=True)
        for position, (_, path) in enumerate(found):
            try:
                checkpoint = read_checkpoint(path)
            except Corrupt as error:
                before = found[position + 1][1].name if position + 1 < len(found) else "the beginning"
                self._warn(f"checkpoint {path.name} is damaged ({error.what}); continuing from {before}")
                continue
            return checkpoint
        return None

    def clear_unfinished(self) -> None:
        """Remove the temporary folders of a process that was killed while it saved."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _steps(self) -> dict[int, Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return {int(match[1]): path for path in paths if (match := _STEP.match(path.name))}

    def _prune(self, step: int) -> None:
        """Keep the last `keep` up to `step`; a later one is from a future that did not happen."""
        steps = self._steps()
        kept = sorted(number for number in steps if number <= step)[-self.keep :]
        for number, path in steps.items():
            if number not in kept:
                shutil.rmtree(path)


def write_parts(folder: Path, parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Write the files of a checkpoint; return their hashes and lengths."""
    files, state = {}, {}
    for name, value in parts.items():
        tensors: dict[str, torch.Tensor] = {}
        state[name] = flatten(value, name, tensors, {})
        if tensors:
            files[f"{name}.safetensors"] = safetensors_bytes(tensors)
    files["state.json"] = json.dumps(state).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; raises Corrupt if a byte of it is not what was written."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        step, files = int(manifest["step"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Corrupt("its manifest is missing or cut short") from None
    if manifest.get("format") != FORMAT:
        raise Corrupt(f"its format is {manifest.get('format')!r}, not {FORMAT}")
    tensors, state = {}, {}
    for name, expected in files.items():
        data = read_verified(folder / name, expected)
        if name == "state.json":
            state = json.loads(data)
        else:
            tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
    return Checkpoint(step, {name: unflatten(value, tensors.get(name, {})) for name, value in state.items()})


def read_verified(path: Path, expected: Mapping[str, Any]) -> bytes:
    data = path.read_bytes() if path.is_file() else None
    if data is None:
        raise Corrupt(f"{path.name} is missing")
    if len(data) != expected["bytes"]:
        raise Corrupt(f"{path.name} has {len(data)} bytes instead of {expected['bytes']}")
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise Corrupt(f"the hash of {path.name} is not what was written")
    return data


def safetensors_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    # In memory first: safetensors' own writer turns a full disk into an error without its number.
    return safetensors.torch.save({name: own_copy(tensor) for name, tensor in tensors.items()})


def own_copy(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` on the CPU, contiguous, in a storage that no other tensor overlaps."""
    own = tensor.detach().cpu().contiguous()
    return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()


def flatten(value: Any, path: str, tensors: dict[str, torch.Tensor], seen: dict[tuple, str]) -> Any:
    """`value` as JSON; its tensors go to `tensors` under their path. A tensor that occurs twice (tied weights) is kept once."""
    if isinstance(value, torch.Tensor):
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        key = seen.setdefault(place, path) if value.numel() else path
        tensors[key] = value
        return {"$tensor": key}
    if isinstance(value, dict):
        items = [[key, flatten(item, f"{path}.{key}", tensors, seen)] for key, item in value.items()]
        text_keys = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(items) if text_keys else {"$items": items}
    if isinstance(value, list | tuple):
        items = [flatten(item, f"{path}.{number}", tensors, seen) for number, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInput(
        f"{path} cannot be kept in a checkpoint",
        received=type(value).__name__,
        expected="tensors, numbers, text, lists, tuples and dicts",
        fix="Keep it in one of these forms.",
    )


def unflatten(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(unflatten(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {key: unflatten(item, tensors) for key, item in value["$items"]}
    return {key: unflatten(item, tensors) for key, item in value.items()}
