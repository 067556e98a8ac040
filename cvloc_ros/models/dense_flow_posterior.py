"""A posterior for a flow that started from the identity: how well the patch's features fit the BEV's at any pose.

The paper has none: its answer is one pose. The correlation of every ground cell with every satellite cell, which the
flow looks into, says more: the mean similarity of the cells at a pose is that pose's score, as in a vote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput

LOCAL_SHIFTS, LOCAL_HEADINGS, LOCAL_HEADING_STEP = 5, 2, math.radians(1.0)  # to each side, in half cells and steps


@dataclass(frozen=True, eq=False)
class PoseGrid:
    """Poses around a centre: ``headings`` (K,) in radians, ``shifts`` (M,) in metres of both axes, falling."""

    headings: Tensor
    shifts: Tensor

    @classmethod
    def of_box(cls, network: DenseFlow) -> PoseGrid:
        """Return the whole search box, a BEV cell and a heading step apart."""
        c = network.config
        return cls._reaching(
            network,
            round(c.box_degrees / c.heading_step_degrees),
            math.radians(c.heading_step_degrees),
            math.ceil(c.box_metres / c.bev.cell),
            c.bev.cell,
        )

    @classmethod
    def around_a_pose(cls, network: DenseFlow) -> PoseGrid:
        """Return the neighbourhood of a pose, half a BEV cell and a degree apart."""
        half = network.config.bev.cell / 2
        return cls._reaching(network, LOCAL_HEADINGS, LOCAL_HEADING_STEP, LOCAL_SHIFTS, half)

    @classmethod
    def _reaching(cls, network, headings: int, heading_step: float, shifts: int, step: float) -> PoseGrid:
        device = network.cells.device
        return cls(
            heading_step * torch.arange(-headings, headings + 1, device=device),
            -step * torch.arange(-shifts, shifts + 1, device=device),
        )

    def poses(self, centre: Tensor) -> Tensor:
        """Return the poses (K, M, M, 3), shifted along the axes of the centre (3,)."""
        yaw, dx, dy = torch.meshgrid(self.headings, self.shifts, self.shifts, indexing="ij")
        c, s = torch.cos(centre[2]), torch.sin(centre[2])
        return torch.stack([centre[0] + c * dx - s * dy, centre[1] + s * dx + c * dy, centre[2] + yaw], dim=-1)

    def inside(self, box: tuple[float, float, float], centre: tuple[float, float, float]) -> Tensor:
        """Return which poses lie in a box about a centre, to half a step: (K, M, M).

        Args:
            box: half-widths in the axes of the centre: m forward, m left, rad.
            centre: x, y (m), yaw (rad) in the frame of the grid.

        """
        half_shift = float(self.shifts[0] - self.shifts[1]) / 2
        half_turn = float(self.headings[1] - self.headings[0]) / 2
        dx, dy = (self.shifts - centre[0])[:, None], (self.shifts - centre[1])[None, :]
        cos, sin = math.cos(centre[2]), math.sin(centre[2])
        forward = (cos * dx + sin * dy).abs() <= box[0] + half_shift
        left = (cos * dy - sin * dx).abs() <= box[1] + half_shift
        return ((self.headings - centre[2]).abs() <= box[2] + half_turn)[:, None, None] & (forward & left)[None]

    def cpu(self) -> PoseGrid:
        """Return it on the CPU."""
        return PoseGrid(self.headings.cpu(), self.shifts.cpu())

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the headings and the shifts as arrays."""
        return self.headings.cpu().numpy().astype(float), self.shifts.cpu().numpy().astype(float)


def pose_scores(network: DenseFlow, out: DenseFlowOutput, coverage: Tensor, poses: Tensor, cells: Tensor) -> Tensor:
    """Return the mean cosine similarity of the seen cells with what is under them at each pose; not under autocast.

    Args:
        network: that gave ``out``.
        out: of one sample.
        coverage: (1, 1, S, S) in [0, 1].
        poses: (..., 3).
        cells: (N,) flat indices of the cells that the camera sees.

    Returns:
        (...) in [-1, 1], each cell weighed by its confidence; 0 where less than a tenth of the weight falls on imagery.

    """
    stride = network.config.stride
    weight = F.avg_pool2d(out.confidences[-1][:, None], stride)[0, 0]
    bev = F.normalize(out.bev[0].float(), dim=0).flatten(1)[:, cells]
    satellite = F.normalize(out.satellite[0].float(), dim=0)
    side = satellite.shape[-1]
    covered = F.avg_pool2d(coverage[0].float(), coverage.shape[-1] // side).expand(bev.shape[1], -1, -1)
    volume = torch.stack([torch.einsum("cn,chw->nhw", bev, satellite), covered], dim=1)
    points = F.pad(network.cells.flatten(0, 1)[cells], (0, 1), value=1.0)
    where = (points @ _placing(network, poses.reshape(-1, 3), side)).unflatten(1, (-1, 1, 2))  # (N, P, 1, 2)
    similarity, covered = F.grid_sample(volume, where, align_corners=False)[..., 0].unbind(1)
    weights = weight.flatten()[cells].clamp_min(1e-3)  # where every cell is doubted, all count the same
    total = weights @ covered
    score = weights @ (similarity * covered) / total.clamp_min(1e-6)
    return (score * (total > 0.1 * weights.sum())).reshape(poses.shape[:-1])


def _placing(network: DenseFlow, poses: Tensor, side: int) -> Tensor:
    """Return what maps a vehicle-frame point (forward, left, 1) to where it lies in the patch's features at each pose.

    One product places all points at all poses; written out, each of them would be handled a dozen times.

    Args:
        network: see `pose_scores`.
        poses: (P, 3).
        side: of the features.

    Returns:
        (3, 2 P): of each pose, the coordinates that `grid_sample` takes.

    """
    c, s = torch.cos(poses[:, 2]), torch.sin(poses[:, 2])
    x, y = torch.stack([c, -s, poses[:, 0]]), torch.stack([s, c, poses[:, 1]])
    metres = torch.stack([y, x], dim=-1)  # columns count to the right, rows backward
    placed = (2 * network.to_features(metres, side) + 1) / side - 1
    nowhere = (2 * network.to_features(torch.zeros_like(metres[:2]), side) + 1) / side - 1
    return torch.cat([placed[:2] - nowhere, placed[2:]]).flatten(1)
