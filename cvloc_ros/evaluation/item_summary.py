"""An evaluation on a data set in numbers: the field's metrics, and those of HighlyAccurate's scripts for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from cvloc_ros.evaluation.item_frames import ItemFrames
from cvloc_ros.evaluation.metrics import PoseErrors, honesty, nees, statistics
from cvloc_ros.geometry import SE2, wrap_angle

BLOCKS, LONGEST_BLOCK = 50, 100
_RESAMPLES = 1000
INTERVALS = (
    ("position_error_m", "median"),
    ("position_error_m", "mean"),
    ("yaw_error_deg", "median"),
    ("yaw_error_deg", "mean"),
    ("recall", "lateral_1m"),
    ("recall", "longitudinal_1m"),
    ("recall", "yaw_1deg"),
    ("recall", "lateral_5m"),
    ("recall", "longitudinal_5m"),
)
"""What `intervals` gives, as keys of `PoseErrors.summary`."""


def summarize_items(frames: ItemFrames) -> dict[str, Any]:
    """Return statistics by model.

    ``estimate``, ``accepted`` (with their ``share``; absent if there is none), ``blind`` and ``chance`` (the prior
    itself as the answer) have the form of `PoseErrors.summary`; the first two also ``nees``, and the first
    ``intervals``: by the names of `INTERVALS` with a dot between, the 95 % confidence interval. ``highly_accurate`` has
    `highly_accurate_metrics`.
    """
    errors = PoseErrors.between(frames.estimate, frames.truth)
    values = nees(errors.east_north_yaw, frames.covariance)
    summary: dict[str, Any] = {
        "frames": len(frames.name),
        "estimate": errors.summary() | {"nees": honesty(values), "intervals": intervals(frames)},
        "highly_accurate": highly_accurate_metrics(frames),
        "blind": PoseErrors.between(frames.blind, frames.truth).summary(),
        "chance": PoseErrors.between(frames.prior, frames.truth).summary(),
        "latency_ms": {
            "median": float(np.median(frames.milliseconds)),
            "p95": float(np.percentile(frames.milliseconds, 95)),
        },
    }
    kept = np.flatnonzero(frames.accepted)
    if len(kept):
        accepted = PoseErrors.between([frames.estimate[k] for k in kept], [frames.truth[k] for k in kept])
        summary["accepted"] = accepted.summary() | {
            "share": len(kept) / len(frames.name),
            "nees": honesty(values[kept]),
        }
    return summary


def intervals(frames: ItemFrames, *, seed: int = 0) -> dict[str, list[float]]:
    """Return 95 % confidence intervals of `INTERVALS` by a block bootstrap (Künsch, 1989).

    Frames of a drive resemble their neighbours. Sorted by name, they are drawn in blocks of up to `LONGEST_BLOCK`, but
    at least `BLOCKS` blocks if there are so many frames. A few drives are still a few places: other cities may lie
    outside.
    """
    order = sorted(range(len(frames.name)), key=lambda k: (frames.name[k], frames.index[k]))
    errors = PoseErrors.between([frames.estimate[k] for k in order], [frames.truth[k] for k in order])
    length = int(np.clip(len(order) // BLOCKS, 1, LONGEST_BLOCK))
    blocks = np.array_split(np.arange(len(order)), max(1, len(order) // length))
    rng = np.random.default_rng(seed)
    drawn: list[list[float]] = []
    for _ in range(_RESAMPLES):
        picked = np.concatenate([blocks[b] for b in rng.integers(0, len(blocks), len(blocks))])
        part = PoseErrors(*(getattr(errors, name)[picked] for name in _PARTS))
        recall = part.recall()
        drawn.append(
            [
                float(np.median(part.position)),
                float(part.position.mean()),
                float(np.degrees(np.median(np.abs(part.yaw)))),
                float(np.degrees(np.abs(part.yaw).mean())),
                *(recall[name] for group, name in INTERVALS if group == "recall"),
            ]
        )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {f"{group}.{name}": [float(a), float(b)] for (group, name), a, b in zip(INTERVALS, low, high, strict=True)}


_PARTS = ("east_north_yaw", "position", "longitudinal", "lateral", "yaw")


def highly_accurate_metrics(frames: ItemFrames) -> dict[str, Any]:
    """Return what the test scripts of HighlyAccurate (CVPR 2022) and its successors would print, for comparison only.

    They express the shift from the prior in the body's frame, the estimate's by the *estimated* heading, the truth's by
    the true one, and compare these: for a shift t and a heading error e this differs from the distance in the map by
    about |t| e. Their recall does not count an error that is exactly the limit.
    """
    prior, truth, estimate = frames.prior, frames.truth, frames.estimate
    shifts = [[_body_shift(p, pose) for p, pose in zip(prior, poses, strict=True)] for poses in (estimate, truth)]
    error = np.array(shifts[0]) - np.array(shifts[1])
    yaw = np.array([wrap_angle(e.yaw - t.yaw) for e, t in zip(estimate, truth, strict=True)])
    degrees = np.abs(np.degrees(yaw))
    longitudinal, lateral = np.abs(error).T
    recall = {
        f"{name}_{limit}m": float(np.mean(values < limit))
        for name, values in (("lateral", lateral), ("longitudinal", longitudinal))
        for limit in (1, 3, 5)
    }
    return {
        "position_error_m": statistics(np.hypot(*error.T)),
        "lateral_error_m": statistics(lateral),
        "longitudinal_error_m": statistics(longitudinal),
        "yaw_error_deg": statistics(degrees),
        "recall": recall | {f"yaw_{limit}deg": float(np.mean(degrees < limit)) for limit in (1, 3, 5)},
    }


def _body_shift(prior: SE2, pose: SE2) -> np.ndarray:
    """Return the shift from the prior to a pose, metres along and across the pose's own heading."""
    return pose.rotation().T @ np.array([pose.x - prior.x, pose.y - prior.y])
