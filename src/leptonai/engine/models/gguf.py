"""GGUF files: header, weights and vocabulary, read within the file's own bounds (a header may claim anything).

F32, F16, BF16, Q4_0 and Q8_0 are kept as they are; Q4_K and Q6_K (the "K" files) become groups of 32 or channels again when packed.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...base.errors import Corrupt, InvalidInput
from .config import ModelConfig, parse_config
from .loader import Linear

MAX_ENTRIES, MAX_STRING, MAX_ARRAY, MAX_DEPTH = 1 << 16, 1 << 24, 1 << 22, 2
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# type: (name, values of a block, bytes of a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """shape: rows first, as in torch. offset: in the file."""

    shape: tuple[int, ...]
    type: int
    offset: int
    bytes: int


class GGUF:
    """`fields`: metadata. `tensors`: what there is and where, all of it checked to lie inside the file."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            try:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise Corrupt("the GGUF file is empty", received=str(path)) from error
        self.place = 0
        try:
            magic, version, tensors, fields = self.read("<4sIQQ")
            if magic != b"GGUF" or version not in (2, 3):
                raise InvalidInput("this is not a GGUF file of version 2 or 3", received=(magic, version))
            if max(tensors, fields) > MAX_ENTRIES:
                raise Corrupt(
                    "the GGUF header claims too much", received=(tensors, fields), expected=f"at most {MAX_ENTRIES}"
                )
            self.fields = dict(self.field() for _ in range(fields))
            described = [self.describe() for _ in range(tensors)]
            alignment = self.fields.get("general.alignment", 32)
            if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
                raise Corrupt("the GGUF file has no sane alignment", received=alignment)
            base = -(-self.place // alignment) * alignment
            self.tensors = {
                name: self.locate(name, shape, kind, base + offset) for name, shape, kind, offset in described
            }
        except (struct.error, UnicodeDecodeError) as error:
            raise Corrupt("the GGUF header is broken", received=str(error)) from error

    def read(self, form: str) -> tuple:
        values = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return values

    def string(self) -> str:
        (length,) = self.read("<Q")
        if length > MAX_STRING or self.place + length > len(self.data):
            raise Corrupt("a text of the GGUF header goes beyond the file", received=length)
        self.place += length
        return self.data[self.place - length : self.place].decode("utf-8", "replace")

    def field(self) -> tuple[str, Any]:
        name = self.string()
        return name, self.value(self.read("<I")[0])

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.read("<" + SCALARS[kind])[0]
        if kind != ARRAY or depth >= MAX_DEPTH:
            raise Corrupt("the GGUF header has a value of unknown type", received=kind)
        item, count = self.read("<IQ")
        if count > MAX_ARRAY or count > len(self.data) - self.place:
            raise Corrupt("an array of the GGUF header goes beyond the file", received=count)
        if item in SCALARS:
            return list(self.read(f"<{count}{SCALARS[item]}"))
        return [self.value(item, depth + 1) for _ in range(count)]

    def describe(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        (dimensions,) = self.read("<I")
        if not 1 <= dimensions <= 4:
            raise Corrupt("a GGUF tensor has an impossible shape", received=f"{name}: {dimensions} dimensions")
        shape = self.read(f"<{dimensions}Q")
        kind, offset = self.read("<IQ")
        return name, tuple(reversed(shape)), kind, offset

    def locate(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        if kind not in TYPES:
            known = ", ".join(entry[0] for entry in TYPES.values())
            raise InvalidInput(
                f"tensor {name} has a type that is not read",
                received=kind,
                expected=known,
                fix="Quantise it as Q4_0 or Q8_0",
            )
        _, values, size = TYPES[kind]
        count = 1
        for length in shape:
            count *= length
        total = count // values * size
        if shape[-1] % values or count < 1 or offset + total > len(self.data):
            raise Corrupt(
                f"tensor {name} goes beyond the file",
                received=f"{shape} at {offset}",
                expected=f"within {len(self.data)} bytes",
            )
        return TensorInfo(shape, kind, offset, total)

    def raw(self, info: TensorInfo) -> torch.Tensor:
        """(blocks, bytes of a block) uint8; a copy, so that the file may go."""
        buffer = bytearray(self.data[info.offset : info.offset + info.bytes])
        return torch.frombuffer(buffer, dtype=torch.uint8).view(-1, TYPES[info.type][2])


class GGUFWeights:
    """Tensors by their Hugging Face names. `heads`, where queries and keys were permuted for llama.cpp's rotary layout (Llama, Mistral)."""

    def __init__(self, file: GGUF, heads: dict[str, int]):
        self.file, self.heads = file, heads
        self.names = {}
        for name in file.tensors:
            stem, _, end = name.rpartition(".")
            if stem in NAMES:
                self.names[f"{NAMES[stem]}.{end}"] = name
            elif stem.startswith("blk.") and (parts := stem.split(".", 2))[-1] in NAMES:
                self.names[f"model.layers.{parts[1]}.{NAMES[parts[2]]}.{end}"] = name

    def has(self, name: str) -> bool:
        return name in self.names

    def find(self, name: str) -> TensorInfo:
        if name not in self.names:
            raise InvalidInput("the checkpoint lacks a tensor", received=name)
        return self.file.tensors[self.names[name]]

    def tensor(self, name: str) -> torch.Tensor:
        info = self.find(name)
        return self.in_order(name, decode(self.file.raw(info), info).floats())

    def linear(self, prefix: str) -> Linear:
        info = self.find(f"{prefix}.weight")
        found = decode(self.file.raw(info), info)
        parts = (
            None if part is None else self.in_order(f"{prefix}.weight", part)
            for part in (found.weight, found.scale, found.zero)
        )
        return Linear(*parts, group=found.group)

    def in_order(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Rows of q and k back from pairs to halves."""
        heads = self.heads.get(name.split(".")[-2], 0)
        if not heads:
            return tensor
        pairs = tensor.view(heads, len(tensor) // heads // 2, 2, *tensor.shape[1:])
        return pairs.transpose(1, 2).reshape(tensor.shape)


def decode(raw: torch.Tensor, info: TensorInfo) -> Linear:
    """Blocks to a Linear: Q4_0 and Q4_K as groups of 32, the others as floats (Q8_0 has a scale per 32, which int8 kernels have not)."""
    name, rows = TYPES[info.type][0], info.shape[:-1]
    if name in ("F32", "F16", "BF16"):
        kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
        return Linear(raw.contiguous().view(-1).view(kind).view(info.shape))
    if name == "Q4_0":
        q = torch.cat([raw[:, 2:] & 15, raw[:, 2:] >> 4], 1)
        return Linear(q.view(*rows, -1).contiguous(), halves(raw[:, :2]).view(*rows, -1).float(), None, 32)
    if name == "Q8_0":
        return Linear((raw[:, 2:].contiguous().view(torch.int8).float() * halves(raw[:, :2]).float()).view(info.shape))
    if name == "Q4_K":
        scale, low = k_scales(raw)
        nibbles = raw[:, 16:].view(-1, 4, 32)
        q = torch.stack([nibbles & 15, nibbles >> 4], 2).reshape(*rows, -1)
        # weight = q * scale - low: a zero point where the scale allows one.
        zero = torch.where(scale > 0, low / torch.where(scale > 0, scale, 1.0), 0.0)
        if bool((zero > 60000).any() | ((scale == 0) & (low != 0)).any()):
            return Linear((q.view(-1, 8, 32).float() * scale.unsqueeze(2) - low.unsqueeze(2)).view(info.shape))
        return Linear(q.contiguous(), scale.view(*rows, -1), zero.view(*rows, -1), 32)
    return Linear(q6_k(raw).view(info.shape))


def halves(raw: torch.Tensor) -> torch.Tensor:
    return raw.contiguous().view(torch.float16)


def k_scales(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima (blocks, 8) fp32 of Q4_K: six bits each, in twelve bytes."""
    d, dmin = halves(raw[:, :2]).float(), halves(raw[:, 2:4]).float()
    b = raw[:, 4:16]
    scale = torch.cat([b[:, :4] & 63, (b[:, 8:] & 15) | ((b[:, :4] >> 6) << 4)], 1)
    low = torch.cat([b[:, 4:8] & 63, (b[:, 8:] >> 4) | ((b[:, 4:8] >> 6) << 4)], 1)
    return d * scale, dmin * low


def q6_k(raw: torch.Tensor) -> torch.Tensor:
    """(blocks, 256) fp32: low four bits, high two bits, a signed scale per 16."""
    low, high = raw[:, :128].view(-1, 2, 64), raw[:, 128:192].view(-1, 2, 32)
    scale = raw[:, 192:208].contiguous().view(torch.int8).float() * halves(raw[:, 208:210]).float()
    parts = [low[:, :, :32] & 15, low[:, :, 32:] & 15, low[:, :, :32] >> 4, low[:, :, 32:] >> 4]
    q = torch.stack([part | (((high >> (2 * i)) & 3) << 4) for i, part in enumerate(parts)], 2).reshape(
        len(raw), 16, 16
    )
    return (q.float() - 32) * scale.unsqueeze(2)


def open_gguf(path: Path) -> tuple[ModelConfig, GGUFWeights, list[int]]:
    """Config, weights and end tokens. Raises InvalidInput for a family that the decoder does not serve."""
    file = GGUF(path)
    family = file.fields.get("general.architecture")

    def field(name: str, default: Any = None) -> Any:
        return file.fields.get(f"{family}.{name}", default)

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InvalidInput("the GGUF file is no language model", received=family)
    heads = field("attention.head_count")
    raw = {
        "model_type": family, "vocab_size": embedding.shape[0], "hidden_size": field("embedding_length"), "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"), "num_attention_heads": heads, "num_key_value_heads": field("attention.head_count_kv"),
        "head_dim": field("attention.key_length"), "max_position_embeddings": field("context_length", 2048),
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon", 1e-6), "rope_theta": field("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors, "torch_dtype": "float32" if embedding.type == 0 else "bfloat16",
    }  # fmt: skip
    if (scaling := field("rope.scaling.type")) not in (None, "none"):
        raw["rope_scaling"] = {
            "rope_type": scaling, "factor": field("rope.scaling.factor", 1.0),
            "original_max_position_embeddings": field("rope.scaling.original_context_length"),
        }  # fmt: skip
    config = parse_config(raw)
    if config is None:
        raise InvalidInput(
            "GGUF files of this family are not read", received=family, expected="llama, mistral, qwen2 or qwen3"
        )
    if "rope_freqs.weight" in file.tensors:
        raise InvalidInput(
            "this GGUF file carries its own rotary factors, which are not read",
            fix="Serve the safetensors of the model",
        )
    permuted = {"q_proj": config.heads, "k_proj": config.kv_heads} if family == "llama" else {}
    eos = file.fields.get("tokenizer.ggml.eos_token_id")
    return config, GGUFWeights(file, permuted), [] if eos is None else [int(eos)]


def gguf_tokenizer(path: Path) -> Any:
    """The vocabulary of a GGUF file as a Tokenizer: byte-level BPE ("gpt2") or sentencepiece BPE ("llama")."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    from ..tokenizer import Tokenizer

    fields = GGUF(path).fields
    tokens, kind = fields.get("tokenizer.ggml.tokens") or [], fields.get("tokenizer.ggml.model")
    vocab = {token: i for i, token in enumerate(tokens)}
    if kind == "gpt2":
        merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges") or []]
        backend = Backend(
            models.BPE(vocab=vocab, merges=merges, ignore_merges=fields.get("tokenizer.ggml.pre") == "llama-bpe")
        )
        pattern = PATTERNS.get(fields.get("tokenizer.ggml.pre", ""), PATTERNS["qwen2"])
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
    elif kind == "llama":
        merges = merges_of(tokens, fields.get("tokenizer.ggml.scores") or [], vocab)
        unknown = tokens[fields.get("tokenizer.ggml.unknown_token_id", 0)]
        backend = Backend(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token=unknown))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = decoders.Strip(content=" ", left=1)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
        )
    else:
        raise InvalidInput("the vocabulary of this GGUF file is not read", received=kind, expected="gpt2 or llama")
    types = fields.get("tokenizer.ggml.token_type") or []
    backend.add_special_tokens(
        [AddedToken(tokens[i], special=True, normalized=False) for i, type_ in enumerate(types) if type_ == 3]
    )
    special = {
        name: tokens[fields[key]]
        for name, key in SPECIAL_FIELDS.items()
        if fields.get(key) is not None and fields[key] < len(tokens)
    }
    bos = special.get("bos_token")
    if bos and fields.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocab[bos])]
        )
    eos = fields.get("tokenizer.ggml.eos_token_id")
    template = fields.get("tokenizer.chat_template")
    return Tokenizer(backend, special=special, template=template, eos=[] if eos is None else [int(eos)])


SPECIAL_FIELDS = {"bos_token": "tokenizer.ggml.bos_token_id", "eos_token": "tokenizer.ggml.eos_token_id"}
PATTERNS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def merges_of(tokens: list[str], scores: list[float], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Sentencepiece has scores, BPE has merges: every split of a token into two tokens, best-scored results first."""
    found = []
    for token in tokens:
        score = scores[vocab[token]] if vocab[token] < len(scores) else 0.0
        pairs = [
            (token[:i], token[i:]) for i in range(1, min(len(token), 64)) if token[:i] in vocab and token[i:] in vocab
        ]
        found += [(-score, vocab[left], vocab[right], left, right) for left, right in pairs]
    return [(left, right) for *_, left, right in sorted(found)]
