"""What `config.json` says of a model, in one shape for all families that the decoder serves."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import InvalidInput

if TYPE_CHECKING:
    import torch

# Families that differ in nothing but what their config and their weights say: biases and query/key norms are taken where the
# checkpoint has them. `window`: the config's sliding_window holds unless use_sliding_window or layer_types says otherwise.
FAMILIES = {"llama": False, "mistral": True, "qwen2": True, "qwen3": True}
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelConfig:
    """windows: sliding window of each layer, 0 for none. rope: (inverse frequencies, factor on cosine and sine)."""

    family: str
    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    dim: int
    eps: float
    positions: int
    tied: bool
    dtype: str
    windows: list[int]
    rope: dict[str, Any]
    quantization: dict[str, Any] = field(default_factory=dict)

    def rope_tables(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cosine, sine: (positions, rotary / 2) fp32."""
        import torch

        frequencies, factor = rope_frequencies(self.rope, self.dim, self.positions)
        angles = torch.arange(positions).float().unsqueeze(1) * frequencies
        return angles.cos() * factor, angles.sin() * factor


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """A JSON object of bounded size. Raises InvalidInput if it is none; {} if absent and not required."""
    if not path.is_file():
        if not required:
            return {}
        raise InvalidInput(
            "this is not the folder of a language model", received=str(path.parent), expected=f"a {path.name} in it"
        )
    if path.stat().st_size > MAX_CONFIG_BYTES * 16:
        raise InvalidInput(f"{path.name} is too large", received=path.stat().st_size, expected="at most 16 MiB")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path.name} is not JSON", received=str(error)) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path.name} holds no object", received=type(value).__name__)
    return value


def parse_config(raw: dict[str, Any]) -> ModelConfig | None:
    """The decoder's config, or None for a family it does not know. Raises InvalidInput if sizes are missing or impossible."""
    family = raw.get("model_type")
    if family not in FAMILIES or raw.get("hidden_act", "silu") not in ("silu", "swish"):
        return None
    try:
        hidden, heads, layers = (int(raw[key]) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
        sizes = {
            "vocab": int(raw["vocab_size"]),
            "hidden": hidden,
            "ffn": int(raw["intermediate_size"]),
            "layers": layers,
            "heads": heads,
            "kv_heads": int(raw.get("num_key_value_heads") or heads),
            "dim": int(raw.get("head_dim") or hidden // heads),
            "positions": int(raw.get("max_position_embeddings", 2048)),
        }
        eps = float(raw.get("rms_norm_eps", 1e-6))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInput("config.json lacks a size of the model", received=str(error)) from error
    if (
        not all(1 <= value <= 1 << 24 for value in sizes.values())
        or sizes["heads"] % sizes["kv_heads"]
        or sizes["dim"] % 2
    ):
        raise InvalidInput("config.json has impossible sizes", received=sizes)
    dtype = str(raw.get("torch_dtype") or raw.get("dtype") or "bfloat16").removeprefix("torch.")
    quantization = raw.get("quantization_config") or {}
    return ModelConfig(
        family, **sizes, eps=eps, tied=bool(raw.get("tie_word_embeddings", False)), dtype=dtype, windows=windows(raw, layers, family),
        rope=rope_parameters(raw), quantization=quantization,
    )  # fmt: skip


def windows(raw: dict[str, Any], layers: int, family: str) -> list[int]:
    window = raw.get("sliding_window") or 0
    if not FAMILIES[family] or not raw.get("use_sliding_window", family == "mistral"):
        window = 0
    if kinds := raw.get("layer_types"):
        return [window if kind == "sliding_attention" else 0 for kind in kinds[:layers]]
    first = raw.get("max_window_layers", 0) if family.startswith("qwen") else 0
    return [window if layer >= first else 0 for layer in range(layers)]


def rope_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 has `rope_parameters`; before it was `rope_theta` and `rope_scaling`."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope.setdefault("rope_theta", raw.get("rope_theta") or 10000.0)
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    return rope


def rope_frequencies(rope: dict[str, Any], dim: int, positions: int) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (rotary / 2,) fp32 and the attention factor. Su et al. 2021; Peng et al. 2023 (YaRN); Llama 3's rule."""
    import torch

    theta, kind = float(rope["rope_theta"]), rope["rope_type"]
    rotary = int(dim * float(rope["partial_rotary_factor"]))
    base = 1.0 / theta ** (torch.arange(0, rotary, 2).float() / rotary)
    factor = float(rope.get("factor", 1.0))
    if kind == "default":
        return base, 1.0
    if kind == "linear":
        return base / factor, 1.0
    original = float(rope.get("original_max_position_embeddings") or positions)
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        turns = original * base / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        return base / factor * (1 - smooth) + base * smooth, 1.0
    if kind == "yarn":
        return yarn(rope, base, rotary, theta, factor, original)
    raise InvalidInput(
        "this scaling of positions is not known", received=kind, expected="default, linear, llama3 or yarn"
    )


def yarn(
    rope: dict[str, Any], base: torch.Tensor, rotary: int, theta: float, factor: float, original: float
) -> tuple[torch.Tensor, float]:
    import torch

    def place(turns: float) -> float:
        return rotary * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(float(rope.get("beta_fast") or 32)), place(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary - 1)
    ramp = ((torch.arange(rotary // 2).float() - low) / max(high - low, 1e-3)).clamp(0, 1)
    attention = rope.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return base / factor * ramp + base * (1 - ramp), float(attention)


def eos_token_ids(folder: Path) -> list[int]:
    """What ends an answer: of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name, required=False).get("eos_token_id")
        if found is not None:
            return [int(token) for token in (found if isinstance(found, list) else [found])]
    return []
