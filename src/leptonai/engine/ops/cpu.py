"""The engine's operations on the native kernels: packed linear layers, KV cache, and the whole decoder as one call.

Same names and signatures as `ref`. Tensors are fp32 (or converted), contiguous and on the CPU; results are fp32.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from ctypes import byref
from typing import Any

import torch

from ...base.errors import InvalidInput, LeptonError
from . import native
from .layout import (
    BLOCK,
    LINEARS,
    Adapter,
    Batch,
    DecoderWeights,
    Kind,
    KVKind,
    LoraModule,
    check_group,
    check_kind,
)
from .native import library

NAME = "cpu"


def floats(x: torch.Tensor) -> torch.Tensor:
    return x.detach().to("cpu", torch.float32).contiguous()


def address(x: torch.Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def pages(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """Zeros straight from the system: aligned, in huge pages where it has them, and taking memory only where they are written.

    Blocks of a cache lie anywhere; with pages of 4 KiB each would cost a walk through the page table.
    """
    memory = mmap.mmap(-1, max(math.prod(shape) * dtype.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without huge pages is only slower
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)[: math.prod(shape)].view(shape)


def checked(status: int) -> None:
    if status:
        raise LeptonError(
            "there is no memory for this step", fix="Lower max_num_batched_tokens, or the size of the KV cache"
        )


class PackedLinear:
    """Weights (n, k) in the order the kernels read them, with an optional bias. Made by `pack_linear` and its sisters."""

    def __init__(self, kind: Kind, n: int, k: int, *, group: int = 0, asymmetric: bool = False, gated: bool = False):
        self.kind, self.n, self.k, self.group = kind, n, k, group
        self.struct = native.Linear(
            kind=native.KINDS[kind], n=n, k=k, group=group, asymmetric=asymmetric, interleaved=gated
        )
        self.data = pages(library().lep_packed_bytes(byref(self.struct)))
        self.struct.data = self.data.data_ptr()
        self.scale = self.bias = None
        self.channels = gated_channels(n) if gated else None

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """values (n,) in the order of the packed channels, padded to whole panels."""
        padded = torch.zeros(-(-self.n // native.BLOCK) * native.BLOCK)
        if self.channels is None:
            padded[: self.n] = values
        else:
            padded[self.channels] = floats(values)
        return padded

    def set_scale(self, scale: torch.Tensor) -> None:
        self.scale = self.per_channel(floats(scale))
        self.struct.scale = self.scale.data_ptr()

    def set_bias(self, bias: torch.Tensor | None) -> None:
        if bias is not None:
            self.bias = self.per_channel(floats(bias))
            self.struct.bias = self.bias.data_ptr()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.data, self.scale, self.bias) if tensor is not None)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, k) -> (…, n) fp32."""
        if x.shape[-1] != self.k:
            raise InvalidInput("a linear layer has another width", received=tuple(x.shape), expected=f"(…, {self.k})")
        rows = floats(x).view(-1, self.k)
        y = torch.empty(len(rows), self.n)
        checked(library().lep_linear_forward(byref(self.struct), rows.data_ptr(), len(rows), y.data_ptr()))
        return y.view(*x.shape[:-1], self.n)


def gated_channels(n: int) -> torch.Tensor:
    """Where channel i of (gate, up) lies in panels of 16 gate and 16 up channels."""
    within = torch.arange(n // 2)
    gate = within // 16 * 32 + within % 16
    return torch.cat([gate, gate + 16])


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `layout.quantize_int8`, faster."""
    source = floats(weight)
    q, scale = torch.empty(source.shape, dtype=torch.int8), torch.empty(len(source))
    library().lep_quantize_rows(source.data_ptr(), *source.shape, q.data_ptr(), scale.data_ptr())
    return q, scale


def quantize_int4(weight: torch.Tensor, group: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """As `layout.quantize_int4`, faster."""
    check_group(group)
    source = floats(weight)
    q, scale = torch.empty(source.shape, dtype=torch.uint8), torch.empty(len(source), -(-source.shape[1] // group))
    library().lep_quantize_int4(source.data_ptr(), *source.shape, group, q.data_ptr(), scale.data_ptr())
    return q, scale


def pack_linear(
    weight: torch.Tensor, kind: Kind, *, bias: torch.Tensor | None = None, group: int = 128, gated: bool = False
) -> PackedLinear:
    """Quantise and pack weight (n, k). `gated`: rows are gate then up of a gated MLP, which the decoder multiplies as they come."""
    check_kind(kind)
    if kind == "int8":
        return pack_int8(*quantize_int8(weight), bias=bias, gated=gated)
    if kind == "int4":
        return pack_int4(*quantize_int4(weight, group), group=group, bias=bias, gated=gated)
    packed = PackedLinear(kind, *weight.shape, gated=gated)
    source = floats(weight)  # an address alone would not keep a converted copy alive
    library().lep_pack_float(byref(packed.struct), source.data_ptr(), packed.data.data_ptr())
    packed.set_bias(bias)
    return packed


def pack_int8(
    q: torch.Tensor, scale: torch.Tensor, *, bias: torch.Tensor | None = None, gated: bool = False
) -> PackedLinear:
    """q (n, k) int8 with scale (n,): weight = q * scale."""
    packed = PackedLinear("int8", *q.shape, gated=gated)
    source = q.contiguous()
    library().lep_pack_int8(byref(packed.struct), source.data_ptr(), packed.data.data_ptr())
    packed.set_scale(scale.reshape(-1))
    packed.set_bias(bias)
    return packed


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
    packed = PackedLinear("int4", *q.shape, group=group, asymmetric=zero is not None, gated=gated)
    source, scales, zeros = q.contiguous(), floats(scale), None if zero is None else floats(zero)
    library().lep_pack_int4(
        byref(packed.struct), source.data_ptr(), scales.data_ptr(), address(zeros), packed.data.data_ptr()
    )
    packed.set_bias(bias)
    return packed


class KVCache:
    """Keys and values of all layers: (layer, block, kv_head, 32 slots, dim), dim padded to 32; int8 with a scale per (token, head).

    A block's bytes are in the kernels' order: only `store_kv`, `attention` and `Decoder` read and write them; whole blocks may be copied.
    """

    DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}  # noqa: RUF012

    def __init__(self, layers: int, blocks: int, kv_heads: int, dim: int, kind: KVKind = "bf16"):
        check_kind(kind, tuple(self.DTYPES))
        self.layers, self.blocks, self.kv_heads, self.dim, self.kind = layers, blocks, kv_heads, dim, kind
        shape = (layers, blocks, kv_heads, BLOCK)
        padded = -(-dim // native.BLOCK) * native.BLOCK
        # Zeros, not empty: unused slots are multiplied by zero, and zero times NaN is NaN.
        self.keys, self.values = (pages(*shape, padded, dtype=self.DTYPES[kind]) for _ in range(2))
        self.key_scales, self.value_scales = (torch.zeros(shape) if kind == "int8" else None for _ in range(2))
        parts = (self.keys, self.values, self.key_scales, self.value_scales)
        self.structs = [
            native.KV(*(address(part if part is None else part[layer]) for part in parts)) for layer in range(layers)
        ]

    @property
    def nbytes(self) -> int:
        return sum(
            part.nbytes for part in (self.keys, self.values, self.key_scales, self.value_scales) if part is not None
        )

    @staticmethod
    def bytes_per_block(layers: int, kv_heads: int, dim: int, kind: KVKind = "bf16") -> int:
        padded = -(-dim // native.BLOCK) * native.BLOCK
        per_token = padded * KVCache.DTYPES[kind].itemsize + (4 if kind == "int8" else 0)
        return 2 * layers * kv_heads * BLOCK * per_token

    def copy_block(self, source: int, target: int) -> None:
        for part in (self.keys, self.values, self.key_scales, self.value_scales):
            if part is not None:
                part[:, target] = part[:, source]


def batch_struct(batch: Batch) -> Any:
    return native.Batch(
        tokens=len(batch.tokens),
        sequences=len(batch.contexts),
        table_width=batch.tables.shape[1],
        token=batch.tokens.data_ptr(),
        position=batch.positions.data_ptr(),
        slot=batch.slots.data_ptr(),
        start=batch.starts.data_ptr(),
        context=batch.contexts.data_ptr(),
        table=batch.tables.data_ptr(),
    )


def store_kv(kv: KVCache, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
    """keys, values: (tokens, kv_heads, dim) into their slots (block * 32 + offset; -1: nowhere)."""
    keys, values, slots = floats(keys), floats(values), slots.to(torch.int64).contiguous()
    arguments = (keys.data_ptr(), values.data_ptr(), slots.data_ptr(), len(keys), kv.kv_heads, kv.dim)
    library().lep_store_kv(byref(kv.structs[layer]), native.KINDS[kv.kind], *arguments)


def attention(
    query: torch.Tensor, kv: KVCache, layer: int, batch: Batch, scale: float, window: int = 0
) -> torch.Tensor:
    """query (tokens, heads, dim) against the cached keys and values of its own sequence, causal -> (tokens, heads, dim)."""
    query = floats(query)
    y = torch.empty_like(query)
    struct, heads = batch_struct(batch), query.shape[1]
    arguments = (query.data_ptr(), byref(struct), heads, kv.kv_heads, kv.dim, scale, window, y.data_ptr())
    checked(library().lep_attention(byref(kv.structs[layer]), native.KINDS[kv.kind], *arguments))
    return y


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """RMS norm of x (…, n), or of residual + x, which is then left in `residual` (fp32, contiguous)."""
    x, weight = floats(x), floats(weight)
    y = torch.empty_like(x)
    library().lep_rms_norm(
        address(residual), x.data_ptr(), weight.data_ptr(), x.numel() // x.shape[-1], x.shape[-1], eps, y.data_ptr()
    )
    return y


def rope(x: torch.Tensor, positions: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """x (tokens, heads, dim) with its first 2 * cosine.shape[1] dimensions rotated in halves."""
    y = floats(x).clone()
    positions = positions.to(torch.int32).contiguous()
    tokens, heads, dim = y.shape
    arguments = (positions.data_ptr(), cosine.data_ptr(), sine.data_ptr(), tokens, heads, dim, 2 * cosine.shape[1])
    library().lep_rope(y.data_ptr(), *arguments)
    return y


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of x = (gate, up): (…, 2n) -> (…, n)."""
    x = floats(x)
    y = torch.empty(*x.shape[:-1], x.shape[-1] // 2)
    library().lep_silu_mul(x.data_ptr(), y.numel() // max(y.shape[-1], 1), y.shape[-1], y.data_ptr())
    return y


def lora(y: torch.Tensor, x: torch.Tensor, rows: torch.Tensor, module: LoraModule) -> None:
    """Add the module's y for the given rows, in place. x (tokens, k), y (tokens, n'), both fp32 and contiguous."""
    rows = rows.to(torch.int32).contiguous()
    struct = lora_struct(module)
    library().lep_lora_forward(byref(struct), x.data_ptr(), rows.data_ptr(), len(rows), y.data_ptr(), y.shape[-1])


def lora_struct(module: LoraModule) -> Any:
    (rank, k), n = module.a.shape, len(module.b)
    return native.Lora(rank, module.column, n, k, module.scale, module.a.data_ptr(), module.b.data_ptr())


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Greedy tokens (rows,) int32 of logits (rows, vocab); of equal logits the smallest token."""
    logits = floats(logits)
    tokens, values = torch.empty(len(logits), dtype=torch.int32), torch.empty(len(logits))
    library().lep_argmax(logits.data_ptr(), *logits.shape, tokens.data_ptr(), values.data_ptr())
    return tokens


def top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k best of each row: values (rows, k) falling, tokens (rows, k) int32, and logsumexp of the whole row (rows,)."""
    logits = floats(logits)
    rows, vocab = logits.shape
    if not 1 <= k <= vocab:
        raise InvalidInput("top_k has no such number", received=k, expected=f"1 to {vocab}")
    tokens, values, logsumexp = torch.empty(rows, k, dtype=torch.int32), torch.empty(rows, k), torch.empty(rows)
    library().lep_top_k(logits.data_ptr(), rows, vocab, k, tokens.data_ptr(), values.data_ptr(), logsumexp.data_ptr())
    return values, tokens, logsumexp


class Decoder:
    """All layers of a model in one native call per step. Keeps what its C structs point to; not for two threads at once."""

    def __init__(self, weights: DecoderWeights, kv: KVCache):
        self.weights, self.kv = weights, kv
        self.kept: list[torch.Tensor] = []
        self.embedding = weights.embedding.contiguous()
        if self.embedding.dtype not in (torch.float32, torch.bfloat16):
            raise InvalidInput(
                "the embedding has another type", received=self.embedding.dtype, expected="float32 or bfloat16"
            )
        self.hidden, first = self.embedding.shape[1], weights.layers[0]
        self.layers = (native.Layer * len(weights.layers))(*(self.layer_struct(i) for i in range(len(weights.layers))))
        self.struct = native.Model(
            layers=len(weights.layers), hidden=self.hidden, heads=weights.heads, kv_heads=weights.kv_heads, dim=weights.dim,
            ffn=first.down.k, vocab=len(self.embedding), kv_kind=native.KINDS[kv.kind], rotary=2 * weights.cosine.shape[1],
            eps=weights.eps, attention_scale=weights.attention_scale,
            embedding_kind=native.FP32 if self.embedding.dtype == torch.float32 else native.BF16,
            embedding=self.embedding.data_ptr(), cosine=self.keep(weights.cosine), sine=self.keep(weights.sine),
            final_norm=self.keep(weights.final_norm), layer=self.layers,
        )  # fmt: skip
        self.lora_cache: dict[int, tuple[Adapter, Any, Any]] = {}

    def keep(self, tensor: torch.Tensor | None) -> int | None:
        if tensor is None:
            return None
        self.kept.append(floats(tensor))
        return self.kept[-1].data_ptr()

    def layer_struct(self, index: int) -> Any:
        layer, weights = self.weights.layers[index], self.weights
        query = weights.heads * weights.dim
        shapes = {
            "qkv": (query + 2 * weights.kv_heads * weights.dim, self.hidden),
            "o": (self.hidden, query),
            "gate_up": (2 * layer.down.k, self.hidden),
            "down": (self.hidden, layer.down.k),
        }
        for name, shape in shapes.items():
            linear = getattr(layer, name)
            if (linear.n, linear.k) != shape or (name == "gate_up") != bool(linear.struct.interleaved):
                expected = f"{shape}{', packed with gated=True' if name == 'gate_up' else ''}"
                raise InvalidInput(
                    f"{name} of layer {index} has another shape", received=(linear.n, linear.k), expected=expected
                )
        norms = [self.keep(getattr(layer, name)) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")]
        return native.Layer(
            *norms, *(getattr(layer, name).struct for name in LINEARS), self.kv.structs[index], layer.window
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Run a step: keys and values of its tokens go into the cache; hidden states (tokens, hidden) fp32 come back, final norm included."""
        struct = batch_struct(batch)
        adapters = [self.adapter_struct(adapter, rows) for adapter, rows in batch.adapters]
        if adapters:
            structs = (native.Adapter * len(adapters))(*(made for made, _ in adapters))
            struct.adapters, struct.adapter = len(adapters), structs
        y = torch.empty(len(batch.tokens), self.hidden)
        checked(library().lep_forward(byref(self.struct), byref(struct), y.data_ptr()))
        return y

    def adapter_struct(self, adapter: Adapter, rows: torch.Tensor) -> tuple[Any, torch.Tensor]:
        if id(adapter) not in self.lora_cache:
            modules, first = [], [0]
            for layer in adapter:
                for name in LINEARS:
                    modules += [lora_struct(module) for module in layer.get(name, ())]
                    first.append(len(modules))
            # The adapter itself is kept, so that its id is not given to another.
            self.lora_cache[id(adapter)] = (
                adapter,
                (native.Lora * max(len(modules), 1))(*modules),
                torch.tensor(first, dtype=torch.int32),
            )
        _, modules, first = self.lora_cache[id(adapter)]
        rows = rows.to(torch.int32).contiguous()
        made = native.Adapter(
            len(rows), rows.data_ptr(), first.data_ptr(), ctypes.cast(modules, ctypes.POINTER(native.Lora))
        )
        return made, rows

    def forget(self, adapter: Adapter) -> None:
        """Call when an adapter is unloaded."""
        self.lora_cache.pop(id(adapter), None)


def set_threads(count: int) -> None:
    """Threads of all kernels of this process; default LEPTON_THREADS, OMP_NUM_THREADS, or the CPUs this process may use."""
    library().lep_set_threads(count)
