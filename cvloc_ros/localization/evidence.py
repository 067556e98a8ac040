"""What a match says about its own accuracy: spreads and peaks of the votes, residuals of the matches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cvloc_ros.models.matcher import Match

_LEAST = 1e-6  # a probability under which nothing is told apart
_ELSEWHERE = 4.0  # metres from the estimate from which on a vote counts against it
_SAME_PEAK = 1.5  # metres within which local votes are for the same place

EVIDENCE = (
    "log deviation of the local posterior forward",
    "log deviation of the local posterior left",
    "log deviation of the local posterior in heading",
    "log deviation of the matches' least squares forward",
    "log deviation of the matches' least squares left",
    "log deviation of the matches' least squares in heading",
    "log of the matches' residual",
    "log spread of the vote about the estimate forward",
    "log spread of the vote about the estimate left",
    "log spread of the vote about the estimate in heading",
    "log odds of the votes within 2 m",
    "log odds of the votes within 5 m",
    "log ratio of the highest vote near the estimate to the highest elsewhere",
    "entropy of the vote",
    "entropy of the local posterior",
    "log odds of the local posterior at its border",
    "log ratio of the local posterior's peak to the next",
    "similarity at the vote's peak",
    "similarity at the local peak",
    "log of the number of poses searched",
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


def weigh_evidence(match: Match) -> Evidence:
    """Collect what a match says about its own accuracy; see `EVIDENCE` for the order."""
    local_covariance = _local_covariance(match)
    local_sigma = np.sqrt(np.diag(local_covariance))
    correlation = np.clip(local_covariance / np.outer(local_sigma, local_sigma), -0.9, 0.9)
    np.fill_diagonal(correlation, 1.0)
    if np.linalg.eigvalsh(correlation)[0] < 0.02:
        correlation = np.eye(3)
    places = match.probability.sum(axis=0)
    values = [
        *np.log(local_sigma),
        *np.log(_least_squares_sigma(match)),
        np.log(_residual(match)),
        *_vote(match, places),
        *_local(match.local, match.local_shift),
        *match.similarity,
        np.log(np.count_nonzero(match.probability) + 1.0),
    ]
    return Evidence(np.array(values, dtype=float), correlation, _edge_mass(places))


def _local_covariance(match: Match) -> np.ndarray:
    """Return the covariance (3, 3) of the local posterior over (forward, left, heading)."""
    p, shift, yaw = match.local, match.local_shift, match.local_yaw
    points = np.empty((3, *p.shape))
    points[0], points[1], points[2] = shift[:, None], shift, yaw[:, None, None]
    points, weights = points.reshape(3, -1), p.ravel() / p.sum()
    centred = points - (points @ weights)[:, None]
    covariance = (centred * weights) @ centred.T
    # a posterior that falls into one cell is still as wide as the cell
    for axis, step in enumerate((shift[1] - shift[0], shift[1] - shift[0], yaw[1] - yaw[0])):
        covariance[axis, axis] += step**2 / 12
    return covariance


def _least_squares_sigma(match: Match) -> np.ndarray:
    """Return the deviations of the pose if every match erred independently by its own scale (a lower bound)."""
    information = 1e-3 * np.eye(3)
    if len(match.base):
        precision = match.weights / (match.weights.max() + 1e-12) / (2 * match.scales**2)
        rows = np.zeros((2, 3, len(match.base)))  # what a small motion of the pose does to x and to y of a match
        rows[0, 0], rows[0, 2] = 1, -match.base[:, 1]
        rows[1, 1], rows[1, 2] = 1, match.base[:, 0]
        information += ((rows * precision) @ rows.transpose(0, 2, 1)).sum(0)
    return np.sqrt(np.diag(np.linalg.inv(information)))


def _residual(match: Match) -> float:
    """Return the weighted RMS distance (m) of the matches from where the rigid motion that fits them best puts them.

    The pose may come from elsewhere: its distance from that motion would hide how well the matches agree.
    """
    if not len(match.base):
        return 10.0
    share = match.weights / (match.weights.sum() + 1e-12)
    source, target = (points[:, 0] + 1j * points[:, 1] for points in (match.base, match.patch))
    source, target = (points - share @ points for points in (source, target))
    # turned by the best angle, the products of the pairs add up to their absolute value
    squared = share @ (np.abs(source) ** 2 + np.abs(target) ** 2) - 2 * np.abs(share @ (source.conj() * target))
    return float(np.sqrt(max(squared, 0.0)) + 1e-3)


def _vote(match: Match, places: np.ndarray) -> list[float]:
    """Return how the vote over the search box lies about the estimate: three spreads, two odds, a ratio, entropy.

    ``places`` (shifts forward, shifts left) is the vote, whatever the heading.
    """
    x, y, yaw = match.pose
    headings = match.probability.sum(axis=(1, 2))
    dx, dy = (match.x - x)[:, None], match.y - y
    c, s = np.cos(yaw), np.sin(yaw)
    forward, left, distance = c * dx + s * dy, c * dy - s * dx, np.hypot(dx, dy)
    near = places[distance <= 2.5].max(initial=0.0)
    elsewhere = places[distance > _ELSEWHERE].max(initial=0.0)
    return [
        0.5 * np.log((places * forward**2).sum() + 0.2),
        0.5 * np.log((places * left**2).sum() + 0.2),
        0.5 * np.log((headings * (match.yaw - yaw) ** 2).sum() + 1e-4),
        *(_log_odds(places[distance <= radius].sum()) for radius in (2.0, 5.0)),
        np.log((near + _LEAST) / (elsewhere + _LEAST)),
        _entropy(match.probability),
    ]


def _local(p: np.ndarray, shift: np.ndarray) -> list[float]:
    """Return the shape of the local posterior: its entropy, the odds of its border, its peak over the next."""
    places = p.sum(axis=0)
    row, column = np.unravel_index(places.argmax(), places.shape)
    distance = np.hypot((shift - shift[row])[:, None], (shift - shift[column])[None, :])
    another = places[distance > _SAME_PEAK].max(initial=0.0)
    return [
        _entropy(p),
        # added up by itself: as the rest of one, a millionth would be half rounding
        _log_odds(places[[0, -1]].sum() + places[1:-1, [0, -1]].sum()),
        np.log((places[row, column] + _LEAST) / (another + _LEAST)),
    ]


def _log_odds(share: float) -> float:
    share = min(max(float(share), _LEAST), 1 - _LEAST)
    return math.log(share / (1 - share))


def _entropy(p: np.ndarray) -> float:
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


def _edge_mass(places: np.ndarray) -> float:
    """Return the share of the vote, whatever the heading, on the outermost shifts that were searched."""
    used_x, used_y = (np.flatnonzero(places.any(axis=axis)) for axis in (1, 0))
    if len(used_x) < 3 or len(used_y) < 3:
        return 0.0
    inner = places[used_x[1] : used_x[-1], used_y[1] : used_y[-1]].sum()
    return float(1 - inner)
