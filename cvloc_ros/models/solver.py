"""The rigid motion that best explains weighted matches, in closed form."""

from __future__ import annotations

import torch
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
