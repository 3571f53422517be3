"""Weights of a checkpoint by their Hugging Face names, each as floats or as the integers it was stored in.

Reads safetensors (one or many files) plain, and as compressed-tensors (int8, and 4 or 8 bits packed), AWQ and GPTQ. `gguf.py` gives the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from ...base.errors import Corrupt, InvalidInput
from ...base.paths import resolve_within
from .config import read_json

AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # place of value i in an AWQ word


@dataclass
class Linear:
    """weight (n, k): floats; or int8 with scale (n,); or uint8 of 0..15 with scale, zero (n, groups)."""

    weight: torch.Tensor
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None
    group: int = 0

    @property
    def stored(self) -> str:
        return "float" if self.scale is None else ("int4" if self.group else "int8")

    def floats(self) -> torch.Tensor:
        if self.scale is None:
            return self.weight
        if not self.group:
            return self.weight.float() * self.scale.view(-1, 1)
        scale = self.scale.float().repeat_interleave(self.group, 1)[:, : self.weight.shape[1]]
        zero = (
            8.0 if self.zero is None else self.zero.float().repeat_interleave(self.group, 1)[:, : self.weight.shape[1]]
        )
        return (self.weight.float() - zero) * scale


class Weights(Protocol):
    """Where a model's tensors come from."""

    def has(self, name: str) -> bool: ...
    def tensor(self, name: str) -> torch.Tensor: ...
    def linear(self, prefix: str) -> Linear: ...


class SafetensorsWeights:
    """A folder of safetensors files, mapped, not read: a tensor costs memory when it is asked for."""

    def __init__(self, folder: Path, quantization: dict[str, Any]):
        self.folder, self.quantization = folder, quantization
        self.method = quantization.get("quant_method")
        if self.method not in (None, "compressed-tensors", "awq", "gptq"):
            known = "compressed-tensors, awq or gptq"
            raise InvalidInput(
                "these weights are quantised in a way that is not read", received=self.method, expected=known
            )
        self.files: dict[str, Any] = {}
        self.where = self.index()

    def index(self) -> dict[str, str]:
        """Tensor name -> file name."""
        if (self.folder / "model.safetensors.index.json").is_file():
            found = read_json(self.folder / "model.safetensors.index.json").get("weight_map")
            if not isinstance(found, dict):
                raise Corrupt("model.safetensors.index.json has no weight_map", received=str(self.folder))
            return found
        names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if not names:
            fix = "Convert the weights: pickled checkpoints (.bin, .pt) are never loaded"
            raise InvalidInput(
                "the folder has no weights", received=str(self.folder), expected="*.safetensors", fix=fix
            )
        return {key: name for name in names for key in self.open(name).keys()}  # noqa: SIM118  (safe_open is no dict)

    def open(self, name: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if name not in self.files:
            # A link inside the folder may lead out of it (the Hub's cache does that); a name in the index may not.
            if Path(name).name != name:
                resolve_within(self.folder, name)
            try:
                self.files[name] = safe_open(self.folder / name, "pt")
            except (SafetensorError, OSError) as error:
                raise Corrupt(f"{name} cannot be read", received=str(error), fix="Fetch the model again") from error
        return self.files[name]

    def has(self, name: str) -> bool:
        return name in self.where

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self.where:
            raise InvalidInput(
                "the checkpoint lacks a tensor", received=name, fix="Its config.json may be of another model"
            )
        return self.open(self.where[name]).get_tensor(name)

    def linear(self, prefix: str) -> Linear:
        if self.has(f"{prefix}.weight_packed"):
            return self.packed(prefix)
        if self.has(f"{prefix}.qweight"):
            return self.awq(prefix) if self.method == "awq" else self.gptq(prefix)
        weight = self.tensor(f"{prefix}.weight")
        if weight.dtype == torch.int8:
            return Linear(weight, self.tensor(f"{prefix}.weight_scale").float().reshape(-1))
        return Linear(weight)

    def packed(self, prefix: str) -> Linear:
        """compressed-tensors `pack-quantized`: words of 8 (4 bits) or 4 (8 bits) values along k, stored plus half the range."""
        words, scale = self.tensor(f"{prefix}.weight_packed"), self.tensor(f"{prefix}.weight_scale").float()
        n, k = self.tensor(f"{prefix}.weight_shape").tolist()
        bits = 4 if -(-k // 8) == words.shape[1] else 8
        q = unpack(words, bits)[:, :k]
        if self.has(f"{prefix}.weight_g_idx"):
            raise InvalidInput("compressed-tensors with reordered groups is not read", received=prefix)
        scale = scale.reshape(n, -1)
        group = -(-k // scale.shape[1])
        if bits == 8:
            if scale.shape[1] == 1:
                return Linear((q.int() - 128).to(torch.int8), scale.reshape(-1))
            return Linear((q.float() - 128) * scale.repeat_interleave(group, 1)[:, :k])
        zero = None
        if self.has(f"{prefix}.weight_zero_point"):
            zero = unpack(self.tensor(f"{prefix}.weight_zero_point").T.contiguous(), 4)[:, :n].T.float()
        return small_groups(Linear(q, scale, zero, group))

    def awq(self, prefix: str) -> Linear:
        """AutoAWQ GEMM: (k, n / 8) words along n in its own order; zeros (groups, n / 8) likewise."""
        q, zero = (
            unpack(self.tensor(f"{prefix}.{name}"), 4).view(-1, self.tensor(f"{prefix}.{name}").shape[1], 8)
            for name in ("qweight", "qzeros")
        )
        q, zero = (part[:, :, AWQ_ORDER].flatten(1) for part in (q, zero))
        scale = self.tensor(f"{prefix}.scales").float()
        return small_groups(
            Linear(q.T.contiguous(), scale.T.contiguous(), zero.T.float().contiguous(), q.shape[0] // scale.shape[0])
        )

    def gptq(self, prefix: str) -> Linear:
        """GPTQ: (k / 8, n) words along k; zeros (groups, n / 8), stored minus one in format 1; g_idx: group of each k."""
        bits = int(self.quantization.get("bits", 4))
        if bits not in (4, 8):
            raise InvalidInput("GPTQ weights of that many bits are not read", received=bits, expected="4 or 8")
        q = unpack(self.tensor(f"{prefix}.qweight").T.contiguous(), bits)
        zero = unpack(self.tensor(f"{prefix}.qzeros"), bits).T.float()
        scale = self.tensor(f"{prefix}.scales").float().T.contiguous()
        if self.quantization.get("checkpoint_format") != "gptq_v2":
            zero = zero + 1
        group = -(-q.shape[1] // scale.shape[1])
        order = self.tensor(f"{prefix}.g_idx").long() if self.has(f"{prefix}.g_idx") else None
        plain = torch.arange(q.shape[1]) // group
        if bits == 4 and (order is None or torch.equal(order, plain)):
            return small_groups(Linear(q, scale, zero.contiguous(), group))
        place = plain if order is None else order
        return Linear((q.float() - zero[:, place]) * scale[:, place])


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 (a, b) -> uint8 (a, b * 32 / bits), lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).to(torch.uint8).flatten(1)


def small_groups(linear: Linear) -> Linear:
    """Groups that the kernels take: those above 2048 are written as several of 128."""
    if linear.group <= 2048:
        return linear
    if linear.group % 128 and linear.scale.shape[1] > 1:  # type: ignore[union-attr]
        return Linear(linear.floats())
    parts = -(-linear.weight.shape[1] // 128)
    scale, zero = (
        None if part is None else part.repeat_interleave(-(-linear.group // 128), 1)[:, :parts].contiguous()
        for part in (linear.scale, linear.zero)
    )
    return Linear(linear.weight, scale, zero, 128)


def pack(
    ops: ModuleType,
    parts: list[Linear],
    kind: str,
    *,
    bias: torch.Tensor | None = None,
    gated: bool = False,
    keep: bool = True,
) -> Any:
    """One packed linear of several, one after the other. `keep`: integers stay as stored; else everything becomes `kind`."""
    stored = {(part.stored, part.group, part.zero is None) for part in parts}
    if keep and len(stored) == 1 and parts[0].stored != "float":
        weight = torch.cat([part.weight for part in parts])
        scale = torch.cat([part.scale for part in parts])  # type: ignore[misc]
        if parts[0].stored == "int8":
            return ops.pack_int8(weight, scale, bias=bias, gated=gated)
        zero = None if parts[0].zero is None else torch.cat([part.zero for part in parts])  # type: ignore[misc]
        return ops.pack_int4(weight, scale, zero, group=parts[0].group, bias=bias, gated=gated)
    return ops.pack_linear(torch.cat([part.floats() for part in parts]), kind, bias=bias, gated=gated)
