"""From what the server was told to an engine that runs: model, tokenizer's grammar compiler, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .wire import EngineOptions

if TYPE_CHECKING:
    from .engine import Engine
    from .grammar import GrammarCompiler


def open_engine(options: EngineOptions) -> tuple[Engine, GrammarCompiler]:
    """Raises LeptonError if there is no such model or it cannot be served so."""
    from .engine import Engine, EngineConfig
    from .grammar import GrammarCompiler
    from .models import load_model, resolve_model
    from .tokenizer import load_tokenizer

    path = resolve_model(options.model)
    max_num_seqs = options.max_num_seqs or EngineConfig.max_num_seqs
    config = EngineConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens or EngineConfig.max_num_batched_tokens,
        max_waiting=options.max_queue or EngineConfig.max_waiting,
        num_speculative_tokens=options.num_speculative_tokens or 0,
        enable_prefix_caching=options.enable_prefix_caching,
    )
    runner = load_model(
        path, quantization=options.quantization, kv_cache_dtype=options.kv_cache_dtype or "auto", dtype=options.dtype or "auto",
        max_model_len=options.max_model_len, kv_cache_bytes=options.kv_cache_bytes, max_num_seqs=max_num_seqs,
    )  # fmt: skip
    tokenizer = load_tokenizer(path)
    info = runner.info
    compiler = GrammarCompiler(
        tokenizer.backend.to_str(), info.vocab_size, info.eos_token_ids or tokenizer.eos_token_ids
    )
    engine = Engine(runner, config, grammar=compiler)
    for name, folder in options.adapters.items():
        engine.load_adapter(name, Path(folder))
    return engine, compiler
