"""What dense_flow sees: the features of camera image and patch, learned with its flow or lent by a trained vote."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.encoder import standardize
from cvloc_ros.models.resnet_trunk import ResNetTrunk
from cvloc_ros.models.vote_flow_types import Block, BoxMask, GroundFeatures, PatchFeatures, VoteFlowOutput
from cvloc_ros.models.vote_network import Votes

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of RGB in [0, 1]


class Patch(NamedTuple):
    """What is known of a satellite patch: it serves every image that is sought on it.

    Attributes:
        features: (B, D, n, n) on the whole patch, zero where there is no imagery.
        coverage: (B, 1, S, S) in [0, 1], the share of imagery.
        vote: what a vote knows of it, if there is one.

    """

    features: Tensor
    coverage: Tensor
    vote: PatchFeatures | None = None


class Ground(NamedTuple):
    """What is known of the ground that a camera sees, on the BEV's cells.

    Attributes:
        bev: (B, channels, rows, cols) features.
        seen: (B, 1, rows, cols) bool: the camera sees the cell; of the trunks most of it, of a vote some of it.
        descriptors: (B, D, rows, cols) what the encoders themselves match cells by.
        vote: what a vote knows of it, if there is one.

    """

    bev: Tensor
    seen: Tensor
    descriptors: Tensor
    vote: GroundFeatures | None = None


class TrunkEncoders(nn.Module):
    """Two ResNets, one for the camera and one for the satellite; between the first and the BEV eq. 1 of the paper."""

    pixel_shift: Tensor
    colour: Tensor
    middles: Tensor

    def __init__(self, config: DenseFlowConfig):
        super().__init__()
        self.config = c = config
        self.bev_channels = self.descriptor_channels = c.trunk_widths[-1]
        self.ground_trunk = ResNetTrunk(c.trunk_widths, c.stride)
        self.satellite_trunk = ResNetTrunk(c.trunk_widths, c.stride)
        # feature (i, j) lies at the pixel (stride i, stride j): see `ResNetTrunk`
        shift = ((c.stride - 1) / c.image_width, (c.stride - 1) / c.image_height)
        self.register_buffer("pixel_shift", torch.tensor(shift, dtype=torch.float32), persistent=False)
        self.register_buffer("colour", torch.tensor(_IMAGENET, dtype=torch.float32), persistent=False)
        # and of an image on the ground at the first sample of each cell: where among these the cells' middles lie
        rows, cols = (
            2 * (np.arange(n) + (c.stride - 1) / (2 * c.stride)) / n + 1 / n - 1 for n in (c.bev_rows, c.bev_cols)
        )
        middles = np.stack(np.meshgrid(cols, rows), axis=-1)[None]
        self.register_buffer("middles", torch.tensor(middles, dtype=torch.float32), persistent=False)

    def first_pixel(self, step: int) -> float:
        """Return on which pixel the first of features that are ``step`` pixels apart is centred: see `ResNetTrunk`."""
        return 0.0

    def satellite(self, patch: Tensor, coverage: Tensor) -> Patch:
        """Describe a patch, (B, 3, S, S) in [0, 1]."""
        features = self.satellite_trunk(self._normalize(patch))
        return Patch(features * F.avg_pool2d(coverage, self.config.stride).to(features.dtype), coverage)

    def ground(self, image: Tensor, pixels: Tensor, visible: Tensor) -> Ground:
        """Describe the ground; the arguments are those of `DenseFlow.forward`."""
        c = self.config
        image = self._normalize(image)
        if c.bev_of == "image":
            bev = self._describe_projected(image, pixels[:, 0], visible[:, :1])
            return Ground(bev, self.seen(visible), bev)
        features = self.ground_trunk(image)
        mask = visible[:, :1].to(features.dtype)
        share = F.avg_pool2d(mask, c.bev_samples_per_cell)
        if c.project:
            where = pixels[:, 0] + self.pixel_shift
            sampled = F.grid_sample(features.to(where.dtype), where, padding_mode="border", align_corners=False)
            bev = F.avg_pool2d(sampled * mask, c.bev_samples_per_cell) / share.clamp_min(1e-6)
        else:
            bev = stretched(features, c)
        # as the patch's features are: what is compiled for these serves both
        bev = bev.to(features.dtype, memory_format=torch.channels_last)
        return Ground(bev, self.seen(visible), bev)

    def _describe_projected(self, image: Tensor, where: Tensor, visible: Tensor) -> Tensor:
        """Describe the cells by what the trunk makes of an image that is laid out on the ground.

        Between the trunk's features, which lie on each cell's first sample, those of its middle are interpolated; there
        are none beyond the last row and column, whose cells take those.

        Args:
            image: (B, 3, H, W) normalized.
            where: (B, R, C, 2) normalized image coordinates of the BEV's samples, ``stride`` along a cell's side.
            visible: (B, 1, R, C) bool.

        Returns:
            (B, channels, rows, cols).

        """
        ground = F.grid_sample(image, where, padding_mode="border", align_corners=False) * visible
        features = self.ground_trunk(ground.contiguous(memory_format=torch.channels_last))
        middles = self.middles.expand(len(features), -1, -1, -1)
        bev = F.grid_sample(features.float(), middles, padding_mode="border", align_corners=False)
        return bev.to(features.dtype, memory_format=torch.channels_last)  # as in `ground`

    def seen(self, visible: Tensor) -> Tensor:
        """Return the cells (B, 1, rows, cols) that a camera sees most of, from ``visible`` (B, Z, n rows, n cols)."""
        return F.avg_pool2d(visible[:, :1].float(), self.config.bev_samples_per_cell) >= 0.5

    def _normalize(self, image: Tensor) -> Tensor:
        if self.config.normalization == "image":
            return standardize(image)
        if self.config.normalization == "imagenet":
            mean, deviation = self.colour[:, :, None, None]
            image = (image - mean) / deviation
        return image.contiguous(memory_format=torch.channels_last)


class VoteEncoders(nn.Module):
    """The encoders of a `VoteFlow`, with its columns over the ground; they stay as they are."""

    def __init__(self, config: DenseFlowConfig):
        super().__init__()
        self.config = config
        self.vote = Votes(config.vote).eval().requires_grad_(False)
        vote = self.vote.config
        self.bev_channels = vote.bev_hidden if config.project else vote.encoder_widths[1]
        self.descriptor_channels = vote.fine_channels

    def train(self, mode: bool = True) -> VoteEncoders:
        """Stay in evaluation: batch norms are not to learn either."""
        return super().train(False)

    def first_pixel(self, step: int) -> float:
        """Return on which pixel the first of features that are ``step`` pixels apart is centred, as votes take it."""
        return (step - 1) / 2

    @torch.no_grad()
    def satellite(self, patch: Tensor, coverage: Tensor) -> Patch:
        """Describe a patch, (B, 3, S, S), as the second vote does; in whole cells if all of it is to be seen."""
        features = self.vote.encode_satellite(patch, coverage)
        fine = features.fine[:, :-1]
        fine = fine if self.config.reach else F.avg_pool2d(fine, 2)
        return Patch(fine * self.descriptor_channels**0.5, coverage, features)

    @torch.no_grad()
    def ground(self, image: Tensor, pixels: Tensor, visible: Tensor) -> Ground:
        """Describe the ground; the arguments are those of `DenseFlow.forward`."""
        half, quarter = self.vote.ground(image)
        ground = GroundFeatures(*self.vote.bev(half, quarter, pixels, visible))
        bev = ground.hidden if self.config.project else stretched(quarter, self.config)
        # entries of about one, as the correlation of RAFT expects them
        return Ground(bev.float(), self.seen(visible), ground.fine * self.descriptor_channels**0.5, ground)

    def seen(self, visible: Tensor) -> Tensor:
        """Return the cells (B, 1, rows, cols) that a camera sees some of, from ``visible`` (B, Z, n rows, n cols)."""
        return F.max_pool2d(visible[:, :1].float(), self.config.bev_samples_per_cell) > 0

    @torch.no_grad()
    def hold_vote(self, ground: Ground, patch: Patch, block: Block | BoxMask | None) -> VoteFlowOutput:
        """Hold both votes, of what `ground` and `satellite` gave; see `Votes.vote`."""
        assert ground.vote and patch.vote
        return self.vote.vote(ground.vote, patch.vote, block=block)


def stretched(features: Tensor, config: DenseFlowConfig) -> Tensor:
    """Return image features (B, C, h, w) stretched over the BEV, whatever the camera's geometry (Table 5)."""
    return F.interpolate(features, (config.bev_rows, config.bev_cols), mode="bilinear", align_corners=False)
