"""One seed, many streams. Owns every random number of a run: who draws from which stream, and how the state is kept.

State is plain data (a uint8 tensor and JSON), never a pickle: a checkpoint from a stranger can at worst be wrong, not run code.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

STREAMS = ("init", "order", "augment", "worker", "method")


def stream(seed: int, name: str, *keys: int) -> int:
    """A 63-bit seed for the stream `name` at `keys` (epoch, step): independent of every other stream and key."""
    entropy = [seed & (2**64 - 1), STREAMS.index(name), *keys]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), NumPy's and Python's global generators from one number."""
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@dataclass(frozen=True)
class RandomState:
    """The global generators at one moment. `torch`: CPU first, then one per CUDA device."""

    torch: tuple[torch.Tensor, ...]
    numpy: Sequence[Any]
    python: Sequence[Any]

    @classmethod
    def capture(cls) -> RandomState:
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        version, words, gauss_next = random.getstate()
        return cls(
            (torch.get_rng_state(), *devices),
            [name, keys.tolist(), position, has_gauss, gauss],
            [version, list(words), gauss_next],
        )

    def restore(self) -> None:
        torch.set_rng_state(self.torch[0])
        if len(self.torch) > 1:
            torch.cuda.set_rng_state_all(self.torch[1:])
        name, keys, position, has_gauss, gauss = self.numpy
        np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
        version, words, gauss_next = self.python
        random.setstate((version, tuple(words), gauss_next))
