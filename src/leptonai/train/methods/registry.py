"""The part `method` of a recipe: one field per method. Adding one: a file with its options and hooks, and one line here."""

from __future__ import annotations

from ..fields import Part
from .adapt import Adapt
from .adapters import Adapter, Prefix, Prompt
from .adversarial import Adversarial
from .continual import Ewc, Replay
from .distill import Distill
from .lora import Ia3, Lora
from .method import Method
from .partial import LayerRates, Partial
from .prune import Prune
from .quantize import Quantize


class Methods(Part):
    """Every method that is named is applied, in this order."""

    adapt: Adapt | None = None
    prune: Prune | None = None
    partial: Partial | None = None
    layer_rates: LayerRates | None = None
    lora: Lora | None = None
    ia3: Ia3 | None = None
    adapter: Adapter | None = None
    prefix: Prefix | None = None
    prompt: Prompt | None = None
    replay: Replay | None = None
    ewc: Ewc | None = None
    distill: Distill | None = None
    adversarial: Adversarial | None = None
    quantize: Quantize | None = None

    def make(self) -> list[Method]:
        """New methods, one per training."""
        return [
            options.make()
            for options in (getattr(self, name) for name in type(self).model_fields)
            if options is not None
        ]
