"""LoRA adapters in PEFT's layout (adapter_config.json + adapter_model.safetensors) as what the kernels add: Hu et al. 2021."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..base.errors import Corrupt, InvalidInput
from .models.config import read_json
from .ops.layout import Adapter, LoraModule

if TYPE_CHECKING:
    from .models.config import ModelConfig

KEY = re.compile(
    r"(?:base_model\.model\.)?model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+_proj)\.lora_([AB])\.(?:default\.)?weight"
)


def load_lora(folder: Path, config: ModelConfig) -> Adapter:
    """Read a PEFT folder for this model. Raises InvalidInput for what is not a plain LoRA of its layers, Corrupt for a broken file."""
    settings = read_json(folder / "adapter_config.json")
    check_settings(settings)
    halves: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for key, tensor in read_tensors(folder / "adapter_model.safetensors").items():
        match = KEY.fullmatch(key)
        if not match or int(match[1]) >= config.layers or match[2] not in places(config):
            fix = "Train it on this model's linear layers (q, k, v, o, gate, up, down)"
            raise InvalidInput("the adapter has a tensor that does not belong to this model", received=key, fix=fix)
        halves.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor.float()
    adapter: list[dict[str, list[LoraModule]]] = [{} for _ in range(config.layers)]
    for (layer, module), pair in sorted(halves.items()):
        linear, column, n, k = places(config)[module]
        if (
            set(pair) != {"A", "B"}
            or pair["A"].shape[-1] != k
            or pair["B"].shape[0] != n
            or pair["A"].shape[0] != pair["B"].shape[1]
        ):
            shapes = {name: tuple(half.shape) for name, half in pair.items()}
            raise InvalidInput(
                f"{module} of layer {layer} does not fit", received=shapes, expected=f"A (rank, {k}), B ({n}, rank)"
            )
        scale = scaling(
            settings,
            f"model.layers.{layer}.{'mlp' if linear in ('gate_up', 'down') else 'self_attn'}.{module}",
            len(pair["A"]),
        )
        adapter[layer].setdefault(linear, []).append(LoraModule(pair["A"], pair["B"], scale, column))
    return adapter


def places(config: ModelConfig) -> dict[str, tuple[str, int, int, int]]:
    """Module -> (merged linear, first column in it, n, k)."""
    query, key = config.heads * config.dim, config.kv_heads * config.dim
    return {
        "q_proj": ("qkv", 0, query, config.hidden),
        "k_proj": ("qkv", query, key, config.hidden),
        "v_proj": ("qkv", query + key, key, config.hidden),
        "o_proj": ("o", 0, config.hidden, query),
        "gate_proj": ("gate_up", 0, config.ffn, config.hidden),
        "up_proj": ("gate_up", config.ffn, config.ffn, config.hidden),
        "down_proj": ("down", 0, config.hidden, config.ffn),
    }


def check_settings(settings: dict[str, Any]) -> None:
    unread = {
        "peft_type": settings.get("peft_type", "LORA") != "LORA",
        "use_dora": bool(settings.get("use_dora")),
        "bias": settings.get("bias", "none") != "none",
        "modules_to_save": bool(settings.get("modules_to_save")),
    }
    wrong = [name for name, is_so in unread.items() if is_so]
    if wrong:
        raise InvalidInput(
            "this adapter is more than a LoRA",
            received={name: settings.get(name) for name in wrong},
            expected="plain LoRA",
        )


def scaling(settings: dict[str, Any], module: str, rank: int) -> float:
    """alpha / rank (or / sqrt(rank)), with PEFT's patterns: a pattern is the end of a module's name, whole words."""

    def of(pattern: str, default: float) -> float:
        found = [
            value
            for key, value in (settings.get(pattern) or {}).items()
            if f".{module}".endswith(f".{key.lstrip('^').rstrip('$')}")
        ]
        return float(found[0]) if found else default

    alpha = of("alpha_pattern", float(settings.get("lora_alpha", rank)))
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InvalidInput("the adapter has no weights", received=str(path), expected="adapter_model.safetensors")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Corrupt("the adapter's weights cannot be read", received=str(error)) from error
