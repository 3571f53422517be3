"""The engine's operations in plain torch: the oracle of the native kernels' tests, and the way everywhere they cannot run.

Same names and signatures as `cpu`. Integer parts are exact (products of int8 summed in fp64); everything else is fp32.
"""

from __future__ import annotations

import torch

from ...base.errors import InvalidInput
from .layout import (
    BLOCK,
    Adapter,
    Batch,
    DecoderWeights,
    Kind,
    KVKind,
    LoraModule,
    check_group,
    check_kind,
    quantize_int4,
    quantize_int8,
    quantize_rows,
)

NAME = "ref"


class PackedLinear:
    """Weights (n, k) as numbers: fp32, bf16, int8 with a scale per channel, or int4 (kept as uint8) with scale and zero point per group."""

    def __init__(
        self, kind: Kind, weight: torch.Tensor, bias: torch.Tensor | None, scale=None, zero=None, group: int = 0
    ):
        self.kind, self.weight, self.scale, self.zero, self.group = kind, weight, scale, zero, group
        self.bias = None if bias is None else bias.float()
        self.n, self.k = weight.shape

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.weight, self.scale, self.zero, self.bias) if tensor is not None)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, k) -> (…, n) fp32."""
        if x.shape[-1] != self.k:
            raise InvalidInput("a linear layer has another width", received=tuple(x.shape), expected=f"(…, {self.k})")
        rows = x.float().reshape(-1, self.k)
        y = {"fp32": self.floats, "bf16": self.floats, "int8": self.int8, "int4": self.int4}[self.kind](rows)
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], self.n)

    def floats(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self.weight.dtype).float() @ self.weight.float().T

    def int8(self, rows: torch.Tensor) -> torch.Tensor:
        q, scale = quantize_rows(rows)
        return (q.double() @ self.weight.double().T).float() * self.scale * scale

    def int4(self, rows: torch.Tensor) -> torch.Tensor:
        q, scale = quantize_rows(rows)
        y = torch.zeros(len(rows), self.n)
        for g in range(self.scale.shape[1]):
            part = slice(g * self.group, (g + 1) * self.group)
            zero = 8.0 if self.zero is None else self.zero[:, g].double()
            x = q[:, part].double()
            y += ((x @ self.weight[:, part].double().T) - x.sum(1, keepdim=True) * zero).float() * self.scale[:, g]
        return y * scale


def pack_linear(
    weight: torch.Tensor, kind: Kind, *, bias: torch.Tensor | None = None, group: int = 128, gated: bool = False
) -> PackedLinear:
    """Quantise weight (n, k). `gated` changes nothing here: gate and up stay one after the other."""
    check_kind(kind)
    if kind == "int8":
        return pack_int8(*quantize_int8(weight), bias=bias, gated=gated)
    if kind == "int4":
        return pack_int4(*quantize_int4(weight, group), group=group, bias=bias, gated=gated)
    return PackedLinear(kind, weight.to(torch.bfloat16 if kind == "bf16" else torch.float32), bias)


def pack_int8(
    q: torch.Tensor, scale: torch.Tensor, *, bias: torch.Tensor | None = None, gated: bool = False
) -> PackedLinear:
    """q (n, k) int8 with scale (n,): weight = q * scale."""
    return PackedLinear("int8", q, bias, scale.float().reshape(-1))


def pack_int4(
    q: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    group: int = 128,
    bias: torch.Tensor | None = None,
    gated: bool = False,
) -> PackedLinear:
    """q (n, k) uint8 in 0..15, scale and zero (n, groups): weight = (q - zero) * scale; zero None: 8. Scales are kept as fp16."""
    check_group(group)
    half = [None if part is None else part.half().float() for part in (scale, zero)]
    return PackedLinear("int4", q, bias, *half, group=group)


class KVCache:
    """Keys and values of all layers, (layer, block, kv_head, 32 slots, dim); int8 with a scale per (token, head)."""

    DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}  # noqa: RUF012

    def __init__(self, layers: int, blocks: int, kv_heads: int, dim: int, kind: KVKind = "bf16"):
        check_kind(kind, tuple(self.DTYPES))
        self.layers, self.blocks, self.kv_heads, self.dim, self.kind = layers, blocks, kv_heads, dim, kind
        shape = (layers, blocks, kv_heads, BLOCK)
        self.keys, self.values = (torch.zeros(*shape, dim, dtype=self.DTYPES[kind]) for _ in range(2))
        self.key_scales, self.value_scales = (torch.zeros(shape) if kind == "int8" else None for _ in range(2))

    @property
    def nbytes(self) -> int:
        return sum(
            part.nbytes for part in (self.keys, self.values, self.key_scales, self.value_scales) if part is not None
        )

    @staticmethod
    def bytes_per_block(layers: int, kv_heads: int, dim: int, kind: KVKind = "bf16") -> int:
        return 2 * layers * kv_heads * BLOCK * (dim * KVCache.DTYPES[kind].itemsize + (4 if kind == "int8" else 0))

    def copy_block(self, source: int, target: int) -> None:
        for part in (self.keys, self.values, self.key_scales, self.value_scales):
            if part is not None:
                part[:, target] = part[:, source]

    def gather(self, layer: int, table: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (kv_heads, context, dim) fp32 of the sequence whose blocks are `table`."""
        blocks = table[: -(-context // BLOCK)].long()
        found = []
        for part, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            rows = part[layer, blocks].float()
            if scales is not None:
                rows = rows * scales[layer, blocks].unsqueeze(-1)
            found.append(rows.transpose(0, 1).reshape(self.kv_heads, -1, self.dim)[:, :context])
        return found[0], found[1]


def store_kv(kv: KVCache, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
    """keys, values: (tokens, kv_heads, dim) into their slots (block * 32 + offset; -1: nowhere)."""
    kept = slots >= 0
    block, offset = slots[kept] // BLOCK, slots[kept] % BLOCK
    for rows, part, scales in ((keys, kv.keys, kv.key_scales), (values, kv.values, kv.value_scales)):
        rows = rows[kept].float()
        if scales is not None:
            rows, scale = quantize_rows(rows)
            scales[layer, block, :, offset] = scale.squeeze(-1)
        part[layer, block, :, offset] = rows.to(part.dtype)


def attention(
    query: torch.Tensor, kv: KVCache, layer: int, batch: Batch, scale: float, window: int = 0
) -> torch.Tensor:
    """query (tokens, heads, dim) against the cached keys and values of its own sequence, causal -> (tokens, heads, dim)."""
    y = torch.empty_like(query, dtype=torch.float32)
    group = query.shape[1] // kv.kv_heads
    starts, contexts = batch.starts.tolist(), batch.contexts.tolist()
    for s, context in enumerate(contexts):
        rows = query[starts[s] : starts[s + 1]].float()
        keys, values = kv.gather(layer, batch.tables[s], context)
        grouped = rows.view(len(rows), kv.kv_heads, group, kv.dim).permute(1, 2, 0, 3)
        scores = grouped @ keys.unsqueeze(1).transpose(2, 3) * scale
        position = torch.arange(context - len(rows), context).unsqueeze(1)
        distance = position - torch.arange(context)
        hidden = (distance < 0) | (distance >= window) if window else distance < 0
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        y[starts[s] : starts[s + 1]] = (weights @ values.unsqueeze(1)).permute(2, 0, 1, 3).reshape(rows.shape)
    return y


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """RMS norm of x (…, n), or of residual + x, which is then left in `residual` (fp32, contiguous)."""
    x = x.float()
    if residual is not None:
        x = residual.add_(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rope(x: torch.Tensor, positions: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """x (tokens, heads, dim) with its first 2 * cosine.shape[1] dimensions rotated in halves."""
    half = cosine.shape[1]
    c, s = cosine[positions.long()].unsqueeze(1), sine[positions.long()].unsqueeze(1)
    a, b, rest = x.float().split([half, half, x.shape[-1] - 2 * half], -1)
    return torch.cat([a * c - b * s, b * c + a * s, rest], -1)


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of x = (gate, up): (…, 2n) -> (…, n)."""
    gate, up = x.float().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def lora(y: torch.Tensor, x: torch.Tensor, rows: torch.Tensor, module: LoraModule) -> None:
    """Add the module's y for the given rows, in place. x (tokens, k), y (tokens, n'), both fp32 and contiguous."""
    rows, columns = rows.long(), slice(module.column, module.column + len(module.b))
    y[rows, columns] += module.scale * (x[rows] @ module.a.T @ module.b.T)


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Greedy tokens (rows,) int32 of logits (rows, vocab); of equal logits the smallest token."""
    return logits.argmax(-1).int()


def top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k best of each row: values (rows, k) falling, tokens (rows, k) int32, and logsumexp of the whole row (rows,)."""
    if not 1 <= k <= logits.shape[1]:
        raise InvalidInput("top_k has no such number", received=k, expected=f"1 to {logits.shape[1]}")
    values, tokens = logits.float().sort(descending=True, stable=True)
    return values[:, :k], tokens[:, :k].int(), logits.float().logsumexp(-1)


class Decoder:
    """All layers of a model, layer by layer, operation by operation."""

    def __init__(self, weights: DecoderWeights, kv: KVCache):
        self.weights, self.kv = weights, kv

    def forward(self, batch: Batch) -> torch.Tensor:
        """Run a step: keys and values of its tokens go into the cache; hidden states (tokens, hidden) fp32 come back, final norm included."""
        w = self.weights
        hidden = w.embedding[batch.tokens.long()].float()
        for index, layer in enumerate(w.layers):
            normed = rms_norm(hidden, layer.attention_norm, w.eps)
            hidden = hidden + self.attend(normed, batch, index)
            normed = rms_norm(hidden, layer.mlp_norm, w.eps)
            gated = silu_mul(self.linear(normed, batch, index, "gate_up"))
            hidden = hidden + self.linear(gated, batch, index, "down")
        return rms_norm(hidden, w.final_norm, w.eps)

    def attend(self, normed: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
        w, layer, tokens = self.weights, self.weights.layers[index], len(normed)
        heads = self.linear(normed, batch, index, "qkv").view(tokens, w.heads + 2 * w.kv_heads, w.dim)
        query, key, value = heads.split([w.heads, w.kv_heads, w.kv_heads], 1)
        if layer.query_norm is not None:
            query = rms_norm(query, layer.query_norm, w.eps)
        if layer.key_norm is not None:
            key = rms_norm(key, layer.key_norm, w.eps)
        query, key = (rope(x, batch.positions, w.cosine, w.sine) for x in (query, key))
        store_kv(self.kv, index, key, value, batch.slots)
        attended = attention(query, self.kv, index, batch, w.attention_scale, layer.window)
        return self.linear(attended.reshape(tokens, -1), batch, index, "o")

    def linear(self, x: torch.Tensor, batch: Batch, index: int, name: str) -> torch.Tensor:
        y = getattr(self.weights.layers[index], name).apply(x)
        for adapter, rows in batch.adapters:
            for module in adapter[index].get(name, ()):
                lora(y, x, rows, module)
        return y

    def forget(self, adapter: Adapter) -> None:
        """Nothing is kept of an adapter here."""


def set_threads(count: int) -> None:
    """Threads of torch, for the whole process."""
    torch.set_num_threads(count)
