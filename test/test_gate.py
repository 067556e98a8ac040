"""The gate: each reason on its own, and which wins."""

import numpy as np
import pytest

from cvloc_ros.localization.gate import REASONS, Gate, GateConfig

GOOD = {"covered": 1.0, "quality": 0.9, "covariance": np.diag([0.2, 0.1, 1e-4]), "edge_mass": 0.01, "solved": True}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"covered": 0.3}, "low_coverage"),
        ({"quality": 0.1}, "low_quality"),
        ({"edge_mass": 0.5}, "at_search_edge"),
        ({"solved": False}, "degenerate_matches"),
        ({"covariance": np.full((3, 3), np.nan)}, "degenerate_matches"),
        ({"quality": np.nan}, "degenerate_matches"),
        ({"covariance": np.diag([0.2, 50.0, 1e-4])}, "uncertain"),
        ({"covariance": np.diag([0.2, 0.2, 0.1])}, "uncertain"),
        ({"covered": 0.3, "quality": 0.0, "edge_mass": 1.0, "solved": False}, "low_coverage"),
    ],
)
def test_reasons(change, reason):
    assert Gate().check(**{**GOOD, **change}) == reason
    assert reason == "" or REASONS[reason]


def test_weakest_direction_counts_not_the_axes():
    direction = np.array([1.0, 1.0]) / np.sqrt(2)
    covariance = np.diag([0.1, 0.1, 1e-4])
    covariance[:2, :2] += 60 * np.outer(direction, direction)  # 7.7 m along the diagonal, 5.5 m along the axes
    assert Gate().check(**{**GOOD, "covariance": covariance}) == "uncertain"


def test_limits_come_from_the_config():
    assert Gate(GateConfig(min_quality=0.95)).check(**GOOD) == "low_quality"
    assert Gate(GateConfig(min_quality=0.0)).check(**{**GOOD, "quality": 0.01}) == ""
