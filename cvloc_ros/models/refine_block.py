"""The RefineBlock of dense_flow (eq. 2 of Song et al., NeurIPS 2023): from features on the ground to descriptors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm around a skip; the norm makes biases before it void."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = F.relu(F.instance_norm(self.conv1(x)))
        return F.relu(x + F.relu(F.instance_norm(self.conv2(y))))


class RefineBlock(nn.Module):
    """Features on the ground to descriptors or context (eq. 2): 7x7 for reach, residual blocks, 1x1 to mix."""

    def __init__(self, channels: int, outputs: int, blocks: int):
        super().__init__()
        self.reach = nn.Conv2d(channels, channels, 7, padding=3, bias=False)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.mix = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, outputs, H, W)."""
        return self.mix(self.blocks(F.relu(F.instance_norm(self.reach(x)))))
