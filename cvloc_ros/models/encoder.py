"""The image encoder of the compact matcher: a small U-Net with features at a half and a quarter of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = conv_bn(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return F.relu(x + self.second(self.first(x)))


class Encoder(nn.Module):
    """Image (B, 3, H, W) to features at H/2 (B, widths[0], …) and H/4 (B, widths[1], …). H and W divide by 16."""

    def __init__(self, widths: tuple[int, int, int, int]):
        super().__init__()
        w2, w4, w8, w16 = widths
        self.down2 = nn.Sequential(conv_bn(3, w2, stride=2), conv_bn(w2, w2))
        self.down4 = nn.Sequential(conv_bn(w2, w4, stride=2), Residual(w4))
        self.down8 = nn.Sequential(conv_bn(w4, w8, stride=2), Residual(w8), Residual(w8))
        self.down16 = nn.Sequential(conv_bn(w8, w16, stride=2), Residual(w16), Residual(w16), Residual(w16))
        self.up8 = nn.Conv2d(w16, w8, 1)
        self.merge8 = conv_bn(w8, w8)
        self.up4 = nn.Conv2d(w8, w4, 1)
        self.merge4 = conv_bn(w4, w4)
        self.up2 = nn.Conv2d(w4, w2, 1)
        self.merge2 = conv_bn(w2, w2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features at half and at quarter resolution."""
        return self.features(standardize(image))

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Likewise, of an image that has been standardized."""
        if image.shape[-1] % 16 or image.shape[-2] % 16:
            raise ValueError(f"expected image sides that divide by 16, got {tuple(image.shape[-2:])}")
        x2 = self.down2(image)
        x4 = self.down4(x2)
        x8 = self.down8(x4)
        x16 = self.down16(x8)
        y8 = self.merge8(x8 + _double(self.up8(x16)))
        y4 = self.merge4(x4 + _double(self.up4(y8)))
        y2 = self.merge2(x2 + _double(self.up2(y4)))
        return y2, y4


def standardize(image: Tensor) -> Tensor:
    """Give every image and channel zero mean and unit deviation: exposure and white balance carry no place."""
    mean = image.mean(dim=(-2, -1), keepdim=True)
    deviation = image.std(dim=(-2, -1), keepdim=True)
    return ((image - mean) / (deviation + 1e-3)).contiguous(memory_format=torch.channels_last)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
