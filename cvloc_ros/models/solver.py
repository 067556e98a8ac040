"""The rigid motion that best explains weighted matches, in closed form; and how the ground is tilted under them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def solve_pose(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Solve ``target = R(yaw) source + t`` in the weighted least-squares sense.

    The closed form of the two-dimensional orthogonal Procrustes problem (NeurIPS 2023 dense-flow paper, eq. 3, with
    centroids weighted by the same weights): ``yaw = atan2(sum S (x' y^ - y' x^), sum S (x' x^ + y' y^))`` on centred
    points. It is differentiable, its determinant is always +1 and it has no smallest angle.

    Args:
        source: (B, N, 2) points in the vehicle's frame.
        target: (B, N, 2) the same points in the patch's frame.
        weights: (B, N) non-negative.

    Returns:
        (B, 3) x, y, yaw of the vehicle in the patch's frame, and a (B,) mask of the solvable. A problem with fewer
        than two effective points or no spread is not: its pose is the identity, never NaN.

    """
    total = weights.sum(-1)
    effective = total.square() / weights.square().sum(-1).clamp_min(1e-12)
    share = weights / total.clamp_min(1e-9)[:, None]
    source_mean = (share[..., None] * source).sum(1)
    target_mean = (share[..., None] * target).sum(1)
    p, q = source - source_mean[:, None], target - target_mean[:, None]
    sine = (share * (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0])).sum(-1)
    cosine = (share * (p[..., 0] * q[..., 0] + p[..., 1] * q[..., 1])).sum(-1)
    solvable = (total > 1e-6) & (effective >= 1.999) & (sine.square() + cosine.square() > 1e-8)
    # atan2(0, 0) has no gradient: an unsolvable problem gets a constant before it, not after
    yaw = torch.atan2(torch.where(solvable, sine, 0.0), torch.where(solvable, cosine, 1.0))
    c, s = torch.cos(yaw), torch.sin(yaw)
    x = target_mean[:, 0] - (c * source_mean[:, 0] - s * source_mean[:, 1])
    y = target_mean[:, 1] - (s * source_mean[:, 0] + c * source_mean[:, 1])
    pose = torch.stack([x, y, yaw], dim=-1)
    return torch.where(solvable[:, None], pose, torch.zeros_like(pose)), solvable


def place(points: Tensor, poses: Tensor) -> Tensor:
    """Map vehicle-frame points (rows, cols, 2) or (B, rows, cols, 2) to the patch's frame through poses (B, 3).

    Returns:
        (B, rows, cols, 2) metres.

    """
    x, y, yaw = poses[:, :, None, None].unbind(1)
    c, s = torch.cos(yaw), torch.sin(yaw)
    forward, left = points.unbind(-1)
    return torch.stack([c * forward - s * left + x, s * forward + c * left + y], dim=-1)


def tilt_shift(points: Tensor, camera: Tensor, tilt: Tensor) -> Tensor:
    """Return how far a tilted ground moves what the camera sees at ground points, to first order.

    A pixel that would show a point of level ground shows a nearer one where the ground rises. A quarter of a degree,
    which any vehicle pitches, is a metre at a distance of twenty.

    Args:
        points: (B, ..., 2) on level ground, vehicle frame, metres.
        camera: (B, 3) the camera's position in the vehicle's frame, metres.
        tilt: (B, 2) slope of the ground in the vehicle's frame, forward and left (tangent of an angle).

    Returns:
        (B, ..., 2) metres.

    """
    shape = (len(camera), *[1] * (points.dim() - 2))
    offset = points - camera[:, :2].view(*shape, 2)
    rise = (offset * tilt.view(*shape, 2)).sum(-1) / camera[:, 2].view(shape)
    return -rise[..., None] * offset


def solve_tilt(
    points: Tensor, flow: Tensor, information: Tensor, *, camera: Tensor, start: Tensor, sigma: float
) -> Tensor:
    """Solve for the ground's tilt along with a small rigid motion, by linear least squares with a prior on the tilt.

    Args:
        points: (B, N, 2) where the ground points are if the tilt is ``start``, vehicle frame, metres.
        flow: (B, N, 2) how far they were found from there.
        information: (B, N) inverse variances of the flow, 1/m^2, 0 for what was not found.
        camera: (B, 3) as for `tilt_shift`.
        start: (B, 2) tilt from which the flow was measured.
        sigma: prior standard deviation of the tilt, about level ground.

    Returns:
        (B, 2) tilt; 0 where the flow says nothing about it.

    """
    offset = points - camera[:, None, :2]
    # unknowns: the motion (x, y, yaw) and the tilt in sigmas; equations: forward and left, of every point
    motion = torch.eye(2, device=points.device, dtype=points.dtype).expand(*points.shape, 2)
    turn = torch.stack([-points[..., 1], points[..., 0]], dim=-1)[..., None]
    bend = offset[..., :, None] * offset[..., None, :] * (-sigma / camera[:, 2, None, None, None])  # see `tilt_shift`
    measured = flow + (bend * (start / sigma)[:, None, None]).sum(-1)
    equations = torch.cat([motion, turn, bend, measured[..., None]], dim=-1)
    weighted = (equations[..., :5] * information[..., None, None]).flatten(1, 2)
    with torch.autocast(points.device.type, enabled=False):  # which would round the product to half precision
        normal = weighted.mT @ equations.flatten(1, 2)
    prior = torch.cat([points.new_full((2,), 1e-4), points.new_full((1,), 1e-2), points.new_ones(2)])
    normal = normal + F.pad(prior.diag(), (0, 1))
    for _ in range(3):  # eliminate the motion: all pivots are positive, and nothing has to be asked of a device
        normal = normal[:, 1:, 1:] - normal[:, 1:, :1] * (normal[:, :1, 1:] / normal[:, :1, :1])
    (a, b, x), (_, c, y) = (row.unbind(-1) for row in normal.unbind(1))
    return torch.stack([c * x - b * y, a * y - b * x], dim=-1) / (a * c - b * b)[:, None] * sigma
