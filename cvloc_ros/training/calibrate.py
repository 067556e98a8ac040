"""Fit the covariance and the quality to what the matcher really errs on towns that it was not trained on.

Half of the pairs have colours that no season has: where a town looks different from all that the network knows, its
evidence misleads, and a calibration on familiar towns alone would be twice too sure there. The scale of it all is
right for natural colours. A part of the priors is as good as a tracker's, so that small search boxes are known too.
And now and then the camera is in another town: what cannot be found, on a map that is old or wrong, has to look so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvloc_ros.datasets.town import Town, TownPair, render_pair
from cvloc_ros.datasets.town.seeds import CALIBRATION_TOWNS
from cvloc_ros.evaluation.metrics import CHI2_3DOF_95, honesty, nees
from cvloc_ros.evaluation.pairs import draw_prior, draw_tracked_prior, localize_pairs
from cvloc_ros.localization.covariance import QUALITY_RADIUS, Calibration
from cvloc_ros.localization.evidence import Evidence, weigh_evidence
from cvloc_ros.localization.gate import Gate
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.types import Prior
from cvloc_ros.models.matcher import Match, Matcher, MatchInput

PER_TOWN = 8  # pairs
ELSEWHERE_EVERY = 8  # pairs, after which one has the camera image of another town
SCATTER = 0.4  # share of unnatural colours in every other town, as in training
TRACKED = 1 / 3  # share of priors that are a tracker's
LARGEST_ERROR = np.array([12.0, 12.0, np.radians(12.0)])  # m, m, rad: beyond it wrong is wrong
MEAN_NEES = (2.65, 3.3)
RIDGES = (0.01, 0.04, 0.16)
FOLDS = 5
UNCALIBRATED = Calibration.constant((1.0, 1.0, 1.0), 0.5)


@dataclass(frozen=True, eq=False)
class Fit:
    """A calibration, and what such a one says of towns that were left out of its fit.

    Attributes:
        calibration: fitted to all N frames.
        ridge: chosen among `RIDGES`.
        quality: (N,) of frames of the towns left out.
        right: (N,) whether their position is within `QUALITY_RADIUS`.
        accepted: (N,) whether the gate lets them through.
        nees: (N,) of their errors.

    """

    calibration: Calibration
    ridge: float
    quality: np.ndarray
    right: np.ndarray
    accepted: np.ndarray
    nees: np.ndarray

    def to_card(self) -> dict:
        """Return the calibration for a card, with what it rests on."""
        left_out = {
            "accepted": float(self.accepted.mean()),
            "within_2m": float(self.right[self.accepted].mean()),
            "nees": honesty(self.nees[self.accepted]),
        }
        return self.calibration.to_card() | {"pairs": len(self.nees), "ridge": self.ridge, "towns_left_out": left_out}


class _Recorder:
    """A matcher that keeps the evidence of everything it matched."""

    def __init__(self, matcher: Matcher):
        self.matcher = matcher
        self.evidence: list[Evidence] = []
        self.name, self.batch_size = matcher.name, matcher.batch_size
        self.patch_grid, self.search_box = matcher.patch_grid, matcher.search_box
        self.expect = matcher.expect

    def match_batch(self, inputs: Sequence[MatchInput]) -> list[Match]:
        matches = self.matcher.match_batch(inputs)
        self.evidence += map(weigh_evidence, matches)
        return matches


def calibrate(matcher: Matcher, *, pairs: int) -> Fit:
    """Localize pairs of the calibration towns (training's styles, other seeds) and fit the model to the errors."""
    recorder = _Recorder(matcher)
    localizer = Localizer(recorder, UNCALIBRATED, None)
    elsewhere: list[bool] = []
    given = with_images_from_elsewhere(calibration_pairs(pairs), elsewhere)
    errors = np.array([result.error for result in localize_pairs(localizer, given, seed=1, draw=_draw_prior)])
    here, there = np.flatnonzero(~np.array(elsewhere)), np.flatnonzero(elsewhere)
    towns = np.arange(len(here)) // PER_TOWN
    return fit(
        [recorder.evidence[i] for i in here],
        errors[here],
        towns=towns,
        natural=towns % 2 == 0,  # see `calibration_pairs`
        elsewhere=[recorder.evidence[i] for i in there],
    )


def calibration_pairs(count: int) -> Iterator[TownPair]:
    """Render pairs of the calibration towns, every other town in unnatural colours."""
    for i in range(-(-count // PER_TOWN)):
        town = Town.generate(CALIBRATION_TOWNS + i, style="train")
        for k in range(min(PER_TOWN, count - i * PER_TOWN)):
            yield render_pair(town, k, scatter=SCATTER if i % 2 else 0.0)


def with_images_from_elsewhere(pairs: Iterable[TownPair], told: list[bool]) -> Iterator[TownPair]:
    """Yield pairs, and after every `ELSEWHERE_EVERY` the last again with the camera image of a town before.

    Args:
        pairs: `PER_TOWN` of each town.
        told: gets, pair by pair, whether the image is from elsewhere.

    """
    before: deque[TownPair] = deque(maxlen=PER_TOWN + 1)
    for k, pair in enumerate(pairs):
        before.append(pair)
        told.append(False)
        yield pair
        if k % ELSEWHERE_EVERY == ELSEWHERE_EVERY - 1 and len(before) > PER_TOWN:
            told.append(True)
            other = before[0]
            yield replace(pair, ground=other.ground, K=other.K, T_base_camera=other.T_base_camera)


def _draw_prior(rng: np.random.Generator, localizer: Localizer) -> Prior:
    return draw_tracked_prior(rng, localizer) if rng.random() < TRACKED else draw_prior(rng, localizer)


def fit(
    evidence: list[Evidence],
    errors: np.ndarray,
    *,
    towns: np.ndarray,
    natural: np.ndarray | None = None,
    elsewhere: Sequence[Evidence] = (),
) -> Fit:
    """Fit a `Calibration`; what is chosen, and the scale, rest on towns that were left out of the fit.

    Args:
        evidence: of N frames.
        errors: (N, 3) forward, left (m) and heading (rad) in the frame of the truth.
        towns: (N,) which town a frame is of.
        natural: (N,) the frames that the scale is taken from; all if None.
        elsewhere: of more frames, which cannot be found where they are sought: wrong, as the quality is to say.

    Raises:
        ValueError: all frames are of one town.

    """
    folds = np.unique(towns, return_inverse=True)[1] % FOLDS
    if not folds.any():
        raise ValueError("expected frames of at least two towns to calibrate with, got one: use more pairs")
    c, s = np.cos(errors[:, 2]), np.sin(errors[:, 2])
    forward, left = c * errors[:, 0] + s * errors[:, 1], c * errors[:, 1] - s * errors[:, 0]
    errors = np.stack([forward, left, errors[:, 2]], axis=-1)  # in the axes of the estimate, as its covariance is

    left_out = {ridge: _answer_left_out(evidence, errors, folds, ridge, elsewhere) for ridge in RIDGES}
    ridge = min(RIDGES, key=lambda each: _score(*left_out[each], errors))
    covariances, quality = left_out[ridge]
    values = nees(errors, covariances)
    accepted = _accepted(evidence, covariances, quality)
    natural = np.ones(len(errors), bool) if natural is None else natural
    scale = _scale(values[accepted & natural] if (accepted & natural).any() else values)
    accepted = _accepted(evidence, scale**2 * covariances, quality)
    calibration = replace(_regress(evidence, errors, ridge, elsewhere), scale=scale)
    return Fit(calibration, ridge, quality, _right(errors), accepted, values / scale**2)


def _answer_left_out(
    evidence: list[Evidence], errors: np.ndarray, folds: np.ndarray, ridge: float, elsewhere: Sequence[Evidence]
) -> tuple[np.ndarray, np.ndarray]:
    """Return covariances (N, 3, 3) and qualities (N,), each from a fit to the other folds."""
    covariances, quality = np.zeros((len(errors), 3, 3)), np.zeros(len(errors))
    for fold in np.unique(folds):
        rest = np.flatnonzero(folds != fold)
        calibration = _regress([evidence[i] for i in rest], errors[rest], ridge, elsewhere)
        for i in np.flatnonzero(folds == fold):
            covariances[i] = calibration.covariance(evidence[i])
            quality[i] = calibration.probability(evidence[i])
    return covariances, quality


def _score(covariances: np.ndarray, quality: np.ndarray, errors: np.ndarray) -> float:
    """Return how badly answers fit (negative logarithm of the likelihood of the errors and of being right or not)."""
    likelihood = nees(np.clip(errors, -LARGEST_ERROR, LARGEST_ERROR), covariances) + np.linalg.slogdet(covariances)[1]
    agreed = np.where(_right(errors), quality, 1 - quality)
    return float((0.5 * likelihood - np.log(np.maximum(agreed, 1e-6))).mean())


def _accepted(evidence: list[Evidence], covariances: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return which frames (N,) the default gate lets through."""
    gate = Gate()
    rows = zip(evidence, covariances, quality, strict=True)
    return np.array([not gate.check(covered=1.0, quality=q, covariance=c, edge_mass=e.edge_mass) for e, c, q in rows])


def _scale(values: np.ndarray) -> float:
    """Return the factor on the deviations that puts 95 % of NEES values (N,) into the regions that claim it.

    Errors have heavier tails than a Gaussian, so that a mean NEES of 3 and 95 % inside cannot both be had. The share
    decides, as long as the mean is within `MEAN_NEES`.
    """
    mean = values.mean() / np.quantile(values, 0.95) * CHI2_3DOF_95  # that 95 % inside would lead to
    return round(float(np.sqrt(values.mean() / np.clip(mean, *MEAN_NEES))), 6)


def _right(errors: np.ndarray) -> np.ndarray:
    return np.hypot(errors[:, 0], errors[:, 1]) < QUALITY_RADIUS


def _regress(evidence: list[Evidence], errors: np.ndarray, ridge: float, elsewhere: Sequence[Evidence]) -> Calibration:
    """Fit both regressions, with a scale of 1."""
    values = np.stack([e.values for e in evidence])
    start = replace(UNCALIBRATED, mean=_rounded(values.mean(0)), deviation=_rounded(values.std(0) + 1e-6))
    inputs = torch.from_numpy(start.standardize(values))
    squared = torch.from_numpy(np.clip(np.abs(errors), 1e-3, LARGEST_ERROR) ** 2)
    judged = torch.from_numpy(start.standardize(np.stack([e.values for e in (*evidence, *elsewhere)])))
    right = torch.from_numpy(np.append(_right(errors), np.zeros(len(elsewhere))))

    def sigma_loss(weights: torch.Tensor) -> torch.Tensor:
        log_sigma = inputs @ weights.T
        return (0.5 * squared * torch.exp(-2 * log_sigma) + log_sigma).sum(1).mean()

    def quality_loss(weights: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(judged @ weights, right)

    log_sigma = torch.zeros(3, inputs.shape[1], dtype=torch.float64)
    log_sigma[:, 0] = 0.5 * squared.mean(0).log()
    log_sigma = _minimize(sigma_loss, log_sigma, ridge)
    quality = _minimize(quality_loss, torch.zeros(inputs.shape[1], dtype=torch.float64), ridge)
    return replace(start, log_sigma=tuple(map(_rounded, log_sigma.numpy())), quality=_rounded(quality.numpy()))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.round(6).tolist())


def _minimize(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, ridge: float) -> torch.Tensor:
    """Minimize with L-BFGS, with a ridge on everything but the intercepts."""
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(weights) + ridge * weights[..., 1:].square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()
