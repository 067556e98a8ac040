"""Batch normalization over the samples of all processes, so that a step does not depend on how they share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedBatchNorm(nn.BatchNorm2d):
    """As `torch.nn.SyncBatchNorm`, which knows GPUs only. All processes have as many samples.

    It is for one process too: on a CPU, channels last, torch's own sums up one number after the other, and normalized
    features are off by a thousandth. Alone, of half precision, which rounds more than that, it takes torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        if not self.training or (_processes() == 1 and input.dtype != torch.float32):
            return super().forward(input)
        output, mean, variance = _Normalize.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            n = _processes() * input.numel() / input.shape[1]
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * (n / (n - 1)), momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return output


class _Normalize(torch.autograd.Function):
    """Normalizes (B, C, H, W); gives also the mean and variance (C,) over all processes, which have no gradient.

    Its own gradient is that of batch normalization (Ioffe and Szegedy, 2015, section 3); those of weight and bias are
    of this process's samples: what averages gradients over processes averages these too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x)
        count = _processes() * len(rows)
        mean = _of_all(rows.sum(0, dtype=torch.float32)) / count
        variance = _of_all((rows - mean).square().sum(0)) / count
        output, *_ = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        ctx.count = count
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        centred, gradient = (_rows(x) - mean) * scale, _rows(gradients[0]).float()
        sums = torch.stack([gradient.sum(0), (gradient * centred).sum(0)])
        mine = sums.clone()
        shared, along = _of_all(sums) / ctx.count
        back = (gradient - shared - centred * along) * (weight * scale)
        b, _, height, width = x.shape
        return back.to(x.dtype).view(b, height, width, -1).permute(0, 3, 1, 2), mine[1], mine[0], None


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, H, W) as (B H W, C): a view, if channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _of_all(sums: Tensor) -> Tensor:
    """Add up what all processes have, in place."""
    if _processes() > 1:
        dist.all_reduce(sums)
    return sums


def synchronize(module: nn.Module, *, gpu: bool) -> Any:
    """Return the module with its batch normalizations over all processes; names of weights stay."""
    if gpu:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module) if _processes() > 1 else module
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and child.weight.requires_grad:  # frozen ones only apply what they know
                synced = SyncedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
                synced.load_state_dict(child.state_dict())
                setattr(parent, name, synced)
    return module
