"""First layers: what a task encodes becomes standardised tensors. Statistics are buffers, so that they are saved with the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# RealMLP's squash (Holzmüller et al. 2024, section 3): linear near 0, never beyond ±3.
CLIP = 3.0


class TableInputs(nn.Module):
    """Numbers, standardised, and category codes, embedded, to one vector per row: (n, `width`) float32.

    `missing`: which numbers get an indicator of their absence; a missing number itself becomes the median, 0.
    """

    center: Tensor
    scale: Tensor
    absent: Tensor

    def __init__(self, numbers: int, missing: Sequence[int], categories: Sequence[int]):
        super().__init__()
        # float64: a timestamp or an amount of money has more digits than float32 holds.
        self.register_buffer("center", torch.zeros(numbers, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(numbers, dtype=torch.float64))
        self.register_buffer("absent", torch.tensor(list(missing), dtype=torch.int64))
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedding_width(size)) for size in categories)
        for embedding in self.embeddings:
            # Missing and unknown values may be absent from training: then they add nothing, rather than noise.
            nn.init.zeros_(embedding.weight[:2].detach())
        self.width = numbers + len(missing) + sum(embedding.embedding_dim for embedding in self.embeddings)

    def set_statistics(self, center: Sequence[float], scale: Sequence[float]) -> None:
        self.center.copy_(torch.tensor(list(center), dtype=torch.float64))
        self.scale.copy_(torch.tensor(list(scale), dtype=torch.float64))

    def forward(self, numbers: Tensor | None = None, categories: Tensor | None = None) -> Tensor:
        parts = []
        if numbers is not None:
            missing = numbers.isnan()
            # The bound keeps the square below from overflowing, which would turn the largest numbers into 0.
            z = ((numbers - self.center) / self.scale).masked_fill(missing, 0.0).clamp(-1e6, 1e6)
            parts.append((z / (1 + (z / CLIP) ** 2).sqrt()).float())
            if len(self.absent):
                parts.append(missing[:, self.absent].float())
        if categories is not None:
            parts += [embedding(categories[:, number]) for number, embedding in enumerate(self.embeddings)]
        return torch.cat(parts, dim=1)


class ImageInputs(nn.Module):
    """uint8 (n, height, width, channels) to standardised float32 (n, channels, height, width), channels last in memory."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Per channel, in units of pixels (0…255)."""
        self.mean.copy_(torch.tensor(list(mean)))
        self.std.copy_(torch.tensor(list(std)))

    def forward(self, image: Tensor) -> Tensor:
        # NHWC seen as NCHW is channels_last without a copy, which convolutions on CPUs are fastest with.
        return ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def embedding_width(size: int) -> int:
    """Grows slowly with the number of values (fastai's rule), at most 32."""
    return min(32, max(2, round(1.6 * size**0.56)))
