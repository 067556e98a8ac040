"""A side task for training: name what the ground is, in both views.

Matching alone teaches slowly that a lawn in spring and the same lawn under leaves are one thing: its only signal is
one pose a frame. The towns know what every cell of the ground is, so the satellite encoder and the BEV are also asked
for that, cell by cell, through heads that are thrown away after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.datasets.town.classes import CLASSES
from cvloc_ros.models.vote_flow import VoteFlow

PAINT_WEIGHT = 4.0  # paint is rare


class GroundNaming(nn.Module):
    """Heads on a network's features; it watches the network's forward passes through hooks."""

    def __init__(self, network: VoteFlow):
        super().__init__()
        half, quarter = network.config.encoder_widths[:2]
        self.at_half = nn.Conv2d(half, CLASSES + 2, 1)
        self.at_quarter = nn.Conv2d(quarter, CLASSES + 2, 1)
        self.on_bev = nn.Conv2d(network.config.bev_hidden, 4 * (CLASSES + 2), 1)
        self._seen: dict[str, Tensor] = {}
        network.satellite.register_forward_hook(self._watch_satellite)
        network.bev.body.register_forward_hook(self._watch_bev)

    def _watch_satellite(self, module, inputs, outputs) -> None:
        self._seen["half"], self._seen["quarter"] = outputs

    def _watch_bev(self, module, inputs, outputs) -> None:
        self._seen["bev"] = outputs

    def loss(self, patch_classes: Tensor, bev_classes: Tensor, coverage: Tensor, visible: Tensor) -> Tensor:
        """Return the loss (B,) of the last forward pass.

        Args:
            patch_classes: (B, 3, S/2, S/2) uint8 classes, paint and crowns.
            bev_classes: (B, 3, 2 rows, 2 cols) likewise.
            coverage: (B, 1, S, S).
            visible: (B, Z, 2 rows, 2 cols) bool, the ground first.

        """
        covered = F.max_pool2d(coverage, 2)[:, 0] > 0
        half = self.at_half(self._seen["half"].float())
        quarter = self.at_quarter(self._seen["quarter"].float())
        bev = F.pixel_shuffle(self.on_bev(self._seen["bev"].float()), 2)
        coarse = torch.cat([patch_classes[:, :1, ::2, ::2], F.max_pool2d(patch_classes[:, 1:].float(), 2).byte()], 1)
        return (
            _naming_loss(half, patch_classes, covered)
            + _naming_loss(quarter, coarse, covered[:, ::2, ::2])
            + 2 * _naming_loss(bev, bev_classes, visible[:, 0])
        )


def _naming_loss(logits: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
    """Return cross-entropy (B,) of the classes, the paint and the crowns, averaged over the cells that count."""
    share = counted.float() / counted.sum((1, 2), keepdim=True).clamp_min(1)
    named = F.cross_entropy(logits[:, :CLASSES], classes[:, 0].long(), reduction="none")
    weight = torch.tensor([PAINT_WEIGHT, 1.0], device=logits.device)[:, None, None]
    covered = F.binary_cross_entropy_with_logits(
        logits[:, CLASSES:], classes[:, 1:].float() / 255, pos_weight=weight, reduction="none"
    )
    return ((named + covered.sum(1)) * share).sum((1, 2))
