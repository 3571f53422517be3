"""What fine-tune jobs can choose from. The models are what the trainer takes; this plane does not look into a zoo."""

from __future__ import annotations

from typing import Any

from .call import Call

TRAINER = "nemo-automodel"
"""The id that the official client falls back to; here it means `lep train`."""


def supported_models(call: Call) -> list[dict[str, Any]]:
    return []


def trainers(call: Call) -> list[dict[str, Any]]:
    return [{"trainer_id": TRAINER, "is_default": True}]
