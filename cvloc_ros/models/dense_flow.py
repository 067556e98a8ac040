"""dense_flow: the NeurIPS 2023 paper's localizer. A flow field from BEV to satellite; least squares make it a pose.

Song et al., "Learning Dense Flow Field for Highly-accurate Cross-view Camera Localization"; what the paper leaves
open is a field of `DenseFlowConfig`. Frames are those of `vote_flow`: a pose (x, y, yaw) is the vehicle's in the
patch's frame, metres and radians. The flow itself is in cells of the satellite features, (row, column), and counts
from where the start pose puts a cell, so that a right start means no flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.encoder import standardize
from cvloc_ros.models.raft import CorrelationPyramid, UpdateBlock, convex_upsample
from cvloc_ros.models.resnet_trunk import ResNetTrunk
from cvloc_ros.models.solver import place, solve_pose

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of RGB in [0, 1]


@dataclass
class DenseFlowOutput:
    """What the network says about a batch. R, C are the pixels of ``config.bev_pixels``, rows, cols the BEV's cells.

    Attributes:
        start: (B, 3) pose that the flow started from.
        seen: (B, R, C) bool: the camera sees the cell that the pixel is in.
        moved: per iteration, (B, R, C, 2) where each ground point was found, metres in the patch's frame; in
            evaluation only the last iteration's.
        confidences: likewise, (B, R, C) S of eq. 3, in [0, 1] and zero where unseen.
        weights: (B, R, C) the last confidence where the point was found on imagery, else zero.
        pose: (B, 3) by weighted least squares (eq. 3); the start where it was not solvable.
        solved: (B,) whether it was.
        bev: (B, D, rows, cols) descriptors of the ground cells.
        satellite: (B, D, S / stride, S / stride) descriptors of the patch.

    """

    start: Tensor
    seen: Tensor
    moved: list[Tensor]
    confidences: list[Tensor]
    weights: Tensor
    pose: Tensor
    solved: Tensor
    bev: Tensor
    satellite: Tensor


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


class DenseFlow(nn.Module):
    """The network: two trunks, the RefineBlock and the context encoder, the recurrent decoder."""

    # constants, registered as buffers: a tensor made in forward would be one more copy to the device
    cells: Tensor
    points: Tensor
    pixel_shift: Tensor
    colour: Tensor

    def __init__(self, config: DenseFlowConfig | None = None):
        super().__init__()
        self.config = c = config or DenseFlowConfig()
        width = c.trunk_widths[-1]
        self.ground = ResNetTrunk(c.trunk_widths, c.stride)
        self.satellite = ResNetTrunk(c.trunk_widths, c.stride)
        self.refine = RefineBlock(width, width, c.refine_blocks) if c.refine else nn.Identity()
        self.context = RefineBlock(width, 2 * c.hidden, c.refine_blocks)
        window = (2 * c.radius + 1) ** 2
        self.update = UpdateBlock(
            correlations=c.levels * window, hidden=c.hidden, factor=c.stride, confidence=c.confidence
        )
        # feature (i, j) lies at the pixel (stride i, stride j): see `ResNetTrunk`
        shift = ((c.stride - 1) / c.image_width, (c.stride - 1) / c.image_height)
        for name, value in (
            ("cells", c.bev.centres()),
            ("points", c.bev_pixels.centres()),
            ("pixel_shift", shift),
            ("colour", _IMAGENET),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def forward(
        self,
        image: Tensor,
        pixels: Tensor,
        visible: Tensor,
        patch: Tensor,
        coverage: Tensor,
        *,
        start: Tensor | None = None,
    ) -> DenseFlowOutput:
        """Match a batch of camera images with satellite patches.

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            pixels: (B, 1, n rows, n cols, 2) from `ground_pixels` on ``config.bev_samples``.
            visible: (B, 1, n rows, n cols) bool.
            patch: (B, 3, S, S) RGB in [0, 1], the prior's forward direction up.
            coverage: (B, 1, S, S) in [0, 1].
            start: (B, 3) pose to start the flow from; the identity if None.

        Raises:
            ValueError: a tensor of another size than the config's.

        """
        self._check(image, pixels, patch)
        bev, seen = self.encode_ground(image, pixels, visible)
        return self.decode(bev, seen, self.encode_satellite(patch, coverage), coverage, start=start)

    def encode_satellite(self, patch: Tensor, coverage: Tensor) -> Tensor:
        """Return the descriptors of a patch, (B, D, S / stride, S / stride), zero where there is no imagery."""
        features = self.satellite(self._normalize(patch))
        if self.config.refine_siamese:
            features = self.refine(features)
        return features * F.avg_pool2d(coverage, self.config.stride).to(features.dtype)

    def encode_ground(self, image: Tensor, pixels: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ground features on the BEV, (B, D, rows, cols), zero where unseen, and ``seen`` as a bool."""
        c = self.config
        features = self.ground(self._normalize(image))
        seen = visible[:, :1].to(features.dtype)
        share = F.avg_pool2d(seen, c.bev_samples_per_cell)
        if c.project:
            where = pixels[:, 0] + self.pixel_shift
            sampled = F.grid_sample(features.to(where.dtype), where, padding_mode="border", align_corners=False)
            bev = F.avg_pool2d(sampled * seen, c.bev_samples_per_cell) / share.clamp_min(1e-6)
        else:
            bev = F.interpolate(features, (c.bev_rows, c.bev_cols), mode="bilinear", align_corners=False)
        return bev.contiguous(memory_format=torch.channels_last), share >= 0.5

    def decode(
        self, bev: Tensor, seen: Tensor, satellite: Tensor, coverage: Tensor, *, start: Tensor | None = None
    ) -> DenseFlowOutput:
        """Find the flow and the pose.

        Args:
            bev: (B, D, rows, cols) from `encode_ground`.
            seen: (B, 1, rows, cols) bool, likewise.
            satellite: from `encode_satellite`.
            coverage: (B, 1, S, S) in [0, 1].
            start: as for `forward`.

        """
        c = self.config
        start = torch.zeros(len(bev), 3, device=bev.device) if start is None else start.float()
        descriptors = self.refine(bev)
        hidden, context = self.context(bev).split(c.hidden, dim=1)
        hidden, context = torch.tanh(hidden), F.relu(context)
        pyramid = CorrelationPyramid(descriptors, satellite, levels=c.levels, radius=c.radius)
        origin = self.to_cells(place(self.cells, start)).permute(0, 3, 1, 2)
        flow = torch.zeros_like(origin)
        placed = place(self.points, start)
        seen_points = _repeat(seen[:, 0], c.stride)

        moved, confidences = [], []
        for i in range(c.iterations):
            flow = flow.detach()
            hidden, change = self.update(hidden, context, pyramid.look_up(origin + flow), flow)
            flow = flow + change
            if c.hold_unseen:
                flow = flow * seen
            if self.training or i == c.iterations - 1:
                upsampled = convex_upsample(flow, self.update.upsampling(hidden), c.stride)
                # row and column count backward and right, x and y forward and left
                moved.append(placed - upsampled.permute(0, 2, 3, 1) * (c.stride * c.patch_cell))
                confidences.append(self._confidence(hidden) * seen_points)
        found = self._on_patch(moved[-1].detach())
        weights = confidences[-1] * F.grid_sample(coverage.float(), found, align_corners=False)[:, 0]
        source = self.points.expand_as(moved[-1]).flatten(1, 2)
        pose, solved = solve_pose(source, moved[-1].flatten(1, 2), weights.flatten(1))
        pose = torch.where(solved[:, None], pose, start)
        return DenseFlowOutput(start, seen_points, moved, confidences, weights, pose, solved, descriptors, satellite)

    def to_cells(self, points: Tensor) -> Tensor:
        """Map patch-frame points (..., 2) in metres to (row, column) of the satellite's features."""
        c = self.config
        return ((c.patch.y_max - points) / c.patch_cell - 0.5) / c.stride

    def _on_patch(self, points: Tensor) -> Tensor:
        """Map patch-frame points (..., 2) in metres to the coordinates of `grid_sample` on the patch."""
        return -points.flip(-1) / self.config.patch.y_max

    def _confidence(self, hidden: Tensor) -> Tensor:
        """Return S before visibility, (B, R, C)."""
        c = self.config
        if self.update.confidence is None:
            return hidden.new_ones(len(hidden), c.bev_rows * c.stride, c.bev_cols * c.stride, dtype=torch.float32)
        score = torch.sigmoid(self.update.confidence(hidden).float())
        return F.interpolate(score, scale_factor=c.stride, mode="bilinear", align_corners=False)[:, 0]

    def _normalize(self, image: Tensor) -> Tensor:
        if self.config.normalization == "image":
            return standardize(image)
        if self.config.normalization == "imagenet":
            mean, deviation = self.colour[:, :, None, None]
            image = (image - mean) / deviation
        return image.contiguous(memory_format=torch.channels_last)

    def _check(self, image: Tensor, pixels: Tensor, patch: Tensor) -> None:
        c = self.config
        samples = c.bev_samples
        for name, tensor, wanted in (
            ("an image", image, (3, c.image_height, c.image_width)),
            ("a patch", patch, (3, c.patch_size, c.patch_size)),
            ("ground pixels", pixels, (1, samples.rows, samples.cols, 2)),
        ):
            if tensor.shape[1:] != wanted:
                raise ValueError(f"expected {name} of shape (B, {str(wanted)[1:]}, got {tuple(tensor.shape)}")


def _repeat(cells: Tensor, factor: int) -> Tensor:
    """Give every fine cell the value of the cell (B, rows, cols) that it is in."""
    return cells.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
