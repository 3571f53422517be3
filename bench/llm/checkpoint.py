"""Random checkpoints of known shapes, with a tokenizer of one word a token; the same weights as GGUF for llama.cpp and as OpenVINO IR.

Weights are random: they decide what is said, not how fast. Greedy, `ignore_eos` and prompts as token ids give exact counts everywhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def parameters(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocab * self.hidden

    def weight_bytes(self, bits: str) -> float:
        """Bytes that one step reads: all weights once (the tied embedding as the head)."""
        return self.parameters * {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 128}[bits]

    def kv_bytes(self, tokens: int) -> int:
        return tokens * self.layers * 2 * self.kv_heads * self.head_dim * 2


SHAPES = {
    "qwen3-0.6b": Shape("qwen3-0.6b", 1024, 3072, 28, 16, 8, 128, 151_936),
    "100m": Shape("100m", 640, 2048, 16, 10, 5, 64, 32_000),
}
CONTEXT = 4096


def write_checkpoint(folder: Path, shape: Shape) -> Path:
    """Qwen3 in bf16 safetensors; nothing is done if it is there."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(0)
    tensors = {}

    def matrix(name: str, out: int, in_: int) -> None:
        tensors[f"{name}.weight"] = (torch.randn(out, in_, generator=random) * 0.02).to(torch.bfloat16)

    def ones(name: str, size: int) -> None:
        tensors[f"{name}.weight"] = torch.ones(size, dtype=torch.bfloat16)

    matrix("model.embed_tokens", shape.vocab, shape.hidden)
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        for name, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
            matrix(f"{layer}.self_attn.{name}_proj", heads * shape.head_dim, shape.hidden)
        matrix(f"{layer}.self_attn.o_proj", shape.hidden, shape.heads * shape.head_dim)
        for name in ("gate", "up"):
            matrix(f"{layer}.mlp.{name}_proj", shape.intermediate, shape.hidden)
        matrix(f"{layer}.mlp.down_proj", shape.hidden, shape.intermediate)
        ones(f"{layer}.self_attn.q_norm", shape.head_dim)
        ones(f"{layer}.self_attn.k_norm", shape.head_dim)
        ones(f"{layer}.input_layernorm", shape.hidden)
        ones(f"{layer}.post_attention_layernorm", shape.hidden)
    ones("model.norm", shape.hidden)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": shape.vocab, "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0, "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "bfloat16", "eos_token_id": shape.vocab - 1,
        "bos_token_id": shape.vocab - 2, "attention_bias": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, shape.vocab)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_tokenizer(folder: Path, vocab: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t0"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"t{vocab - 1}", "unk_token": "t0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_gguf(source: Path, shape: Shape, bits: str) -> Path:
    """The same weights for llama.cpp: Q4_0, Q8_0 or BF16. Needs the package gguf (in the peers' environment)."""
    target = source.with_name(f"{source.name}-{bits}.gguf")
    if target.exists():
        return target
    import gguf
    import torch
    from safetensors.torch import load_file

    kind = {
        "int4": gguf.GGMLQuantizationType.Q4_0,
        "int8": gguf.GGMLQuantizationType.Q8_0,
        "bf16": gguf.GGMLQuantizationType.BF16,
    }[bits]
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "qwen3")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"\u2581t{i}" for i in range(shape.vocab)])
    writer.add_token_scores([-float(i) for i in range(shape.vocab)])
    writer.add_token_types([1] * shape.vocab)
    writer.add_eos_token_id(shape.vocab - 1)
    writer.add_bos_token_id(shape.vocab - 2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, shape.layers)
    for name, tensor in load_file(source / "model.safetensors").items():
        array = tensor.to(torch.float32).numpy()
        wanted = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, (".weight",)), gguf.quants.quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)
    return target


def write_openvino(source: Path, bits: str, environment: Path) -> Path:
    """The same weights as OpenVINO IR, by optimum-cli of the peers' environment."""
    target = source.with_name(f"{source.name}-ov-{bits}")
    if (target / "openvino_model.bin").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    command = [
        environment / "bin" / "optimum-cli",
        "export",
        "openvino",
        "--model",
        source,
        "--task",
        "text-generation-with-past",
    ]
    command += [
        "--weight-format",
        {"bf16": "fp16"}.get(bits, bits),
        *(["--group-size", "128", "--ratio", "1.0", "--sym"] if bits == "int4" else []),
    ]
    subprocess.run([*map(str, command), str(target)], check=True)
    return target
