"""How sure an estimate is: evidence from the matcher, calibrated on towns that it was not trained on.

The matcher's own spreads (of the votes, of the matches) order the frames well but are not metres. A log-linear model
turns them into deviations along the vehicle's axes, because the longitudinal direction is weaker than the lateral one;
a logistic model turns them into a quality, the probability that the position is within two metres. Both are fitted by
`cvloc_ros.training.calibrate`, and their numbers travel in the weights' card.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from cvloc_ros.localization.evidence import EVIDENCE, Evidence

QUALITY_RADIUS = 2.0  # m
_FLOOR = np.array([0.05, 0.05, np.radians(0.05)])  # m, m, rad: nothing is known better than this
_CEILING = np.array([50.0, 50.0, np.pi])
_FARTHEST = 4.0  # deviations of evidence from its mean: beyond what was calibrated nothing is extrapolated


@dataclass(frozen=True)
class Calibration:
    """The fitted model: standardization of the evidence and the weights of both regressions, in `EVIDENCE` order.

    Attributes:
        mean: of each evidence over the calibration set.
        deviation: likewise.
        log_sigma: 3 rows (forward, left, heading) of an intercept and a weight for each evidence.
        quality: an intercept and a weight for each evidence.
        scale: factor on all deviations that makes them honest for accepted frames.

    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    log_sigma: tuple[tuple[float, ...], ...]
    quality: tuple[float, ...]
    scale: float

    @classmethod
    def constant(cls, sigma: tuple[float, float, float], quality: float) -> Calibration:
        """Return one that answers all evidence with the same deviations (m, m, rad) and the same quality."""
        nothing = (0.0,) * len(EVIDENCE)
        return cls(
            mean=nothing,
            deviation=(1.0,) * len(EVIDENCE),
            log_sigma=tuple((float(np.log(value)), *nothing) for value in sigma),
            quality=(float(np.log(quality / (1 - quality))), *nothing),
            scale=1.0,
        )

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        """Mean, deviation, ``log_sigma`` (3, 1 + len(EVIDENCE)) and ``quality``: every image needs them."""
        return tuple(np.array(each) for each in (self.mean, self.deviation, self.log_sigma, self.quality))

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """Return evidence (..., len(EVIDENCE)) as the regressions take it: a one, then deviations from the mean."""
        mean, deviation, *_ = self._arrays
        z = np.ones((*values.shape[:-1], values.shape[-1] + 1))
        z[..., 1:] = ((values - mean) / deviation).clip(-_FARTHEST, _FARTHEST)
        return z

    def covariance(self, evidence: Evidence) -> np.ndarray:
        """Return the 3x3 covariance over (forward m, left m, heading rad); finite and positive definite."""
        _, _, log_sigma, _ = self._arrays
        sigma = self.scale * np.exp(log_sigma @ self.standardize(evidence.values))
        sigma = sigma.clip(_FLOOR, _CEILING)
        return evidence.correlation * np.outer(sigma, sigma)

    def probability(self, evidence: Evidence) -> float:
        """Return the probability that the position is within `QUALITY_RADIUS`."""
        *_, quality = self._arrays
        return float(1 / (1 + np.exp(-quality @ self.standardize(evidence.values))))

    @classmethod
    def from_card(cls, card: dict) -> Calibration:
        """Read the calibration of a weights' card.

        Raises:
            ValueError: the card has none, or one of other evidence than this version weighs.

        """
        try:
            numbers = card["calibration"]
            calibration = cls(
                mean=tuple(numbers["mean"]),
                deviation=tuple(numbers["deviation"]),
                log_sigma=tuple(tuple(row) for row in numbers["log_sigma"]),
                quality=tuple(numbers["quality"]),
                scale=float(numbers["scale"]),
            )
            evidence = tuple(numbers["evidence"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"expected a calibration in the weights' card, got none that is complete ({error!r}): use a card "
                "written by `cvloc train`"
            ) from None
        weights = {len(row) for row in (*calibration.log_sigma, calibration.quality)}
        if evidence != EVIDENCE or weights != {len(EVIDENCE) + 1}:
            raise ValueError(
                f"expected a calibration of the {len(EVIDENCE)} pieces of evidence that this version weighs in the "
                f"weights' card, got one of {len(evidence)}: use weights of this version"
            )
        return calibration

    def to_card(self) -> dict:
        """Return what `from_card` reads."""
        return asdict(self) | {"evidence": list(EVIDENCE)}
