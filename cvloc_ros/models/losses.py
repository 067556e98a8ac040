"""What the matcher is trained to do."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cvloc_ros.models.solver import place
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_types import VoteFlowOutput

# The Gaussians that the votes should reproduce, metres and radians: in heading about half a vote's step wide.
COARSE_SIGMA = (1.0, math.radians(1.2))
FINE_SIGMA = (0.4, math.radians(0.75))
CLOSE_SIGMA = (0.25, math.radians(0.35))


def relative_pose(origin: Tensor, pose: Tensor) -> Tensor:
    """Return poses (B, 3) as seen from the frames of ``origin`` (B, 3)."""
    c, s = torch.cos(origin[:, 2]), torch.sin(origin[:, 2])
    dx, dy = pose[:, 0] - origin[:, 0], pose[:, 1] - origin[:, 1]
    yaw = (pose[:, 2] - origin[:, 2] + math.pi) % (2 * math.pi) - math.pi
    return torch.stack([c * dx + s * dy, -s * dx + c * dy, yaw], dim=-1)


def vote_loss(logits: Tensor, pose: Tensor, *, headings: Tensor, shifts: Tensor, sigma: tuple[float, float]) -> Tensor:
    """Return the cross-entropy (B,) of a vote against a Gaussian around the true pose.

    Args:
        logits: (B, headings, shifts, shifts).
        pose: (B, 3) truth in the frame of the vote's axes.
        headings: radians.
        shifts: metres, of both axes.
        sigma: deviations in metres and radians.

    """
    dx = (shifts - pose[:, :1]) / sigma[0]
    dy = (shifts - pose[:, 1:2]) / sigma[0]
    dyaw = (headings - pose[:, 2:]) / sigma[1]
    log_target = -0.5 * (
        dyaw.square()[:, :, None, None] + dx.square()[:, None, :, None] + dy.square()[:, None, None, :]
    )
    target = log_target.flatten(1).softmax(1)
    return -(target * logits.float().flatten(1).log_softmax(1)).sum(1)


def flow_loss(model: VoteFlow, out: VoteFlowOutput, truth: Tensor, seen_at: Tensor, step: int) -> Tensor:
    """Return the Laplace negative log-likelihood (B,) of one iteration's flow over the cells that count.

    ``seen_at`` (B, rows, cols, 2) is where on the ground the cells' features really come from.

    The scale is learned with the flow (an absolute target, unlike the dense-flow paper's eq. 5, whose confidence is
    relative to the frame): a cell that cannot be matched says so and weighs little in the least squares.
    """
    # the cell's true place on the patch, seen from the pose at which the flow was measured
    target = _inverse_place(place(seen_at, truth), out.starts[step]) - out.points[step]
    error = (out.flows[step].permute(0, 2, 3, 1) - target).abs().sum(-1)
    nll = error / out.scales[step] + 2 * out.scales[step].log()
    counted = (out.weights[step] > 0).float()
    return (nll * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1.0)


def pose_loss(pose: Tensor, truth: Tensor) -> Tensor:
    """Return the robust pose error (B,): one metre weighs as much as two degrees, and large errors are linear."""
    error = relative_pose(truth, pose)
    scaled = torch.cat([error[:, :2], error[:, 2:] * (180 / math.pi) / 2], dim=-1)
    return F.smooth_l1_loss(scaled, torch.zeros_like(scaled), beta=0.3, reduction="none").sum(-1)


def total_loss(
    model: VoteFlow,
    out: VoteFlowOutput,
    truth: Tensor,
    *,
    camera: Tensor,
    tilt: Tensor,
    tilt_known: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of the training loss, each a scalar, and their ``total``.

    Args:
        model: the network that gave ``out``.
        out: its output.
        truth: (B, 3) x, y (m), yaw (rad) of the vehicle in the patch's frame.
        camera: (B, 3) the camera's position in the vehicle's frame, metres.
        tilt: (B, 2) true slope of the ground in the vehicle's frame.
        tilt_known: (B,) 1 where it is, 0 where nobody knows it and ``tilt`` is level ground: what the network makes of
            it is then not judged, and the flow is taken to come from level ground. All are known if None.

    """
    coarse = vote_loss(
        out.coarse_logits, truth, headings=model.headings, shifts=model.shifts, sigma=COARSE_SIGMA
    ).mean()
    # the second vote counts its shifts along the axes of each turned vehicle
    fine = vote_loss(
        out.fine_logits,
        relative_pose(out.fine_centre, truth),
        headings=model.second.headings,
        shifts=model.second.shifts,
        sigma=FINE_SIGMA,
    ).mean()
    assert out.close_logits is not None and out.close_centre is not None and out.choice_logits is not None
    close = vote_loss(
        out.close_logits,
        relative_pose(out.close_centre, truth),
        headings=model.third.headings,
        shifts=model.third.shifts,
        sigma=CLOSE_SIGMA,
    ).mean()
    # the first of the places is beside the truth; the others are not, or so seldom that it does not matter
    peak, choice = (-logits.log_softmax(1)[:, 0].mean() for logits in (out.peak_logits, out.choice_logits))
    seen_at = model.ground_points(camera, tilt)
    flow = torch.stack([flow_loss(model, out, truth, seen_at, i).mean() for i in range(len(out.flows))]).mean()
    sigma = model.config.tilt_sigma
    level = torch.stack([F.smooth_l1_loss(t / sigma, tilt / sigma, reduction="none").mean(1) for t in out.tilts])
    level = (level if tilt_known is None else level * tilt_known).mean()
    pose = torch.stack([pose_loss(p, truth).mean() for p in out.poses]).mean()
    return {
        "total": coarse + fine + peak + close + choice + 0.5 * flow + 0.5 * pose + 0.5 * level,
        "coarse": coarse,
        "fine": fine,
        "peak": peak,
        "close": close,
        "choice": choice,
        "flow": flow,
        "pose": pose,
        "tilt": level,
    }


def _inverse_place(points: Tensor, pose: Tensor) -> Tensor:
    c, s = torch.cos(pose[:, 2])[:, None, None], torch.sin(pose[:, 2])[:, None, None]
    x, y = points[..., 0] - pose[:, 0, None, None], points[..., 1] - pose[:, 1, None, None]
    return torch.stack([c * x + s * y, -s * x + c * y], dim=-1)
