"""Whether one frame's answer may be believed, and if not, why: a pure function of what the matcher says of itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.localization.setting import check_settings, setting

REASONS = {
    "low_coverage": "too little of the search area is covered by satellite imagery",
    "degenerate_matches": "the matches do not determine a pose",
    "at_search_edge": "the best matches lie at the border of the search box: the prior may be too far off",
    "uncertain": "the estimate's own covariance is too large",
    "low_quality": "the matcher itself thinks that it is probably wrong",
    "inconsistent_with_track": "the estimate contradicts the track, given the covariance of both",
    "unconfirmed": "waiting for more localizations that agree before the track starts",
    "too_old": "the image is older than the odometry that is kept",
    "reset": "the session was reset while the image was being localized",
    "no_camera_info": "no CameraInfo that could be used has come yet",
    "no_transform": "where the camera sits on the vehicle is unknown",
    "bad_image": "the image could not be decoded, or it is not of the camera that the camera info describes",
    "no_imagery": "the satellite imagery could not be read",
    "failed": "the localizer raised an error, which is in the log",
    "waiting": "not tried: the pose is not known well enough to search",
}
"""Every reason for which a frame has no accepted localization, with its meaning for people."""


@dataclass(frozen=True)
class GateConfig:
    """Limits that a localization has to keep to."""

    min_coverage: float = setting(
        0.6, "share of the satellite patch that imagery must cover", limits=(0.0, 1.0), live=True
    )
    min_quality: float = setting(
        0.7, "calibrated probability of being within 2 m that an estimate must reach", limits=(0.0, 1.0), live=True
    )
    max_edge_mass: float = setting(
        0.3, "largest share of the posterior that may lie at the border of the search box", limits=(0.0, 1.0), live=True
    )
    max_position_sigma: float = setting(
        6.0,
        "largest standard deviation of the position along its weakest direction",
        unit="m",
        limits=(0.1, 100.0),
        live=True,
    )
    max_heading_sigma: float = setting(
        6.0, "largest standard deviation of the heading", unit="deg", limits=(0.1, 180.0), live=True
    )

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        check_settings(self)


class Gate:
    """Checks localizations against a `GateConfig`."""

    def __init__(self, config: GateConfig | None = None) -> None:
        """Use the given limits, or the defaults."""
        self.config = config or GateConfig()

    def check(
        self, *, covered: float, quality: float, covariance: np.ndarray, edge_mass: float, solved: bool = True
    ) -> str:
        """Return why an estimate is rejected, a key of `REASONS`; '' if it is accepted.

        The most telling reason wins: what is wrong with the input comes before what it leads to.

        Args:
            covered: share of the patch with imagery, 0 to 1.
            quality: probability that the position is within 2 m.
            covariance: 3x3 over (m, m, rad).
            edge_mass: share of the posterior at the border of the search box; 0 where there is no posterior.
            solved: whether the matches determined a pose.

        """
        limits = self.config
        if covered < limits.min_coverage:
            return "low_coverage"
        if not solved or not np.isfinite(covariance).all() or not np.isfinite(quality):
            return "degenerate_matches"
        if edge_mass > limits.max_edge_mass:
            return "at_search_edge"
        position_sigma = np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1])
        if position_sigma > limits.max_position_sigma or np.sqrt(covariance[2, 2]) > np.radians(
            limits.max_heading_sigma
        ):
            return "uncertain"
        if quality < limits.min_quality:
            return "low_quality"
        return ""
