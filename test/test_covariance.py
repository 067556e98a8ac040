"""Covariance and quality: what the fit must recover, what it must survive, and that towns left out judge it."""

from dataclasses import fields, replace

import numpy as np
import pytest

from cvloc_ros.datasets.town import TownPair
from cvloc_ros.evaluation.metrics import CHI2_3DOF_95, honesty, nees
from cvloc_ros.evaluation.pairs import draw_tracked_prior
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.evidence import EVIDENCE, Evidence
from cvloc_ros.training.calibrate import ELSEWHERE_EVERY, MEAN_NEES, PER_TOWN, fit, with_images_from_elsewhere

SIGMA = np.array([0.5, 0.25, 0.01])


def frames(count, *, seed, weight=0.6, outliers=0.0):
    """Evidence of which the first tells the deviations; some errors are ten times larger and nothing tells which."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, len(EVIDENCE)))
    sigma = SIGMA * np.exp(weight * values[:, :1]) * np.where(rng.random((count, 1)) < outliers, 10.0, 1.0)
    return [Evidence(v, np.eye(3), 0.0) for v in values], rng.normal(size=(count, 3)) * sigma


def judge(calibration, evidence, errors):
    return nees(errors, np.array([calibration.covariance(e) for e in evidence]))


@pytest.fixture(scope="module")
def fitted():
    evidence, errors = frames(2000, seed=0)
    return fit(evidence, errors, towns=np.arange(2000) // 8)


def test_the_fit_recovers_the_deviations(fitted):
    for strength in (-1.5, 0.0, 1.5):
        values = np.zeros(len(EVIDENCE))
        values[0] = strength
        found = np.sqrt(np.diag(fitted.calibration.covariance(Evidence(values, np.eye(3), 0.0))))
        np.testing.assert_allclose(found, SIGMA * np.exp(0.6 * strength), rtol=0.2)


def test_the_fit_is_honest_about_new_frames_at_both_ends(fitted):
    evidence, errors = frames(2000, seed=1)
    values = judge(fitted.calibration, evidence, errors)
    strength = np.array([e.values[0] for e in evidence])
    for part in (strength < 0, strength > 0):
        assert 2.4 < values[part].mean() < 3.6
        assert 0.92 < np.mean(values[part] <= CHI2_3DOF_95) < 0.98
    right = np.hypot(errors[:, 0], errors[:, 1]) < 2
    quality = np.array([fitted.calibration.probability(e) for e in evidence])
    assert quality[right].mean() > quality[~right].mean() + 0.05
    assert abs(quality.mean() - right.mean()) < 0.03


def test_outliers_that_nothing_tells_do_not_ruin_the_others():
    """The share inside comes first, the mean stays in its bounds: both cannot be had with such tails."""
    evidence, errors = frames(1500, seed=2, outliers=0.02)
    found = fit(evidence, errors, towns=np.arange(1500) // 8)
    scores = honesty(found.nees[found.accepted])
    assert MEAN_NEES[0] - 0.1 < scores["mean"] < MEAN_NEES[1] + 0.1 and scores["within_95"] > 0.93


def test_towns_left_out_keep_a_small_set_from_flattering_itself():
    """With 120 frames and 20 pieces of evidence, most of them noise, a fit looks too good on its own."""
    evidence, errors = frames(120, seed=3)
    found = fit(evidence, errors, towns=np.arange(120) // 8)
    assert honesty(judge(found.calibration, *frames(2000, seed=4)))["mean"] < 4.5


def test_one_town_is_not_enough():
    with pytest.raises(ValueError, match="at least two towns"):
        fit(*frames(20, seed=0), towns=np.zeros(20))


@pytest.mark.parametrize("strength", [-1e9, -5.0, 0.0, 5.0, 1e9])
def test_the_covariance_is_always_finite_and_positive_definite(fitted, strength):
    rng = np.random.default_rng(5)
    for _ in range(20):
        A = rng.normal(size=(3, 3))
        C = A @ A.T + 0.1 * np.eye(3)
        correlation = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
        signs = rng.choice([-1.0, 1.0], len(EVIDENCE))
        covariance = fitted.calibration.covariance(Evidence(strength * signs, correlation, 0.0))
        assert np.isfinite(covariance).all() and np.array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0


def test_a_calibration_travels_in_the_card(fitted):
    card = fitted.to_card()
    assert Calibration.from_card({"calibration": card}) == fitted.calibration
    assert card["pairs"] == 2000 and 2 < card["towns_left_out"]["nees"]["mean"] < 4
    renamed = {**card, "evidence": ["something else", *card["evidence"][1:]]}
    incomplete = {name: value for name, value in card.items() if name != "scale"}
    for wrong in ({}, {"calibration": renamed}, {"calibration": incomplete}):
        with pytest.raises(ValueError, match="expected a calibration"):
            Calibration.from_card(wrong)


def test_a_constant_calibration_answers_what_it_is_told():
    calibration = Calibration.constant((2.0, 1.0, 0.1), 0.8)
    evidence = Evidence(np.full(len(EVIDENCE), 7.0), np.eye(3), 0.0)
    np.testing.assert_allclose(calibration.covariance(evidence), np.diag([4.0, 1.0, 0.01]))
    assert calibration.probability(evidence) == pytest.approx(0.8)
    doubled = replace(calibration, scale=2.0)
    np.testing.assert_allclose(doubled.covariance(evidence), np.diag([16.0, 4.0, 0.04]))


def test_tracked_priors_are_as_wrong_as_they_say():
    rng = np.random.default_rng(0)
    priors = [draw_tracked_prior(rng, None) for _ in range(2000)]
    errors = np.array([prior.T_map_base.inverse().vector() for prior in priors])
    assert nees(errors, np.array([prior.covariance for prior in priors])).mean() == pytest.approx(3.0, abs=0.2)


def test_the_scale_is_right_for_natural_colours():
    """Towns that err three times as much as their evidence says shape the fit; the others stay honest."""
    evidence, errors = frames(2000, seed=5)
    towns = np.arange(2000) // 8
    natural = towns % 2 == 0
    errors[~natural] *= 3
    found = fit(evidence, errors, towns=towns, natural=natural)
    assert MEAN_NEES[0] - 0.1 < found.nees[found.accepted & natural].mean() < MEAN_NEES[1] + 0.1
    assert found.nees[found.accepted & ~natural].mean() > 2 * MEAN_NEES[1]


def test_what_looks_like_an_image_from_elsewhere_is_of_little_quality(fitted):
    """As long as something tells it from the others; the covariance of what is there does not change."""
    evidence, errors = frames(2000, seed=0)
    rng = np.random.default_rng(9)
    values = rng.normal(size=(250, len(EVIDENCE)))
    values[:, 5] += 4
    elsewhere = [Evidence(v, np.eye(3), 0.0) for v in values]
    found = fit(evidence, errors, towns=np.arange(2000) // 8, elsewhere=elsewhere).calibration
    quality = np.array([[each.probability(e) for e in elsewhere] for each in (fitted.calibration, found)]).mean(1)
    assert quality[0] > 0.8 and quality[1] < 0.3
    assert np.mean([found.probability(e) for e in evidence]) > 0.9
    assert found.log_sigma == fitted.calibration.log_sigma


def test_images_from_elsewhere_are_of_another_town():
    pairs = [TownPair(*[None] * len(fields(TownPair))) for _ in range(40)]
    pairs = [replace(pair, ground=k, satellite=k) for k, pair in enumerate(pairs)]
    told = []
    given = list(with_images_from_elsewhere(iter(pairs), told))
    assert [pair.satellite for pair, away in zip(given, told, strict=True) if not away] == list(range(40))
    away = [pair for pair, away in zip(given, told, strict=True) if away]
    assert len(away) == 40 // ELSEWHERE_EVERY - 1  # no town is before the first
    assert all(pair.ground // PER_TOWN == pair.satellite // PER_TOWN - 1 for pair in away)
