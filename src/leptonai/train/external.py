"""A model whose network Lepton cannot build by itself, as a model folder: weights, metrics and lineage. Its author's code builds it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..zoo.files import write_model
from ..zoo.manifest import Manifest
from ..zoo.store import ModelEntry, ModelStore

if TYPE_CHECKING:
    from .run import Run


def publish_external(
    run: Run, model: torch.nn.Module, name: str, tags: Sequence[str], metrics: Mapping[str, float]
) -> ModelEntry:
    kind = type(model)
    config = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    # bfloat16 has no numpy type; as float32 its values are the same.
    tensors = {
        key: (value.float() if value.dtype is torch.bfloat16 else value).detach().cpu().contiguous().numpy()
        for key, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    lineage = {"run": run.id, **run.record.data["lineage"]}
    manifest = Manifest(
        task="external", network={"kind": "external", "config": config}, metrics=dict(metrics), lineage=lineage
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(folder, manifest, tensors)
        return ModelStore(run.home).push(folder, name, tags)
