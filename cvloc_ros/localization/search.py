"""The search for a pose that is not known well enough to track: which boxes to examine, and what came of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.hypotheses import Hypotheses, Hypothesis
from cvloc_ros.localization.sweep import Sweep, whole_box
from cvloc_ros.localization.tracker_config import TrackerConfig
from cvloc_ros.localization.types import Localization, Prior

_SIGMAS = 2.0
_BOXES = 2  # an image: each costs a run of the network


class Search:
    """Sweeps an area while the hypotheses found in it are examined again as the vehicle moves on.

    Each image is matched twice at most: in the next boxes of the sweep, and around hypotheses that are due.
    """

    def __init__(self, config: TrackerConfig, noise: Callable[[int, int], np.ndarray]) -> None:
        """``noise(first, last)`` is odometry's 3x3 error between two stamps."""
        self._config = config
        self.hypotheses = Hypotheses(noise, correlation_distance=config.localization_correlation_distance)
        self._sweep: Sweep | None = None
        self._wide = self._swept = False
        self._matched = 0  # boxes

    def around(self, T_map_base: SE2, covariance: np.ndarray, T_odom_base: SE2, *, wide: bool) -> None:
        """Sweep two sigma around a pose that is held at ``T_odom_base``.

        Args:
            T_map_base: the pose.
            covariance: 3x3 over (east m, north m, yaw rad).
            T_odom_base: where odometry has it.
            wide: search at least as far as the settings ask for: the covariance may be too small.

        """
        self._wide, self._swept = wide, False
        self.again(T_map_base, covariance, T_odom_base)

    def again(self, T_map_base: SE2, covariance: np.ndarray, T_odom_base: SE2) -> None:
        """Sweep as before, but around a pose that has become another meanwhile; for the arguments see `around`."""
        radius = _SIGMAS * float(np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1]))
        heading = _SIGMAS * float(np.sqrt(covariance[2, 2]))
        if self._wide:
            radius = max(radius, self._config.search_radius)
            heading = max(heading, np.radians(self._config.search_heading))
        self._sweep = Sweep(T_map_base, T_odom_base, radius=radius, heading=heading)

    @property
    def begun(self) -> bool:
        """Whether there is an area to sweep."""
        return self._sweep is not None

    @property
    def round_done(self) -> bool:
        """Whether all boxes have been examined: time for `again`."""
        return self._sweep is not None and self._sweep.rounds > 0

    def priors(self, T_odom_base: SE2, travelled: float) -> list[Prior]:
        """Return the boxes, one or two, in which to look next."""
        if self._sweep is None:
            return []
        new = [self._sweep.box(T_odom_base, skip=k) for k in range(min(_BOXES, len(self._sweep)))]
        known = [whole_box(pose, self._matched) for pose in self.hypotheses.due(T_odom_base, travelled)]
        # New places are never neglected for those that were found: the right one may not be among them yet.
        chosen: list[Prior] = []
        for box in [*new[:1], *known, *new[1:]]:
            if len(chosen) < _BOXES and not any(_holds(other, box.T_map_base) for other in chosen):
                chosen.append(box)
        return chosen

    def add(self, localization: Localization, T_odom_base: SE2, travelled: float, *, lost: bool) -> None:
        """Take in the localization of a box, accepted or not; ``lost`` while there is no track that is followed."""
        self.hypotheses.weigh(localization, T_odom_base, travelled, eager=lost)
        self._matched += 1
        if self._sweep is not None:
            self._sweep.visit(localization.prior, T_odom_base)
            self._swept = self._swept or self.round_done

    def found(self) -> Hypothesis | None:
        """Return where the vehicle is, once the area has been swept and one hypothesis has won."""
        if not self._swept:  # a better place may be where nobody has looked yet
            return None
        config = self._config
        return self.hypotheses.winner(sightings=config.confirmations, distance=config.confirmation_distance)

    def overruling(self, log_odds: float) -> Hypothesis | None:
        """Return the hypothesis that beats a track of such log odds, if one does."""
        config = self._config
        return self.hypotheses.winner(
            sightings=config.recovery_confirmations, distance=config.recovery_distance, against=log_odds
        )


def _holds(box: Prior, T_map_base: SE2) -> bool:
    step = box.T_map_base.inverse() @ T_map_base
    return bool(max(abs(step.x), abs(step.y)) < 14.0 and abs(step.yaw) < np.radians(7.0))
