"""Convolutional network for images of one size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .inputs import ImageInputs
from .resize import Group

# The feature map before the dense layer is at most this wide and high, so that its weights do not grow with the image.
LAST_SIDE = 4


class Residual(nn.Module):
    """ReLU(x + norm(convolution(x))) after a ReLU. The norm's weight begins at 0, so a new block changes nothing."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.norm(self.convolution(x)))


class CNN(nn.Module):
    """`forward(image)`: (n, height, width, channels) uint8 → logits (n, outputs).

    One block per width: convolution, a 2×2 max pool while the map is at least 4×4, batch norm, ReLU (as Jordan 2024, airbench).
    `residual`: how many residual blocks follow each of them; () for none.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        outputs: int,
        widths: Sequence[int] = (32, 64, 64),
        kernel: int = 3,
        dense: int = 128,
        dropout: float = 0.25,
        residual: Sequence[int] = (),
    ):
        super().__init__()
        if residual and (len(residual) != len(widths) or min(residual) < 0):
            raise ValueError(
                f"residual must be as long as widths ({len(widths)}), each at least 0, not {list(residual)}"
            )
        if min(height, width, channels) < 1 or kernel % 2 == 0:
            raise ValueError(
                f"an image of {height}×{width}×{channels} and an odd kernel are expected, not kernel {kernel}"
            )
        self.inputs = ImageInputs(channels)
        blocks: list[nn.Module] = []
        self._ends: list[int] = []
        for size in widths:
            blocks.append(nn.Conv2d(channels, size, kernel, padding=kernel // 2, bias=False))
            if min(height, width) >= 4:
                # Before norm and ReLU, which then have a quarter of the work: 40 % less per step than behind them.
                blocks.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            blocks += [nn.BatchNorm2d(size), nn.ReLU()]
            self._ends.append(len(blocks) - 1)
            channels = size
        if max(height, width) > LAST_SIDE:
            height, width = min(height, LAST_SIDE), min(width, LAST_SIDE)
            blocks.append(nn.AdaptiveAvgPool2d((height, width)))
        self.blocks = nn.Sequential(*blocks)
        if any(residual):
            pairs = zip(widths, residual, strict=True)
            self.residual = nn.ModuleList(nn.Sequential(*(Residual(c, kernel) for _ in range(n))) for c, n in pairs)
        self._cells = height * width
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * height * width, dense),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dense, outputs),
        )

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.inputs.set_statistics(mean, std)

    def forward(self, image: Tensor) -> Tensor:
        x = self.inputs(image)
        if not hasattr(self, "residual"):
            return self.head(self.blocks(x))
        deeper = dict(zip(self._ends, self.residual, strict=True))
        for number, module in enumerate(self.blocks):
            x = module(x)
            if number in deeper:
                x = deeper[number](x)
        return self.head(x)

    def groups(self) -> list[Group]:
        """`widths.<i>`: the channels of block i; `dense`: the units before the outputs."""
        found: list[Group] = []
        starts = [number for number, module in enumerate(self.blocks) if isinstance(module, nn.Conv2d)]
        for stage, (start, end) in enumerate(zip(starts, self._ends, strict=True)):
            inner = (
                [f"residual.{stage}.{n}" for n in range(len(self.residual[stage]))] if hasattr(self, "residual") else []
            )
            convolutions = [f"{name}.convolution" for name in inner]
            after = [(f"blocks.{starts[stage + 1]}", 1)] if stage + 1 < len(starts) else [("head.1", self._cells)]
            out = [f"blocks.{start}", f"blocks.{end - 1}", *convolutions, *(f"{name}.norm" for name in inner)]
            into = [*after, *((name, 1) for name in convolutions)]
            found.append(Group(f"widths.{stage}", self.blocks[start].out_channels, tuple(out), tuple(into)))
        return [*found, Group("dense", self.head[1].out_features, ("head.1",), (("head.4", 1),))]

    def deepened(self) -> list[dict[str, object]]:
        """Options of networks that are one residual block deeper and compute the same."""
        stages = len(self._ends)
        now = [len(self.residual[i]) if hasattr(self, "residual") else 0 for i in range(stages)]
        return [{"residual": [n + (i == stage) for i, n in enumerate(now)]} for stage in range(stages)]
