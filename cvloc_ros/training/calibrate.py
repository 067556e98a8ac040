"""Fit the covariance and the quality to what the matcher really errs on towns that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cvloc_ros.datasets.town import town_pairs
from cvloc_ros.datasets.town.seeds import CALIBRATION_TOWNS
from cvloc_ros.evaluation.pairs import localize_pairs
from cvloc_ros.localization.covariance import (
    EVIDENCE,
    QUALITY_RADIUS,
    Calibration,
    Evidence,
    weigh_evidence,
)
from cvloc_ros.localization.gate import Gate, GateConfig
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models.matcher import Match, Matcher

LARGEST_ERROR = np.array([8.0, 8.0, np.radians(8.0)])  # m, m, rad: beyond it wrong is wrong
UNCALIBRATED = Calibration(
    mean=(0.0,) * len(EVIDENCE),
    deviation=(1.0,) * len(EVIDENCE),
    log_sigma=((0.0,) * (len(EVIDENCE) + 1),) * 3,
    quality=(0.0,) * (len(EVIDENCE) + 1),
    scale=1.0,
)


class _Recorder:
    """A matcher that keeps the evidence of everything it matched."""

    def __init__(self, matcher: Matcher):
        self.matcher = matcher
        self.evidence: list[Evidence] = []
        self.name, self.patch_grid, self.search_box = matcher.name, matcher.patch_grid, matcher.search_box

    def match(self, *inputs, **keywords) -> Match:
        match = self.matcher.match(*inputs, **keywords)
        self.evidence.append(weigh_evidence(match))
        return match


def calibrate(matcher: Matcher, *, pairs: int) -> Calibration:
    """Localize pairs of the calibration towns (training's styles, other seeds) and fit the model to the errors."""
    recorder = _Recorder(matcher)
    localizer = Localizer(recorder, UNCALIBRATED, None)
    results = localize_pairs(localizer, town_pairs(CALIBRATION_TOWNS, pairs, style="train"), seed=1)
    errors = [result.error for result in results]
    return fit(recorder.evidence, np.array(errors))


def fit(evidence: list[Evidence], errors: np.ndarray) -> Calibration:
    """Fit a `Calibration`.

    Args:
        evidence: of N frames.
        errors: (N, 3) forward, left (m) and heading (rad).

    """
    values = np.stack([e.values for e in evidence])
    mean, deviation = values.mean(0), values.std(0) + 1e-6
    z = torch.tensor(np.clip((values - mean) / deviation, -4, 4), dtype=torch.float64)
    inputs = torch.cat([torch.ones(len(z), 1, dtype=torch.float64), z], dim=1)
    squared = torch.tensor(np.clip(np.abs(errors), 1e-3, LARGEST_ERROR) ** 2)
    right = torch.tensor(np.linalg.norm(errors[:, :2], axis=1) < QUALITY_RADIUS, dtype=torch.float64)

    def sigma_loss(weights: torch.Tensor) -> torch.Tensor:
        log_sigma = inputs @ weights.T
        return (0.5 * squared * torch.exp(-2 * log_sigma) + log_sigma).sum(1).mean()

    def quality_loss(weights: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, right)

    start = torch.zeros(3, inputs.shape[1], dtype=torch.float64)
    start[:, 0] = 0.5 * squared.mean(0).log()
    log_sigma = _minimize(sigma_loss, start)
    quality = _minimize(quality_loss, torch.zeros(inputs.shape[1], dtype=torch.float64))
    rounded = Calibration(
        mean=tuple(mean.round(6).tolist()),
        deviation=tuple(deviation.round(6).tolist()),
        log_sigma=tuple(tuple(row) for row in log_sigma.numpy().round(6).tolist()),
        quality=tuple(quality.numpy().round(6).tolist()),
        scale=1.0,
    )
    return Calibration(**{**rounded.to_card(), "scale": _scale(rounded, evidence, errors)})


def _scale(calibration: Calibration, evidence: list[Evidence], errors: np.ndarray) -> float:
    """Return the factor on the deviations that makes the mean NEES of accepted frames its 3 degrees of freedom."""
    gate = Gate(GateConfig())
    nees = []
    for e, error in zip(evidence, errors, strict=True):
        covariance, quality = calibration.covariance(e), calibration.probability(e)
        if not gate.check(covered=1.0, quality=quality, covariance=covariance, edge_mass=e.edge_mass):
            nees.append(float(error @ np.linalg.solve(covariance, error)))
    # an outlier that got through is the gate's fault: it must not widen every other frame
    kept = np.sort(nees)[: max(1, int(0.99 * len(nees)))]
    return round(float(np.sqrt(kept.mean() / 3)), 6)


def _minimize(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, ridge: float = 2e-3) -> torch.Tensor:
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
