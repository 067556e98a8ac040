"""Convolutions for driving: batch norm in the weights, and what follows (a sum, a ReLU) in the same pass over memory.

On the CPU, where oneDNN is, weights lie as its kernels read them: plain convolutions put them so at every call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cvloc_ros.models.encoder import Residual


class FusedConvolution(nn.Module):
    """A convolution, what is added to it and a ReLU, without gradients; for inputs of one size."""

    def __init__(self, convolution: nn.Conv2d, *, relu: bool = False):
        super().__init__()
        self.convolution, self.relu = convolution, relu
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W); ``plus`` is of the result's shape."""
        c = self.convolution
        if x.device.type != "cpu" or not PACKS:
            y = c(x) if plus is None else c(x) + plus
            return y.relu_() if self.relu else y
        how = [list(c.padding), list(c.stride), list(c.dilation), c.groups]  # type: ignore[arg-type]
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(c.weight, *how, x.shape)
        after = "relu" if self.relu else None
        if plus is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self._packed, c.bias, *how, after or "none", [], None)
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, plus, self._packed, c.bias, *how, "add", None, after, [], None
        )


class _FusedResidual(nn.Module):
    def __init__(self, block: Residual):
        super().__init__()
        self.first = fuse(block.first)
        self.second = FusedConvolution(fuse_conv_bn_eval(*block.second), relu=True)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), plus=x)


def fuse(module: nn.Module) -> nn.Module:
    """Return a module with all its convolutions fused; it is changed itself, and in evaluation mode."""
    if isinstance(module, nn.Conv2d):
        return FusedConvolution(module)
    if isinstance(module, Residual):
        return _FusedResidual(module)
    for name, child in module.named_children():
        setattr(module, name, fuse(child))
    if not isinstance(module, nn.Sequential):
        return module
    steps: list[nn.Module] = []
    for step in module:
        before = steps[-1] if steps else None
        if isinstance(step, nn.BatchNorm2d) and isinstance(before, FusedConvolution):
            before.convolution = fuse_conv_bn_eval(before.convolution, step)
        elif isinstance(step, nn.ReLU) and isinstance(before, FusedConvolution):
            before.relu = True
        else:
            steps.append(step)
    return nn.Sequential(*steps) if len(steps) > 1 else steps[0]


PACKS = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
