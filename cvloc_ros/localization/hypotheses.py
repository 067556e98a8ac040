"""Several hypotheses of where the vehicle is, weighed over successive frames by the matcher's posteriors.

A frame says about a hypothesis what the posterior of its search box says about the hypothesis's pose, as far as the
frame may be believed at all. A wrong answer can repeat itself for metres (a street looks the same a few metres on), so
that evidence grows with travel, not with the number of frames, and what wins must lead over all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.pose_filter import PoseFilter, correlation_factor
from cvloc_ros.localization.types import Localization

_KEPT = 10  # hypotheses
_LONG_BELIEVED = 1000  # sightings of a track
_CHI2_3DOF_999 = 16.266
_TOLERANCE = (2.0, np.radians(3.0))  # m, rad: about one cell and a half of a posterior
_CHANCE = 0.2  # share of the posterior near a pose above which it speaks for the pose
_TELLING = 12.0  # metres: most of a smaller box is near a pose in it anyway, wherever the vehicle is
_TRUST = 0.75  # a frame's quality is taken for no more than this: some are sure and wrong
_INDEPENDENT = 4.0  # metres of travel after which a frame tells something new
_LEAST = -4.0  # log odds fall no lower
_SEEN = 25.0  # metres around a track within which its images may show that another place is better
_EXPECTED = 0.3  # log ratio that a frame at the right place exceeds: where nothing is recognised, nothing is
_PLAUSIBLE = {"": 0.0, "low_quality": 0.3, "at_search_edge": 0.5}  # least quality of a new hypothesis, by gate's reason
_DROPPED = -1.0  # log odds below which a hypothesis is given up
_WINNING, _LEAD = 2.0, 2.0  # log odds of the winner, and by how much it must lead


def log_ratio(localization: Localization, T_map_base: SE2, covariance: np.ndarray) -> float | None:
    """Return how much a frame speaks for a pose (log of the ratio to chance).

    With probability ``quality`` the posterior is right, else the frame says nothing. None is returned if the frame's
    search box does not hold the pose, or is so small that it would speak for any pose in it, or the matches failed.

    Args:
        localization: the frame's, accepted or not.
        T_map_base: the pose at the frame's stamp.
        covariance: 3x3 of that pose, which widens what counts as near.

    """
    step = localization.prior.T_map_base.inverse() @ T_map_base
    inside = np.array(localization.search_box) - [1.0, 1.0, np.radians(0.5)]
    outside = min(localization.search_box[:2]) < _TELLING or (np.abs(step.vector()) > inside).any()
    if outside or not np.isfinite(localization.quality):
        return None
    trust = float(np.clip(localization.quality, 0.0, _TRUST))
    return float(np.log(1 - trust + trust * _share_near(localization, step, covariance) / _CHANCE))


def _share_near(localization: Localization, step: SE2, covariance: np.ndarray) -> float:
    """Return the posterior's share near a pose that lies a ``step`` from the prior."""
    sigma = np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1])
    metres, radians = _TOLERANCE[0] + sigma, _TOLERANCE[1] + np.sqrt(covariance[2, 2])
    posterior = localization.posterior
    if posterior is None:
        gap = (localization.prior.T_map_base @ step).inverse() @ localization.T_map_base
        return float(np.hypot(gap.x, gap.y) <= metres and abs(gap.yaw) <= radians)
    place = posterior.T_patch_prior @ step
    x = np.abs(posterior.x - place.x) <= metres
    y = np.abs(posterior.y - place.y) <= metres
    yaw = np.abs(posterior.yaw - place.yaw) <= radians
    return float(posterior.probability[np.ix_(yaw, x, y)].sum())


@dataclass
class Credit:
    """What frames have said about one hypothesis so far.

    Attributes:
        log_odds: against chance.
        weighed: metres travelled when it was last weighed.
        most: the log odds grow no higher, so that evidence of long ago can be overcome.

    """

    log_odds: float = 0.0
    weighed: float = -np.inf
    most: float = 8.0

    def weigh(self, ratio: float, travelled: float) -> None:
        """Take a frame's `log_ratio` in; of frames close to one another only a part counts."""
        share = float(np.clip((travelled - self.weighed) / _INDEPENDENT, 0.0, 1.0))
        self.log_odds = float(np.clip(self.log_odds + share * ratio, _LEAST, self.most))
        self.weighed = travelled


@dataclass
class Hypothesis:
    """One place where the vehicle may be.

    Attributes:
        filter: its ``T_map_odom``, refined by the localizations that fit.
        stamp: to which the filter was moved.
        credit: what speaks for it.
        born: metres travelled when it was first seen.
        seen: metres travelled when it was last seen.
        sightings: localizations that fitted.

    """

    filter: PoseFilter
    stamp: int
    credit: Credit
    born: float
    seen: float
    sightings: int = 1

    def fits(self, localization: Localization, T_odom_base: SE2) -> bool:
        """Whether a localization may be of this hypothesis."""
        residual, H = self.filter.pose_innovation(T_odom_base, localization.T_map_base)
        S = self.filter.innovation_covariance(H, localization.covariance)
        return bool(residual @ np.linalg.solve(S, residual) <= _CHI2_3DOF_999)


class Hypotheses:
    """The places under consideration, best first."""

    def __init__(self, noise: Callable[[int, int], np.ndarray], *, correlation_distance: float) -> None:
        """Start without any.

        Args:
            noise: ``noise(first, last)`` is odometry's 3x3 error between two stamps.
            correlation_distance: metres over which the errors of neighbouring localizations stay the same.

        """
        self._noise = noise
        self._correlation_distance = correlation_distance
        self._kept: list[Hypothesis] = []

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def weigh(self, localization: Localization, T_odom_base: SE2, travelled: float, *, eager: bool) -> None:
        """Weigh every hypothesis by a localization, accepted or not; one that fits none makes a new one.

        Args:
            localization: of any box.
            T_odom_base: odometry at its stamp.
            travelled: metres until then.
            eager: while nothing is known, hypotheses are also made of what the gate has rejected, if barely.

        """
        least = _PLAUSIBLE.get(localization.reason, np.inf) if eager or localization.accepted else np.inf
        plausible, explained = localization.quality >= least, False
        for hypothesis in self._kept:
            hypothesis.filter.move(T_odom_base, self._noise(hypothesis.stamp, localization.stamp))
            hypothesis.stamp = localization.stamp
            ratio = log_ratio(localization, *hypothesis.filter.pose_at(T_odom_base))
            if ratio is not None:
                hypothesis.credit.weigh(ratio - _EXPECTED, travelled)
            if plausible and hypothesis.fits(localization, T_odom_base):
                explained = True
                self._refine(hypothesis, localization, T_odom_base, travelled)
        if plausible and not explained:
            start = PoseFilter(localization.T_map_base, localization.covariance, T_odom_base)
            ratio = log_ratio(localization, localization.T_map_base, localization.covariance)
            credit = Credit()
            credit.weigh(ratio or 0.0, travelled)
            self._kept.append(Hypothesis(start, localization.stamp, credit, travelled, travelled))
        self._prune(T_odom_base)

    def due(self, T_odom_base: SE2, travelled: float) -> list[SE2]:
        """Return the poses of those, among the best three, that were weighed so long a way ago that it is time again.

        The longest first. While the vehicle stands there are none: it would learn nothing new.
        """
        due = [h for h in self._kept[:3] if travelled - h.credit.weighed >= _INDEPENDENT / 2]
        return [h.filter.pose_at(T_odom_base)[0] for h in sorted(due, key=lambda h: h.credit.weighed)]

    def winner(self, *, sightings: int, distance: float, against: float = -np.inf) -> Hypothesis | None:
        """Return the hypothesis that leads over all others.

        Args:
            sightings: localizations that must have fitted.
            distance: metres of travel over which they must have.
            against: log odds of what else is believed, over which it must lead, too.

        """
        if not self._kept:
            return None
        best = self._kept[0]
        others = [hypothesis.credit.log_odds for hypothesis in self._kept[1:]]
        enough = best.sightings >= sightings and best.seen - best.born >= distance
        leads = best.credit.log_odds >= max([_WINNING, *(odds + _LEAD for odds in (against, *others))])
        return best if enough and leads else None

    def keep(self, displaced: PoseFilter, stamp: int, *, log_odds: float, travelled: float) -> None:
        """Keep a track that another place has displaced: it was believed for long, and may win again."""
        credit = Credit(log_odds, travelled)
        self._kept.append(Hypothesis(displaced, stamp, credit, born=-np.inf, seen=travelled, sightings=_LONG_BELIEVED))

    def keep_rivals(self, T_map_base: SE2, T_odom_base: SE2) -> None:
        """Forget those that are no other place than a pose at ``T_odom_base``, and those too far from it to be seen."""
        poses = [hypothesis.filter.pose_at(T_odom_base)[0] for hypothesis in self._kept]
        self._kept = [
            hypothesis
            for hypothesis, pose in zip(self._kept, poses, strict=True)
            if not _same_place(pose, T_map_base) and np.hypot(pose.x - T_map_base.x, pose.y - T_map_base.y) < _SEEN
        ]

    def _refine(self, hypothesis: Hypothesis, localization: Localization, T_odom_base: SE2, travelled: float) -> None:
        factor = correlation_factor(travelled - hypothesis.seen, self._correlation_distance)
        residual, H = hypothesis.filter.pose_innovation(T_odom_base, localization.T_map_base)
        hypothesis.filter.correct(residual, H, localization.covariance * factor)
        hypothesis.seen = travelled
        hypothesis.sightings += 1

    def _prune(self, T_odom_base: SE2) -> None:
        """Sort, give up the hopeless, and keep the better of two that have become one."""
        kept: list[Hypothesis] = []
        for hypothesis in sorted(self._kept, key=lambda h: -h.credit.log_odds):
            pose = hypothesis.filter.pose_at(T_odom_base)[0]
            known = any(_same_place(other.filter.pose_at(T_odom_base)[0], pose) for other in kept)
            if hypothesis.credit.log_odds > _DROPPED and not known:
                kept.append(hypothesis)
        self._kept = kept[:_KEPT]


def _same_place(one: SE2, other: SE2) -> bool:
    step = one.inverse() @ other
    return bool(np.hypot(step.x, step.y) < 2 * _TOLERANCE[0] and abs(step.yaw) < 2 * _TOLERANCE[1])
