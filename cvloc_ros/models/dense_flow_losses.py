"""What dense_flow is trained to do: eqs. 4 to 7 of the paper, with two corrections, and the tilt that is not in it.

The distances that eq. 5 grades are constants to it: otherwise matches of little confidence would be rewarded for
being worse. And every loss is a sample's own, with its own mask, mean and deviation: a batch is a mean of samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.models.solver import place

# share of the training after which a schedule changes, and its values before and after
_KAPPA = {"paper": (15 / 25, 200.0, 20.0), "code": (16 / 30, 20.0, 2.0)}
_BETA = {"paper": (15 / 25, 1.0, 10.0), "code": (17 / 30, 0.0, 500.0)}


def kappa(config: DenseFlowConfig, progress: float) -> float:
    """Return the temperature of eq. 5 at a progress from 0 to 1."""
    turn, early, late = _KAPPA[config.kappa_schedule]
    return early if progress < turn else late


def beta(config: DenseFlowConfig, progress: float) -> float:
    """Return the weight of the position loss (eq. 7) at a progress from 0 to 1."""
    if not config.position_loss:
        return 0.0
    turn, early, late = _BETA[config.beta_schedule]
    return late if progress >= turn or not config.matching_loss else early


def matching_loss(moved: Tensor, target: Tensor, seen: Tensor, *, unit: float) -> Tensor:
    """Return the mean L1 distance (B,) of the seen points from their true places (eq. 4).

    Args:
        moved: (B, R, C, 2) metres.
        target: (B, R, C, 2) metres.
        seen: (B, R, C) bool.
        unit: metres; the paper's is a pixel of the patch.

    """
    return _mean((moved - target).abs().sum(-1) / unit, seen)


def confidence_loss(confidence: Tensor, distance: Tensor, seen: Tensor, *, kappa: float) -> Tensor:
    """Return eq. 5, (B,), as the mean over the seen points.

    Its gradient by S is tanh(d~ / 2 kappa): matches worse than the sample's mean lose confidence, others gain.

    Args:
        confidence: (B, R, C) S.
        distance: (B, R, C) of the matches from their true places, in any unit; it gets no gradient.
        seen: (B, R, C) bool.
        kappa: of the equation.

    """
    d = distance.detach()
    d = d - _mean(d, seen)[:, None, None]
    d = d / _mean(d.square(), seen).sqrt().clamp_min(1e-6)[:, None, None]
    return _mean(confidence * torch.sigmoid(d / kappa) + (1 - confidence) * torch.sigmoid(-d / kappa), seen)


def absolute_confidence_loss(confidence: Tensor, distance: Tensor, seen: Tensor, *, within: float) -> Tensor:
    """Return the cross-entropy (B,) of S with "the match is within so many metres", as the mean over the seen points.

    The least that it can be is reached where S is that probability. Shapes as for `confidence_loss`.
    """
    good = (distance.detach() < within).float()
    p = confidence.clamp(1e-6, 1 - 1e-6)
    return -_mean(good * p.log() + (1 - good) * (1 - p).log(), seen)


def position_loss(pose: Tensor, truth: Tensor) -> Tensor:
    """Return eq. 6, (B,): |x| + |y| in metres, in the true vehicle's frame, and |yaw| in degrees (the code's units)."""
    error = relative_pose(truth, pose)
    return error[:, :2].abs().sum(-1) + error[:, 2].rad2deg().abs()


def tilt_loss(found: Tensor, tilt: Tensor, *, sigma: float) -> Tensor:
    """Return the robust error (B,) of slopes (B, 2), in units of their usual size."""
    return F.smooth_l1_loss(found / sigma, tilt / sigma, reduction="none").mean(1)


def sample_losses(
    model: DenseFlow,
    out: DenseFlowOutput,
    truth: Tensor,
    *,
    progress: float,
    camera: Tensor,
    tilt: Tensor,
    tilt_known: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of eq. 7 for each sample, (B,) each, that of the tilt (0 on level ground) and their ``total``.

    Args:
        model: the network that gave ``out``, in training mode for the terms of all iterations.
        out: its output.
        truth: (B, 3) x, y (m), yaw (rad) of the vehicle in the patch's frame.
        progress: share of the training that is done.
        camera: (B, 3) the camera's position in the vehicle's frame, metres.
        tilt: (B, 2) true slope of the ground in the vehicle's frame; a network that takes it to be level ignores it.
        tilt_known: (B,) 1 where it is, 0 where nobody knows it and ``tilt`` is level ground; known to all if None.

    """
    c = model.config
    # what is seen at a point comes from elsewhere if the ground is tilted, and there is found
    target = place(model.ground_points(camera, tilt), truth)
    match = torch.zeros(len(truth), device=truth.device)
    confidence, level = torch.zeros_like(match), torch.zeros_like(match)
    for i, (moved, S) in enumerate(zip(out.moved, out.confidences, strict=True)):
        weight = c.gamma ** (len(out.moved) - 1 - i)
        match = match + weight * matching_loss(moved, target, out.seen, unit=c.patch_cell)
        if not c.confidence:
            continue
        distance = torch.hypot(*(moved - target).detach().unbind(-1))  # of pairs, much faster than a norm
        if c.confidence_target == "relative":
            graded = confidence_loss(S, distance, out.seen, kappa=kappa(c, progress))
        else:
            graded = absolute_confidence_loss(S, distance, out.seen, within=c.confident_metres)
        confidence = confidence + weight * graded
    position = position_loss(out.pose, truth)
    if c.tilt_degrees:
        level = tilt_loss(out.tilt, tilt, sigma=c.tilt_sigma)
        level = level if tilt_known is None else level * tilt_known
    total = c.matching_loss * match + c.alpha * confidence + beta(c, progress) * position + level
    return {"total": total, "matching": match, "confidence": confidence, "position": position, "tilt": level}


def dense_flow_loss(model: DenseFlow, out: DenseFlowOutput, truth: Tensor, **given) -> dict[str, Tensor]:
    """Return the batch's means of `sample_losses`, each a scalar; the arguments are the same."""
    return {name: value.mean() for name, value in sample_losses(model, out, truth, **given).items()}


def _mean(values: Tensor, seen: Tensor) -> Tensor:
    """Return the mean (B,) of values (B, R, C) where seen; 0 where nothing is."""
    return (values * seen).sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)
