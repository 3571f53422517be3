"""ResNet-20 for CIFAR-10 (He et al. 2016, shortcuts A) as plain PyTorch: the network that ours and every peer of bench/serve.py run."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.widen = (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.widen:  # every second pixel, and zeros for the new channels
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.widen, self.widen))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """`x` (n, 3, 32, 32) float32 → logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def load(weights: str) -> nn.Module:
    """The network with the weights of a safetensors file ("": random ones, which cost as much), in eval mode, on one thread."""
    torch.set_num_threads(1)
    network = ResNet20()
    if weights:
        from safetensors.torch import load_file

        found = {name.removeprefix("module."): tensor for name, tensor in load_file(weights).items()}
        network.load_state_dict(found, strict=False)
    return network.eval()
