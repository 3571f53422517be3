"""`load_model`: a path or a Hub name to a Runner, with the KV cache sized to this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import InvalidInput, LeptonError, NotFound, Unavailable

if TYPE_CHECKING:
    from ..engine import Runner

KV_SHARE, KV_MOST_BYTES = 0.4, 4 << 30
BLOCK = 32


def resolve_model(path_or_repo: str | Path) -> Path:
    """A folder or a GGUF file here, else a model of the Hub (fetched once). Raises NotFound."""
    path = Path(path_or_repo).expanduser()
    if path.exists():
        return path
    name = str(path_or_repo)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise NotFound(
            "there is no such model",
            received=name,
            fix="Give a folder with config.json, a .gguf file, or OWNER/NAME of the Hub",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]))
    except Exception as error:
        raise Unavailable(
            "the model could not be fetched",
            received=f"{name}: {error}",
            fix="Check the name, HF_ENDPOINT and the network",
        ) from error


def load_model(
    path_or_repo: str | Path,
    *,
    quantization: str | None = None,
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    max_model_len: int | None = None,
    kv_cache_bytes: int | None = None,
    max_num_seqs: int = 64,
    ops: str | None = None,
) -> Runner:
    """Load a causal language model.

    quantization: int8 or int4, at load; None keeps what is stored. dtype: auto, fp32 or bf16 (of weights that are floats).
    kv_cache_dtype: auto (bf16; fp32 with fp32 weights), bf16, fp32 or int8. kv_cache_bytes: default 40 % of the free memory, at most 4 GiB.
    ops: `cpu` or `ref`; None takes the fastest that runs here.
    """
    import torch

    from .. import ops as operations
    from .config import eos_token_ids, parse_config, read_json

    check_choice("quantization", quantization, (None, "int8", "int4"))
    check_choice("dtype", dtype, ("auto", "fp32", "bf16"))
    check_choice("kv_cache_dtype", kv_cache_dtype, ("auto", "fp32", "bf16", "int8"))
    path = resolve_model(path_or_repo)
    sizes = {"max_model_len": max_model_len, "kv_cache_bytes": kv_cache_bytes, "max_num_seqs": max_num_seqs}
    if path.is_file():
        from .gguf import open_gguf

        config, weights, eos = open_gguf(path)
    else:
        config, eos = parse_config(read_json(path / "config.json")), eos_token_ids(path)
        if config is None:
            from .fallback import load_fallback

            if quantization or kv_cache_dtype != "auto":
                raise InvalidInput(
                    "this family runs through transformers, unquantised",
                    received=quantization or kv_cache_dtype,
                    expected="none",
                )
            return load_fallback(path, eos, dtype, max_model_len, max_num_seqs)
        from .loader import SafetensorsWeights

        weights = SafetensorsWeights(path, config.quantization)
    from .decoder import DecoderRunner

    chosen = operations.select(ops)
    kind = {"auto": "fp32" if config.dtype == "float32" else "bf16"}.get(dtype, dtype)
    kv_kind = {"auto": kind}.get(kv_cache_dtype, kv_cache_dtype)
    blocks, positions = kv_size(chosen, config, kv_kind, **sizes)
    with torch.inference_mode():
        return DecoderRunner(
            chosen, config, weights, name=path.stem if path.is_file() else path.resolve().name, eos=eos, kind=kind,
            quantization=quantization, kv_kind=kv_kind, blocks=blocks, positions=positions,
        )  # fmt: skip


def check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        raise InvalidInput(f"{name} cannot be that", received=value, expected=", ".join(map(str, choices)))


def kv_size(
    ops: Any, config: Any, kind: str, *, max_model_len: int | None, kv_cache_bytes: int | None, max_num_seqs: int
) -> tuple[int, int]:
    """Blocks of the cache and longest sequence: what was asked, or as much as is useful and there is room for."""
    positions = min(config.positions, max_model_len or config.positions)
    if max_model_len is not None and not 1 <= max_model_len <= config.positions:
        raise InvalidInput(
            "max_model_len is not of this model", received=max_model_len, expected=f"1 to {config.positions}"
        )
    per_block = ops.KVCache.bytes_per_block(config.layers, config.kv_heads, config.dim, kind)
    room = kv_cache_bytes or min(int(available_bytes() * KV_SHARE), KV_MOST_BYTES)
    blocks = min(room // per_block, max_num_seqs * -(-positions // BLOCK))
    if blocks < 1 or (max_model_len and blocks * BLOCK < max_model_len):
        needed = per_block * -(-positions // BLOCK)
        raise InvalidInput(
            "the KV cache is too small for max_model_len", received=f"{room} bytes", expected=f"at least {needed} bytes"
        )
    return blocks, min(positions, blocks * BLOCK)


def available_bytes() -> int:
    """Memory that may still be used, by the system's own estimate."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (ValueError, OSError) as error:
            raise LeptonError("the free memory is not known here", fix="Give kv_cache_bytes") from error
