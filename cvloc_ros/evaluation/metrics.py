"""Error metrics of the field, in the map frame; numpy only.

Position error is the distance in the map. Lateral and longitudinal are its components along the **true** heading: the
papers' scripts project on other axes (predicted heading, image axes) or fold signs, and their numbers differ by that.
Recall counts errors up to and including its limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle

CHI2_3DOF_95 = 7.8147
"""NEES of three degrees of freedom below which 95 % of honest estimates lie."""

_RECALLS = (("lateral", 1, "m"), ("lateral", 5, "m"), ("longitudinal", 1, "m"), ("longitudinal", 5, "m"))
_YAW_RECALLS = (1, 5)


@dataclass(frozen=True, eq=False)
class PoseErrors:
    """Errors of N estimates, signed where there is a sign.

    Attributes:
        east_north_yaw: (N, 3) estimate minus truth: metres east, metres north, radians.
        position: (N,) metres.
        longitudinal: (N,) metres; positive ahead of the true vehicle.
        lateral: (N,) metres; positive to the left of it.
        yaw: (N,) radians; positive counter-clockwise.

    """

    east_north_yaw: np.ndarray
    position: np.ndarray
    longitudinal: np.ndarray
    lateral: np.ndarray
    yaw: np.ndarray

    @classmethod
    def between(cls, estimates: Sequence[SE2], truths: Sequence[SE2]) -> PoseErrors:
        """Compare poses ``T_map_base`` pairwise."""
        if len(estimates) != len(truths):
            raise ValueError(f"expected a truth for each estimate, got {len(estimates)} and {len(truths)}")
        estimate = np.array([pose.vector() for pose in estimates]).reshape(-1, 3)
        truth = np.array([pose.vector() for pose in truths]).reshape(-1, 3)
        error = estimate - truth
        error[:, 2] = wrap_angle(error[:, 2])
        c, s = np.cos(truth[:, 2]), np.sin(truth[:, 2])
        return cls(
            east_north_yaw=error,
            position=np.hypot(error[:, 0], error[:, 1]),
            longitudinal=c * error[:, 0] + s * error[:, 1],
            lateral=-s * error[:, 0] + c * error[:, 1],
            yaw=error[:, 2],
        )

    def summary(self) -> dict[str, dict[str, float]]:
        """Return statistics by name, recall among them; empty without estimates."""
        if not len(self.position):
            return {}
        return {
            "position_error_m": statistics(self.position),
            "lateral_error_m": statistics(self.lateral),
            "longitudinal_error_m": statistics(self.longitudinal),
            "yaw_error_deg": statistics(np.degrees(self.yaw)),
            "recall": self.recall(),
        }

    def recall(self) -> dict[str, float]:
        """Return the shares of estimates within 1 and 5 m, and within 1 and 5 degrees; limits included."""
        slack = 1e-9  # 1.0 m computed through a rotation is still 1 m
        yaw = np.degrees(np.abs(self.yaw))
        by_name = {
            f"{axis}_{limit}{unit}": float(np.mean(np.abs(getattr(self, axis)) <= limit + slack))
            for axis, limit, unit in _RECALLS
        }
        return by_name | {f"yaw_{limit}deg": float(np.mean(yaw <= limit + slack)) for limit in _YAW_RECALLS}


def statistics(errors: np.ndarray) -> dict[str, float]:
    """Return mean, median, 95th percentile, root mean square and maximum of the errors' magnitudes."""
    magnitude = np.abs(np.asarray(errors, dtype=float))
    return {
        "mean": float(magnitude.mean()),
        "median": float(np.median(magnitude)),
        "p95": float(np.percentile(magnitude, 95)),
        "rmse": float(np.sqrt((magnitude**2).mean())),
        "max": float(magnitude.max()),
    }


def nees(east_north_yaw: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Return the normalised estimation error squared (N,) of errors (N, 3) with covariances (N, 3, 3).

    Its mean is 3 where the covariances are honest; more means too sure of itself.
    """
    solved = np.linalg.solve(covariances, east_north_yaw[..., None])[..., 0]
    return (east_north_yaw * solved).sum(axis=-1)


def honesty(values: np.ndarray) -> dict[str, float]:
    """Return the mean of NEES values, and the share that lies in the regions claimed to hold 95 %."""
    return {"mean": float(np.mean(values)), "within_95": float(np.mean(values <= CHI2_3DOF_95))}


def chi2_3dof_cdf(value: np.ndarray) -> np.ndarray:
    """Return the probability that an honest NEES of three degrees of freedom is at most ``value``."""
    value = np.asarray(value, dtype=float)
    erf = np.vectorize(math.erf)(np.sqrt(value / 2))
    return erf - np.sqrt(2 * value / np.pi) * np.exp(-value / 2)


def chance(half_width: float = 20.0, half_heading_deg: float = 10.0) -> dict[str, dict[str, float]]:
    """Return what answering with the centre of the search box scores, in the form of `PoseErrors.summary`.

    The truth is uniform in a box of ±``half_width`` metres and ±``half_heading_deg`` degrees. Every number has a
    closed form but the percentiles of the distance, which are taken from a fine grid.
    """
    along = (np.arange(2000) + 0.5) / 2000  # one quadrant stands for all
    distance = half_width * np.hypot(along[:, None], along[None, :]).ravel()
    position = {
        "mean": half_width * (math.sqrt(2) + math.asinh(1)) / 3,
        "median": float(np.median(distance)),
        "p95": float(np.percentile(distance, 95)),
        "rmse": half_width * math.sqrt(2 / 3),
        "max": half_width * math.sqrt(2),
    }
    axis, yaw = _uniform(half_width), _uniform(half_heading_deg)
    recall = {f"{name}_{limit}{unit}": min(1.0, limit / half_width) for name, limit, unit in _RECALLS}
    recall |= {f"yaw_{limit}deg": min(1.0, limit / half_heading_deg) for limit in _YAW_RECALLS}
    return {
        "position_error_m": position,
        "lateral_error_m": axis,
        "longitudinal_error_m": dict(axis),
        "yaw_error_deg": yaw,
        "recall": recall,
    }


def _uniform(half: float) -> dict[str, float]:
    """Return the statistics of a magnitude that is uniform from 0 to ``half``."""
    return {"mean": half / 2, "median": half / 2, "p95": 0.95 * half, "rmse": half / math.sqrt(3), "max": half}
