"""The decoder of all table-driven families (Llama, Mistral, Qwen2, Qwen3) as a Runner: packed weights, paged KV cache, adapters."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ...base.errors import InvalidInput
from ..backend import ModelInfo
from ..lora import load_lora
from ..ops.layout import Batch, DecoderWeights, LayerWeights
from ..scheduler import Row
from ..sequence import Sequence
from .config import ModelConfig
from .loader import Linear, Weights, pack

QUANTIZATIONS = ("int8", "int4")


class DecoderRunner:
    """`blocks`: of the KV cache. `positions`: the longest sequence."""

    def __init__(
        self, ops: ModuleType, config: ModelConfig, weights: Weights, *, name: str, eos: list[int], kind: str, quantization: str | None,
        kv_kind: str, blocks: int, positions: int,
    ):  # fmt: skip
        self.ops, self.config, self.blocks = ops, config, blocks
        build = WeightBuilder(ops, config, weights, kind, quantization)
        self.weights = build.decoder(positions)
        self.head = build.head()
        self.kv = ops.KVCache(config.layers, blocks, config.kv_heads, config.dim, kv_kind)
        self.decoder = ops.Decoder(self.weights, self.kv)
        self.adapters: dict[str, Any] = {}
        self.info = ModelInfo(
            name=name,
            vocab_size=config.vocab,
            max_model_len=positions,
            eos_token_ids=eos,
            dtype=quantization or self.weights.layers[0].qkv.kind,
            features=frozenset({"lora", "logprobs", "prefix_cache", "embeddings"}),
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all linear layers and the head: what one decode step reads."""
        layers = (
            getattr(layer, name).nbytes for layer in self.weights.layers for name in ("qkv", "o", "gate_up", "down")
        )
        return sum(layers) + self.head.nbytes

    def run(self, rows: Seq[Row]) -> torch.Tensor:
        tokens = [row.tokens for row in rows]
        begin, wanted, adapted = 0, [], {}
        for row, new in zip(rows, tokens, strict=True):
            end = begin + len(new)
            wanted += range(end - row.wanted, end)
            if row.sequence.request.adapter is not None:
                adapted.setdefault(row.sequence.request.adapter, []).extend(range(begin, end))
            begin = end
        adapters = [(self.adapters[name], torch.tensor(places, dtype=torch.int32)) for name, places in adapted.items()]
        batch = Batch.of(tokens, [row.context for row in rows], [row.sequence.table for row in rows], adapters)
        states = self.decoder.forward(batch)
        return states if len(wanted) == begin else states[wanted]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.head.apply(states)

    def release(self, sequence: Sequence) -> None:
        """Nothing is kept by sequence: the block pool owns what there is."""

    def load_adapter(self, name: str, path: Path) -> None:
        self.adapters[name] = load_lora(path, self.config)

    def unload_adapter(self, name: str) -> None:
        self.decoder.forget(self.adapters.pop(name))


class WeightBuilder:
    """Reads, merges and packs the weights, layer by layer, so that no more than one layer is held twice."""

    def __init__(self, ops: ModuleType, config: ModelConfig, weights: Weights, kind: str, quantization: str | None):
        self.ops, self.config, self.weights = ops, config, weights
        self.kind, self.quantization = kind, quantization

    def decoder(self, positions: int) -> DecoderWeights:
        config = self.config
        embedding = self.weights.tensor("model.embed_tokens.weight")
        if tuple(embedding.shape) != (config.vocab, config.hidden):
            raise InvalidInput(
                "the embedding is not of this config",
                received=tuple(embedding.shape),
                expected=f"{(config.vocab, config.hidden)}",
            )
        self.embedding = embedding.to(torch.float32 if self.kind == "fp32" else torch.bfloat16).contiguous()
        cosine, sine = config.rope_tables(positions)
        norm = self.norm("model.norm.weight")
        return DecoderWeights(
            config.heads, config.kv_heads, config.dim, config.eps, self.embedding, cosine, sine, norm,
            [self.layer(index) for index in range(config.layers)],
        )  # fmt: skip

    def layer(self, index: int) -> LayerWeights:
        config, at = self.config, f"model.layers.{index}."
        query, key = config.heads * config.dim, config.kv_heads * config.dim
        attention, mlp = at + "self_attn.", at + "mlp."
        return LayerWeights(
            self.norm(at + "input_layernorm.weight"),
            self.norm(at + "post_attention_layernorm.weight"),
            self.linear(
                [attention + "q_proj", attention + "k_proj", attention + "v_proj"], [query, key, key], config.hidden
            ),
            self.linear([attention + "o_proj"], [config.hidden], query),
            self.linear([mlp + "gate_proj", mlp + "up_proj"], [config.ffn] * 2, config.hidden, gated=True),
            self.linear([mlp + "down_proj"], [config.hidden], config.ffn),
            self.norm(attention + "q_norm.weight", required=False),
            self.norm(attention + "k_norm.weight", required=False),
            config.windows[index],
        )

    def norm(self, name: str, required: bool = True) -> torch.Tensor | None:
        return self.weights.tensor(name).float() if required or self.weights.has(name) else None

    def linear(self, names: list[str], sizes: list[int], k: int, *, gated: bool = False) -> Any:
        parts = [self.weights.linear(name) for name in names]
        for name, part, n in zip(names, parts, sizes, strict=True):
            if tuple(part.weight.shape) != (n, k):
                raise InvalidInput(
                    "a tensor is not of this config",
                    received=f"{name} {tuple(part.weight.shape)}",
                    expected=f"{(n, k)}",
                )
        bias = None
        if any(self.weights.has(f"{name}.bias") for name in names):
            bias = torch.cat([self.weights.tensor(f"{name}.bias").float() if self.weights.has(f"{name}.bias") else torch.zeros(n)
                              for name, n in zip(names, sizes, strict=True)])  # fmt: skip
        return pack(
            self.ops, parts, self.quantization or self.kind, bias=bias, gated=gated, keep=self.quantization is None
        )

    def head(self) -> Any:
        """The output projection: at int4 it is int8, since it decides between near words (and is a tenth of the bytes)."""
        kind = "int8" if self.quantization else self.kind
        if self.weights.has("lm_head.weight") and not self.config.tied:
            part = self.weights.linear("lm_head")
        elif self.config.tied or not self.weights.has("lm_head.qweight"):
            part = Linear(self.weights.tensor("model.embed_tokens.weight"))
        else:
            part = self.weights.linear("lm_head")
        return pack(self.ops, [part], kind, keep=self.quantization is None)
