"""Any other causal language model, run by `transformers`: correct before fast.

Every sequence has transformers' own cache and is a forward pass of its own; the block pool only counts. No prefix cache, no adapters.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import torch

from ...base.errors import InvalidInput, Missing
from ..backend import ModelInfo
from ..kvcache import blocks_for
from ..ops import ref
from ..scheduler import Row
from ..sequence import Sequence

TORCH_TYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}


def load_fallback(
    folder: Path, eos: list[int], dtype: str, max_model_len: int | None, max_num_seqs: int
) -> TransformersRunner:
    """Raises InvalidInput where transformers does not know the model either. Code of the model's own is never run."""
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise Missing("transformers", "llm") from error
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=TORCH_TYPES[dtype], trust_remote_code=False, use_safetensors=True
        )
    except (ValueError, OSError, KeyError, ImportError) as error:
        fix = "Serve a causal language model with safetensors weights that needs no code of its own"
        raise InvalidInput("transformers cannot load this model", received=str(error), fix=fix) from error
    return TransformersRunner(model.eval(), folder.resolve().name, eos, max_model_len, max_num_seqs)


class TransformersRunner:
    ops = ref

    def __init__(self, model: Any, name: str, eos: list[int], max_model_len: int | None, max_num_seqs: int):
        self.model = model
        config = model.config.get_text_config()
        longest = next(
            (
                int(value)
                for key in ("max_position_embeddings", "n_positions", "max_sequence_length")
                if (value := getattr(config, key, None))
            ),
            2048,
        )
        if max_model_len is not None and not 1 <= max_model_len <= longest:
            raise InvalidInput("max_model_len is not of this model", received=max_model_len, expected=f"1 to {longest}")
        positions = min(longest, max_model_len or longest)
        self.blocks = max_num_seqs * blocks_for(positions)
        self.caches: dict[str, Any] = {}
        self.adapters: dict[str, Any] = {}
        vocab = model.get_output_embeddings().weight.shape[0]
        dtype = {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(model.dtype, str(model.dtype))
        features = frozenset({"logprobs"})
        self.info = ModelInfo(
            name=name, vocab_size=vocab, max_model_len=positions, eos_token_ids=eos, dtype=dtype, features=features
        )

    def run(self, rows: Seq[Row]) -> torch.Tensor:
        """The states of this runner are logits already: what lies between is the model's own."""
        return torch.cat([self.forward(row) for row in rows])

    def forward(self, row: Row) -> torch.Tensor:
        cache = self.cache(row)
        positions = torch.arange(row.start, row.context)
        found = self.model(
            input_ids=torch.tensor([row.tokens]), position_ids=positions.unsqueeze(0), past_key_values=cache, use_cache=True,
            attention_mask=torch.ones(1, row.context, dtype=torch.long), logits_to_keep=max(row.wanted, 1),
        )  # fmt: skip
        self.caches[row.sequence.id] = cache
        return found.logits[0].float()[max(row.wanted, 1) - row.wanted :]

    def cache(self, row: Row) -> Any:
        """Keys and values of exactly the tokens before this row. A preempted sequence begins anew; refused drafts are cut off."""
        from transformers import DynamicCache

        cache = self.caches.get(row.sequence.id)
        if row.start == 0 or cache is None:
            return DynamicCache(config=self.model.config)
        if (extra := cache.get_seq_length() - row.start) > 0:
            cache.crop(-extra)
        return cache

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return states

    def release(self, sequence: Sequence) -> None:
        self.caches.pop(sequence.id, None)

    def load_adapter(self, name: str, path: Path) -> None:
        raise InvalidInput("this family runs through transformers, without adapters", received=name)

    def unload_adapter(self, name: str) -> None:
        raise InvalidInput("this family runs through transformers, without adapters", received=name)
