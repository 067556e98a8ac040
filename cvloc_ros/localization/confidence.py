"""How far a track may be believed: how many images fit it lately, and what those say that were searched far around it.

Two things can go wrong. Images tell nothing (dark, covered, unlike the map): the share of those that fit falls, the
track is DEGRADED, and LOST in the end. Or they tell that the vehicle is elsewhere: the log odds of the track fall.
"""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.hypotheses import Credit, log_ratio
from cvloc_ros.localization.tracker_config import TrackerConfig, TrackerState
from cvloc_ros.localization.types import Localization

_DOUBTED, _REFUTED = 0.0, -3.0  # log odds under which a track is not sure, and under which it is given up
_SUPPORTED = float(np.exp(-1.0))  # share of images that fit, under which a track is not sure
_START, _MOST = 2.0, 8.0  # log odds of a track that has won, and the most that a long good way earns


class Confidence:
    """TRACKING, DEGRADED or LOST."""

    def __init__(self, config: TrackerConfig) -> None:
        """Start with nothing confirmed."""
        self._config = config
        self.confirmed = False
        """Whether localizations have confirmed the pose."""
        self.lost = False
        """Whether they had, but what they confirmed has been given up since."""
        self._credit = Credit(most=_MOST)
        self._share = 0.0  # of the images of the last seconds and metres that fit
        self._noted = (0, 0.0)  # stamp and metres travelled when that was computed
        self._supported = (0, 0.0)  # and when the share was last enough

    @property
    def log_odds(self) -> float:
        """What images have said about the track."""
        return self._credit.log_odds

    @property
    def refuted(self) -> bool:
        """Whether images have said for long that the vehicle is elsewhere."""
        return self.confirmed and self.log_odds <= _REFUTED

    def confirm(self, stamp: int, travelled: float) -> None:
        """Note that localizations have agreed on the pose."""
        self.confirmed, self.lost = True, False
        self._credit = Credit(log_odds=_START, weighed=travelled, most=_MOST)
        self._share = 1.0
        self._noted = self._supported = stamp, travelled

    def note(self, fits: bool, stamp: int, travelled: float) -> None:
        """Note whether an image's localization fitted the track."""
        kept = self._decay(stamp, travelled)
        self._share = self._share * kept + (1 - kept) * fits
        self._noted = stamp, travelled
        if self._share >= _SUPPORTED:
            self._supported = stamp, travelled

    def lose(self) -> None:
        """Give the pose up."""
        self.confirmed, self.lost = False, True

    def restart(self) -> None:
        """Forget what was confirmed: the pose is another one now."""
        self.confirmed = self.lost = False

    def weigh(self, localization: Localization, T_map_base: SE2, covariance: np.ndarray, travelled: float) -> None:
        """Weigh the track, whose pose at the stamp is given, by a localization."""
        ratio = log_ratio(localization, T_map_base, covariance)
        if ratio is not None:
            self._credit.weigh(ratio, travelled)

    def state(self, stamp: int, travelled: float) -> TrackerState | None:
        """Return the state of a pose that is, or was, confirmed; None if it never was."""
        if not self.confirmed:
            return TrackerState.LOST if self.lost else None
        return TrackerState.DEGRADED if self.doubt(stamp, travelled) else TrackerState.TRACKING

    def supported(self, stamp: int, travelled: float) -> bool:
        """Whether enough of the last images fit."""
        return self._share * self._decay(stamp, travelled) >= _SUPPORTED

    def doubt(self, stamp: int, travelled: float) -> str:
        """Return why a confirmed pose is not sure, for people; empty if it is."""
        if not self.supported(stamp, travelled):
            seconds, metres = (stamp - self._supported[0]) * 1e-9, travelled - self._supported[1]
            return f"localizations: none, or too few, accepted for {metres:.0f} m and {seconds:.1f} s"
        if self.log_odds < _DOUBTED:
            return "localizations: the last ones were of another place"
        return ""

    def too_long_alone(self, travelled: float, covariance: np.ndarray) -> bool:
        """Whether a pose of this 3x3 covariance has gone without localizations for too long to be followed."""
        sigma = float(np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1]))
        return travelled - self._supported[1] > self._config.lost_distance or sigma > self._config.lost_sigma

    def _decay(self, stamp: int, travelled: float) -> float:
        """Return how much what was noted last still counts at a stamp, by the time and the way since; 0 to 1."""
        seconds, metres = max(stamp - self._noted[0], 0) * 1e-9, max(travelled - self._noted[1], 0.0)
        return float(np.exp(-max(seconds / self._config.degraded_time, metres / self._config.degraded_distance)))
