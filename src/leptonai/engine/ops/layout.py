"""What all implementations of the engine's operations agree on: the batch of a step, a decoder's weights, and how numbers are rounded.

`cpu` (native kernels) and `ref` (pure torch, the oracle) take and give these; everything between operations is fp32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ...base.errors import InvalidInput

BLOCK = 32  # tokens of a KV block
Kind = Literal["fp32", "bf16", "int8", "int4"]  # of a linear layer
KVKind = Literal["fp32", "bf16", "int8"]  # of a KV cache


@dataclass(frozen=True)
class LoraModule:
    """One low-rank pair of an adapter: y[:, column : column + n] += scale * (x @ a.T) @ b.T, with a (rank, k) and b (n, rank), fp32."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float = 1.0
    column: int = 0

    def __post_init__(self) -> None:
        if (
            self.a.ndim != 2
            or self.b.ndim != 2
            or self.a.shape[0] != self.b.shape[1]
            or not 1 <= self.a.shape[0] <= 512
        ):
            shapes = f"a {tuple(self.a.shape)}, b {tuple(self.b.shape)}"
            raise InvalidInput(
                "a LoRA module does not fit together",
                received=shapes,
                expected="a (rank, k), b (n, rank), rank up to 512",
            )
        for name in ("a", "b"):
            object.__setattr__(self, name, getattr(self, name).float().contiguous())


# An adapter: for each layer, by linear ("qkv", "o", "gate_up", "down"), its modules. Merged linears have several, told apart by `column`.
Adapter = Sequence[dict[str, Sequence[LoraModule]]]
LINEARS = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True)
class Batch:
    """Tokens of one step, sequence by sequence; decode and chunks of prefill mix freely.

    tokens, positions: (t,) int32. slots: (t,) int64, block * 32 + offset where a token's key and value go, -1 for nowhere.
    starts: (s + 1,) int32, first token of each sequence. contexts: (s,) int32, tokens in the cache after this step, the new ones included.
    tables: (s, width) int32 block numbers. adapters: (adapter, rows of this step it serves).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    starts: torch.Tensor
    contexts: torch.Tensor
    tables: torch.Tensor
    adapters: Sequence[tuple[Adapter, torch.Tensor]] = ()

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "starts", "contexts", "tables"):
            object.__setattr__(self, name, getattr(self, name).to(torch.int32).contiguous())
        object.__setattr__(self, "slots", self.slots.to(torch.int64).contiguous())

    @classmethod
    def of(
        cls,
        tokens: Sequence[Sequence[int]],
        contexts: Sequence[int],
        tables: Sequence[Sequence[int]],
        adapters: Any = (),
    ) -> Batch:
        """From lists: new tokens of each sequence, tokens in its cache after this step, its block numbers."""
        starts, positions, slots = [0], [], []
        for new, context, table in zip(tokens, contexts, tables, strict=True):
            starts.append(starts[-1] + len(new))
            for position in range(context - len(new), context):
                positions.append(position)
                slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
        width = max(map(len, tables), default=0)
        padded = [[*table, *[0] * (width - len(table))] for table in tables]
        flat = [token for new in tokens for token in new]
        return cls(
            *(torch.tensor(values, dtype=torch.int32) for values in (flat, positions)),
            torch.tensor(slots, dtype=torch.int64),
            *(torch.tensor(values, dtype=torch.int32) for values in (starts, contexts)),
            torch.tensor(padded, dtype=torch.int32).reshape(len(tables), width),
            adapters,
        )


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. The linears are what `pack_linear` of the same implementation gave; norms are fp32.

    qkv: (heads * dim + 2 * kv_heads * dim, hidden), queries first. gate_up: (2 * ffn, hidden), packed with gated=True.
    """

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    qkv: Any
    o: Any
    gate_up: Any
    down: Any
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    window: int = 0


@dataclass(frozen=True)
class DecoderWeights:
    """A decoder of the Llama, Qwen2, Qwen3 or Mistral family.

    embedding: (vocab, hidden) fp32 or bf16. cosine, sine: (positions, rotary / 2) fp32, halves rotate (`rotate_half`).
    """

    heads: int
    kv_heads: int
    dim: int
    eps: float
    embedding: torch.Tensor
    cosine: torch.Tensor
    sine: torch.Tensor
    final_norm: torch.Tensor
    layers: Sequence[LayerWeights] = field(default_factory=list)
    scale: float | None = None  # of attention scores; None: 1 / sqrt(dim)

    @property
    def attention_scale(self) -> float:
        return self.dim**-0.5 if self.scale is None else self.scale


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (…, k) fp32 -> int8 of the same shape and scale (…, 1): symmetric, largest magnitude to 127, ties to even."""
    largest = x.abs().amax(-1, keepdim=True)
    # A tensor is divided: `127.0 / largest` would be reciprocal() * 127, rounded twice.
    inverse = torch.where(largest > 0, torch.full_like(largest, 127.0) / largest, 0.0)
    return (x * inverse).round().to(torch.int8), torch.where(largest > 0, largest / 127.0, 1.0)


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight (n, k) -> int8 (n, k) and scale (n,) fp32: one scale per output channel."""
    q, scale = quantize_rows(weight.float())
    return q, scale.squeeze(-1)


def quantize_int4(weight: torch.Tensor, group: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """weight (n, k) -> q (n, k) uint8 in 0..15 and scale (n, groups) fp32 that fp16 holds; weight ~ (q - 8) * scale.

    The scale has the sign that takes the group's largest magnitude to -8, so all sixteen values are used (as in llama.cpp's Q4_0).
    """
    n, k = weight.shape
    groups = -(-k // group)
    padded = torch.nn.functional.pad(weight.float(), (0, groups * group - k)).view(n, groups, group)
    largest = padded.gather(2, padded.abs().argmax(2, keepdim=True))
    scale = (largest / -8).half().float()
    q = torch.where(scale == 0, 0.0, padded / torch.where(scale == 0, 1.0, scale)).round_().clamp_(-8, 7) + 8
    return q.to(torch.uint8).view(n, -1)[:, :k].contiguous(), scale.squeeze(-1)


def check_kind(kind: str, kinds: Sequence[str] = ("fp32", "bf16", "int8", "int4")) -> None:
    if kind not in kinds:
        raise InvalidInput("the weights cannot be kept that way", received=kind, expected=" | ".join(kinds))


def check_group(group: int) -> None:
    if group % 8 or not 8 <= group <= 2048:
        raise InvalidInput("int4 groups have another size", received=group, expected="a multiple of 8, from 8 to 2048")
