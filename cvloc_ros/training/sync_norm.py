"""Batch normalization over the samples of all processes, so that a step does not depend on how they share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.BatchNorm2d):
    """As `torch.nn.SyncBatchNorm`, which knows GPUs only. All processes have as many samples."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        world = dist.get_world_size()
        mean = all_reduce(x.mean((0, 2, 3))) / world
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().mean((0, 2, 3))) / world
        with torch.no_grad():
            n = world * x.numel() / x.shape[1]
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * (n / (n - 1)), momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def synchronize(module: nn.Module, *, gpu: bool) -> Any:
    """Return the module with its batch normalizations over all processes; names of weights stay."""
    if gpu:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and child.weight.requires_grad:  # frozen ones only apply what they know
                synced = SyncedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
                synced.load_state_dict(child.state_dict())
                setattr(parent, name, synced)
    return module
