"""The rigid motion that best explains weighted matches, in closed form; and how the ground is tilted under them."""

from __future__ import annotations

import torch
from torch import Tensor

_SHIFT_PRIOR, _TURN_PRIOR = 1e-4, 1e-2  # inverse variances, 1/m^2 and 1/rad^2: next to nothing


def solve_pose(
    source: Tensor, target: Tensor, weights: Tensor, *, weighted_centroids: bool = True
) -> tuple[Tensor, Tensor]:
    """Solve ``target = R(yaw) source + t`` in the weighted least-squares sense.

    The closed form of the two-dimensional orthogonal Procrustes problem (NeurIPS 2023 dense-flow paper, eq. 3):
    ``yaw = atan2(sum S (x' y^ - y' x^), sum S (x' x^ + y' y^))`` on centred points. It is differentiable, its
    determinant is always +1 and it has no smallest angle.

    Args:
        source: (B, N, 2) points in the vehicle's frame.
        target: (B, N, 2) the same points in the patch's frame.
        weights: (B, N) non-negative.
        weighted_centroids: centre the points at their weighted means, where the sum of squares is least; otherwise at
            the plain means of those of any weight.

    Returns:
        (B, 3) x, y, yaw of the vehicle in the patch's frame, and a (B,) mask of the solvable. A problem with fewer
        than two effective points or no spread is not: its pose is the identity, never NaN.

    """
    total = weights.sum(-1)
    effective = total.square() / weights.square().sum(-1).clamp_min(1e-12)
    share = weights / total.clamp_min(1e-9)[:, None]
    both = torch.cat([source, target], dim=-1)
    counted = share
    if not weighted_centroids:
        found = (weights > 0).to(weights.dtype)
        counted = found / found.sum(-1).clamp_min(1)[:, None]
    mean = (counted[..., None] * both).sum(1, keepdim=True)
    p, q = (both - mean).split(2, dim=-1)
    xx, xy, yx, yy = _moments(share[..., None] * p, q).flatten(1).unbind(1)
    sine, cosine = xy - yx, xx + yy
    solvable = (total > 1e-6) & (effective >= 1.999) & (sine.square() + cosine.square() > 1e-8)
    # atan2(0, 0) has no gradient: an unsolvable problem gets a constant before it, not after
    yaw = torch.atan2(torch.where(solvable, sine, 0.0), torch.where(solvable, cosine, 1.0))
    c, s = torch.cos(yaw), torch.sin(yaw)
    source_x, source_y, target_x, target_y = mean[:, 0].unbind(1)
    x, y = target_x - (c * source_x - s * source_y), target_y - (s * source_x + c * source_y)
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
    # of each point, forward and left: what a turn, and a tilt of one sigma along each axis (see `tilt_shift`), add to
    # its flow, and what it was found to be, (B, 2, N, 4)
    turn = torch.stack([-points[..., 1], points[..., 0]], dim=1)[..., None]
    bend = offset.mT[..., None] * offset[:, None] * (-sigma / camera[:, 2, None, None, None])
    measured = flow.mT[..., None] + (bend * (start / sigma)[:, None, None]).sum(-1, keepdim=True)
    columns = torch.cat([turn, bend, measured], dim=-1)
    weighted = columns * information[:, None, :, None]
    means = weighted.sum(2)  # times their weight
    normal = _moments(weighted.flatten(1, 2), columns.flatten(1, 2))
    normal = normal - _moments(means, means / (information.sum(1)[:, None, None] + _SHIFT_PRIOR))  # a shift explains it
    turned, *_ = normal.unbind(1)
    # eliminate the turn: the pivot is positive, and nothing has to be asked of a device
    normal = normal[:, 1:] - normal[:, 1:, :1] * (turned / (turned[:, :1] + _TURN_PRIOR))[:, None]
    (_, a, b, x), (_, _, c, y) = (row.unbind(-1) for row in normal[:, :2].unbind(1))
    a, c = a + 1, c + 1  # the prior on the tilt
    return torch.stack([c * x - b * y, a * y - b * x], dim=-1) / (a * c - b * b)[:, None] * sigma


def _moments(a: Tensor, b: Tensor) -> Tensor:
    """Return the sums (B, C, D) over N of products of (B, N, C) with (B, N, D).

    No matrix product: autocast would round that to half precision.
    """
    return (a[..., :, None] * b[..., None, :]).sum(1)
