"""How sure an estimate is: evidence from the matcher, calibrated on towns that it was not trained on.

The matcher's own spreads (of the vote's posterior, of the local posterior, of the matches) order the frames well but
are not metres. A log-linear model with a dozen inputs turns them into deviations along the vehicle's axes, because
the longitudinal direction is weaker than the lateral one; a logistic model turns them into a quality, the
probability that the position is within two metres. Both are fitted by `cvloc_ros.training.calibrate`, and their
numbers travel in the weights' card.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cvloc_ros.models.matcher import Match

QUALITY_RADIUS = 2.0  # m
_NEAR = (3.0, np.radians(3.0))  # how near to the estimate a vote counts as one for it
_FLOOR = np.array([0.05, 0.05, np.radians(0.05)])  # m, m, rad: nothing is known better than this

EVIDENCE = (
    "log deviation of the local posterior forward",
    "log deviation of the local posterior left",
    "log deviation of the local posterior in heading",
    "log deviation of the matches' least squares forward",
    "log deviation of the matches' least squares left",
    "log deviation of the matches' least squares in heading",
    "log of the matches' residual",
    "entropy of the vote",
    "log odds of the votes near the estimate",
    "log spread of the vote",
    "similarity at the vote's peak",
    "similarity at the local peak",
    "log of the effective number of matches",
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a match says about its own accuracy.

    Attributes:
        values: (len(EVIDENCE),) as named there.
        correlation: 3x3 of the local posterior over (forward, left, heading).
        edge_mass: share of the vote at the border of the search box.

    """

    values: np.ndarray
    correlation: np.ndarray
    edge_mass: float


@dataclass(frozen=True)
class Calibration:
    """The fitted model: standardization of the evidence and the weights of both regressions, in `EVIDENCE` order.

    Attributes:
        mean: of each evidence over the calibration set.
        deviation: likewise.
        log_sigma: 3 rows (forward, left, heading) of an intercept and a weight for each evidence.
        quality: an intercept and a weight for each evidence.
        scale: factor on all deviations that brings the mean NEES of accepted frames to 3.

    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    log_sigma: tuple[tuple[float, ...], ...]
    quality: tuple[float, ...]
    scale: float

    def _standard(self, evidence: Evidence) -> np.ndarray:
        z = (evidence.values - np.array(self.mean)) / np.array(self.deviation)
        return np.concatenate([[1.0], np.clip(z, -4, 4)])  # beyond what was calibrated nothing is extrapolated

    def covariance(self, evidence: Evidence) -> np.ndarray:
        """Return the 3x3 covariance over (forward m, left m, heading rad); finite and positive definite."""
        sigma = self.scale * np.exp(np.array(self.log_sigma) @ self._standard(evidence))
        sigma = np.clip(sigma, _FLOOR, [50.0, 50.0, np.pi])
        return evidence.correlation * np.outer(sigma, sigma)

    def probability(self, evidence: Evidence) -> float:
        """Return the probability that the position is within `QUALITY_RADIUS`."""
        return float(1 / (1 + np.exp(-np.array(self.quality) @ self._standard(evidence))))

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
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"expected a calibration in the weights' card, got none that is complete ({error!r}): use a card "
                "written by `cvloc train`"
            ) from None
        weights = {len(row) for row in (*calibration.log_sigma, calibration.quality)}
        if len(calibration.mean) != len(EVIDENCE) or weights != {len(EVIDENCE) + 1}:
            raise ValueError(
                f"expected a calibration of {len(EVIDENCE)} pieces of evidence in the weights' card, got one of "
                f"{len(calibration.mean)}: use weights of this version"
            )
        return calibration

    def to_card(self) -> dict:
        """Return what `from_card` reads."""
        return asdict(self)


def weigh_evidence(match: Match) -> Evidence:
    """Collect what a match says about its own accuracy; see `EVIDENCE` for the order."""
    local_covariance = _spread(match.local, match.local_shift, match.local_shift, match.local_yaw)
    # a posterior that falls into one cell is still as wide as the cell
    step = np.array([match.local_shift[0] - match.local_shift[1]] * 2 + [match.local_yaw[1] - match.local_yaw[0]])
    local_covariance = local_covariance + np.diag(step**2 / 12)
    local_sigma = np.sqrt(np.diag(local_covariance))
    correlation = np.clip(local_covariance / np.outer(local_sigma, local_sigma), -0.9, 0.9)
    np.fill_diagonal(correlation, 1.0)
    if np.linalg.eigvalsh(correlation)[0] < 0.02:
        correlation = np.eye(3)

    squares_sigma = _least_squares_sigma(match)
    residual = _residual(match)
    p = match.probability
    near = (
        (np.abs(match.yaw - match.pose[2]) <= _NEAR[1])[:, None, None]
        & (np.abs(match.x - match.pose[0]) <= _NEAR[0])[None, :, None]
        & (np.abs(match.y - match.pose[1]) <= _NEAR[0])[None, None, :]
    )
    mass = float(np.clip(p[near].sum(), 1e-6, 1 - 1e-6))
    spread = _spread(p, match.x, match.y, match.yaw)
    positive = p[p > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    effective = match.weights.sum() ** 2 / max(float((match.weights**2).sum()), 1e-12)
    values = [
        *np.log(local_sigma),
        *np.log(squares_sigma),
        np.log(residual),
        entropy,
        np.log(mass / (1 - mass)),
        0.5 * np.log(spread[0, 0] + spread[1, 1] + 1e-2),
        *match.similarity,
        np.log(effective + 1e-3),
    ]
    return Evidence(np.array(values, dtype=float), correlation, _edge_mass(p))


def _spread(p: np.ndarray, x: np.ndarray, y: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Return the covariance (3, 3) over (x, y, yaw) of probabilities (yaws, xs, ys)."""
    axes = np.meshgrid(yaw, x, y, indexing="ij")
    points = np.stack([axes[1].ravel(), axes[2].ravel(), axes[0].ravel()])
    weights = p.ravel() / p.sum()
    centred = points - (points @ weights)[:, None]
    return (centred * weights) @ centred.T


def _least_squares_sigma(match: Match) -> np.ndarray:
    """Return the deviations of the pose if every match erred independently by its own scale (a lower bound)."""
    information = 1e-3 * np.eye(3)
    if len(match.base):
        precision = match.weights / (match.weights.max() + 1e-12) / (2 * match.scales**2)
        x, y = match.base[:, 0], match.base[:, 1]
        one, zero = np.ones_like(x), np.zeros_like(x)
        for row in (np.stack([one, zero, -y]), np.stack([zero, one, x])):
            information += (row * precision) @ row.T
    return np.sqrt(np.diag(np.linalg.inv(information)))


def _residual(match: Match) -> float:
    """Return the weighted RMS distance (m) of the matches from where the pose puts them."""
    if not len(match.base):
        return 10.0
    x, y, yaw = match.pose
    c, s = np.cos(yaw), np.sin(yaw)
    placed = match.base @ np.array([[c, s], [-s, c]]) + [x, y]
    squared = ((placed - match.patch) ** 2).sum(-1)
    return float(np.sqrt((match.weights * squared).sum() / (match.weights.sum() + 1e-12)) + 1e-3)


def _edge_mass(p: np.ndarray) -> float:
    """Return the share of the vote on the outermost shifts that were searched."""
    used_x, used_y = np.flatnonzero(p.any(axis=(0, 2))), np.flatnonzero(p.any(axis=(0, 1)))
    if len(used_x) < 3 or len(used_y) < 3:
        return 0.0
    inner = p[:, used_x[1] : used_x[-1], used_y[1] : used_y[-1]].sum()
    return float(1 - inner)
