"""The image trunk of dense_flow: the first half of a ResNet-18 under torchvision's names, and a third layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a skip (He et al., "Deep Residual Learning", CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.downsample(x) + self.bn2(self.conv2(y)))


class ResNetTrunk(nn.Module):
    """Image (B, 3, H, W) to features (B, widths[3], H / stride, W / stride).

    The centre of feature (i, j) is the pixel (stride i, stride j): every stage has odd, centred kernels.

    Args:
        widths: channels of the stem and of three layers of two blocks each; (64, 64, 128, 256) is a ResNet-18.
        stride: 4 or 8; the second layer has what the stem leaves of it, the third has none.

    """

    def __init__(self, widths: tuple[int, int, int, int], stride: int):
        super().__init__()
        stem, w1, w2, w3 = widths
        self.stride = stride
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = nn.Sequential(BasicBlock(stem, w1), BasicBlock(w1, w1))
        self.layer2 = nn.Sequential(BasicBlock(w1, w2, stride // 4), BasicBlock(w2, w2))
        self.layer3 = nn.Sequential(BasicBlock(w2, w3), BasicBlock(w3, w3))

    def forward(self, image: Tensor) -> Tensor:
        """Return the features."""
        if image.shape[-1] % self.stride or image.shape[-2] % self.stride:
            raise ValueError(f"expected image sides that divide by {self.stride}, got {tuple(image.shape[-2:])}")
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.layer3(self.layer2(self.layer1(x)))
