"""Multi-layer perceptron for tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .inputs import TableInputs
from .resize import Group


class MLP(nn.Module):
    """`forward(numbers, categories)` → logits (n, outputs), or standardised values (n,) for `outputs=1`.

    LayerNorm and not BatchNorm: a last batch of one row is a batch like any other.
    """

    def __init__(
        self,
        numbers: int,
        missing: Sequence[int],
        categories: Sequence[int],
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.1,
    ):
        super().__init__()
        self.inputs = TableInputs(numbers, missing, categories)
        layers: list[nn.Module] = []
        width = self.inputs.width
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LayerNorm(size), nn.SiLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)

    def set_statistics(self, center: Sequence[float], scale: Sequence[float]) -> None:
        self.inputs.set_statistics(center, scale)

    def forward(self, numbers: Tensor | None = None, categories: Tensor | None = None) -> Tensor:
        raw = self.head(self.layers(self.inputs(numbers, categories)))
        return raw.squeeze(1) if raw.shape[1] == 1 else raw

    def groups(self) -> list[Group]:
        """`hidden.<i>`: the units of layer i. A norm over them stays the same only if all are doubled alike."""
        linear = [number for number, module in enumerate(self.layers) if isinstance(module, nn.Linear)]
        names = [*(f"layers.{number}" for number in linear), "head"]
        return [
            Group(
                f"hidden.{i}",
                self.layers[n].out_features,
                (names[i], f"layers.{n + 1}"),
                ((names[i + 1], 1),),
                even=True,
            )
            for i, n in enumerate(linear)
        ]
