"""Convolutional network for images of one size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .inputs import ImageInputs

# The feature map before the dense layer is at most this wide and high, so that its weights do not grow with the image.
LAST_SIDE = 4


class CNN(nn.Module):
    """`forward(image)`: (n, height, width, channels) uint8 → logits (n, outputs).

    One block per width: convolution, a 2×2 max pool while the map is at least 4×4, batch norm, ReLU (as Jordan 2024, airbench).
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
    ):
        super().__init__()
        if min(height, width, channels) < 1 or kernel % 2 == 0:
            raise ValueError(
                f"an image of {height}×{width}×{channels} and an odd kernel are expected, not kernel {kernel}"
            )
        self.inputs = ImageInputs(channels)
        blocks: list[nn.Module] = []
        for size in widths:
            blocks.append(nn.Conv2d(channels, size, kernel, padding=kernel // 2, bias=False))
            if min(height, width) >= 4:
                # Before norm and ReLU, which then have a quarter of the work: 40 % less per step than behind them.
                blocks.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            blocks += [nn.BatchNorm2d(size), nn.ReLU()]
            channels = size
        if max(height, width) > LAST_SIDE:
            height, width = min(height, LAST_SIDE), min(width, LAST_SIDE)
            blocks.append(nn.AdaptiveAvgPool2d((height, width)))
        self.blocks = nn.Sequential(*blocks)
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
        return self.head(self.blocks(self.inputs(image)))
