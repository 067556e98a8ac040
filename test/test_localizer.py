"""The localizer around a matcher whose answer is known: placing, box, gate. The network has tests of its own."""

from dataclasses import replace

import numpy as np
import pytest

from cvloc_ros.datasets.item import PATCH_GRID
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.evidence import EVIDENCE, weigh_evidence
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.search_box import search_box
from cvloc_ros.localization.types import Frame, Prior
from cvloc_ros.models.matcher import Match, MatchInput

SHIFTS = -1.6 * np.arange(-13, 14)
HEADINGS = np.radians(2.0) * np.arange(-5, 6)
WHATEVER = MatchInput(None, None, None, None, None, box=(20, 20, 0.17))
FINE, FINE_YAW = -0.8 * np.arange(-5, 6), np.radians(1.0) * np.arange(-2, 3)


def gaussian(x, y, yaw, mean, sigma):
    square = (
        ((yaw - mean[2]) / sigma[2])[:, None, None] ** 2
        + ((x - mean[0]) / sigma[0])[None, :, None] ** 2
        + ((y - mean[1]) / sigma[1])[None, None, :] ** 2
    )
    p = np.exp(-0.5 * square)
    return p / p.sum()


class KnownMatcher:
    """Answers with a given pose, as sure of it as it is told."""

    name = "known"
    patch_grid = PATCH_GRID
    search_box = (20.0, np.radians(10.0))
    batch_size = 1

    def __init__(self, pose, *, sigma=(0.5, 0.3, 0.01), solved=True):
        self.pose, self.sigma, self.solved = np.array(pose), sigma, solved
        self.box = None
        self.patches = []

    def match_batch(self, inputs):
        return [self.match(given) for given in inputs]

    def match(self, given):
        self.box = given.box
        self.patches.append(given.patch)
        pose = (SE2(*given.centre) @ SE2(*self.pose)).vector()  # that is, the known pose relative to the prior's
        base = GroundGrid(24, 24, 1.6, 40.0).centres().reshape(-1, 2)
        return Match(
            pose=pose,
            solved=self.solved,
            base=base,
            patch=SE2(*pose).apply(base),
            weights=np.full(len(base), 0.1),
            scales=np.full(len(base), 0.5),
            probability=gaussian(SHIFTS, SHIFTS, HEADINGS, pose, np.maximum(self.sigma, [0.5, 0.5, 0.01])),
            x=SHIFTS,
            y=SHIFTS,
            yaw=HEADINGS,
            local=gaussian(FINE, FINE, FINE_YAW, (0, 0, 0), self.sigma),
            local_shift=FINE,
            local_yaw=FINE_YAW,
            similarity=(0.5, 0.5),
            milliseconds={"match": 1.0},
        )


def calibration(*sigma):
    """A calibration that always answers with the same deviations (m, m, rad), and that it is sure."""
    return Calibration.constant(sigma, 0.9)


def frame():
    camera = PinholeCamera.from_focal(416, 128, 240.0)
    return Frame(5, np.zeros((128, 416, 3), np.uint8), camera, camera_extrinsics(height=1.6))


def localize(matcher, prior, covered=1.0):
    side = matcher.patch_grid.rows
    coverage = np.zeros((side, side), bool)
    coverage[: round(side * covered)] = True
    patch = Patch(np.zeros((side, side, 3), np.uint8), coverage, matcher.patch_grid, prior.T_map_base)
    return Localizer(matcher, calibration(0.5, 0.5, 0.02), None).match(frame(), prior, patch)


WIDE = np.diag([49.0, 49.0, np.radians(4) ** 2])


def test_the_pose_is_placed_in_the_map():
    """A vehicle 3 m ahead and 1 m left of a prior that faces north is 3 m further north and 1 m further west."""
    prior = Prior(SE2(100.0, 50.0, np.pi / 2), WIDE)
    found = localize(KnownMatcher([3.0, 1.0, 0.1]), prior)
    np.testing.assert_allclose(found.T_map_base.vector(), [99.0, 53.0, np.pi / 2 + 0.1], atol=1e-9)
    assert found.stamp == 5
    assert found.posterior.entropy() > 0


def test_covariance_turns_with_the_vehicle():
    """A matcher that is weaker forward than sideways is weak along north when the vehicle faces north."""
    matcher = KnownMatcher([0.0, 0.0, 0.0])
    side = matcher.patch_grid.rows
    image, coverage = np.zeros((side, side, 3), np.uint8), np.ones((side, side), bool)
    patch = Patch(image, coverage, matcher.patch_grid, SE2(0, 0, np.pi / 2))
    found = Localizer(matcher, calibration(1.5, 0.4, 0.02), None).match(
        frame(), Prior(SE2(0, 0, np.pi / 2), WIDE), patch
    )
    assert found.covariance[1, 1] == pytest.approx(1.5**2)
    assert found.covariance[0, 0] == pytest.approx(0.4**2)


@pytest.mark.parametrize(
    ("matcher", "covered", "reason"),
    [
        (KnownMatcher([2.0, 1.0, 0.0]), 0.3, "low_coverage"),
        (KnownMatcher([2.0, 1.0, 0.0], solved=False), 1.0, "degenerate_matches"),
        (KnownMatcher([20.8, 0.0, 0.0]), 1.0, "at_search_edge"),
        (KnownMatcher([2.0, 1.0, 0.0]), 1.0, ""),
    ],
)
def test_rejections_have_reasons(matcher, covered, reason):
    found = localize(matcher, Prior(SE2(), WIDE), covered)
    assert found.reason == reason
    assert found.accepted == (reason == "")


def test_the_search_box_follows_the_prior_in_the_vehicles_axes():
    along_north = Prior(SE2(0, 0, np.pi / 2), np.diag([4.0, 25.0, np.radians(2) ** 2]))
    x, y, yaw = search_box(along_north, (20.0, np.radians(10)))
    assert (x, y, np.degrees(yaw)) == pytest.approx((15.0, 6.0, 6.0))
    sure = Prior(SE2(), np.eye(3) * 1e-6)
    assert search_box(sure, (20.0, np.radians(10))) == pytest.approx((4.0, 4.0, np.radians(4)))
    lost = Prior(SE2(), np.eye(3) * 1e4)
    assert search_box(lost, (20.0, np.radians(10))) == pytest.approx((20.0, 20.0, np.radians(10)))


def test_evidence_is_finite_without_matches():
    match = KnownMatcher([0.0, 0.0, 0.0]).match(WHATEVER)
    empty = Match(**{**match.__dict__, "base": match.base[:0], "patch": match.patch[:0], "weights": match.weights[:0]})
    assert np.isfinite(weigh_evidence(empty).values).all()


def test_evidence_of_a_sharp_vote_is_sharper():
    sharp = KnownMatcher([0, 0, 0], sigma=(0.3, 0.3, 0.005)).match(WHATEVER)
    broad = KnownMatcher([0, 0, 0], sigma=(2.0, 1.0, 0.03)).match(WHATEVER)
    assert (weigh_evidence(sharp).values[:3] < weigh_evidence(broad).values[:3]).all()
    entropy, odds = EVIDENCE.index("entropy of the vote"), EVIDENCE.index("log odds of the votes within 2 m")
    assert weigh_evidence(sharp).values[entropy] < weigh_evidence(broad).values[entropy]
    assert weigh_evidence(sharp).values[odds] > weigh_evidence(broad).values[odds]


def test_evidence_of_matches_that_agree_with_each_other_but_not_with_the_pose():
    """Their residual is about the motion that fits them best, wherever the pose has come from."""
    match = KnownMatcher([2.0, 1.0, 0.07]).match(WHATEVER)
    noise = np.random.default_rng(0).normal(size=match.patch.shape)
    residual = EVIDENCE.index("log of the matches' residual")
    for spread in (0.0, 0.2):
        given = replace(match, patch=match.patch + spread * noise)
        there, beside = (weigh_evidence(each) for each in (given, replace(given, pose=match.pose + [0.4, 0.3, 0.0])))
        assert there.values[residual] == beside.values[residual]
        assert np.exp(there.values[residual]) == pytest.approx(np.sqrt(2) * spread, abs=0.01)


def test_evidence_of_two_places():
    """A second peak behind the estimate widens the vote along the vehicle, not across it, and its odds fall."""
    pose = np.array([2.0, 1.0, np.radians(4)])
    alone = KnownMatcher(pose).match(WHATEVER)
    behind = gaussian(
        SHIFTS, SHIFTS, HEADINGS, pose - 10 * np.array([np.cos(pose[2]), np.sin(pose[2]), 0]), (1, 1, 0.02)
    )
    two = replace(alone, probability=0.5 * alone.probability + 0.5 * behind)
    change = dict(zip(EVIDENCE, weigh_evidence(two).values - weigh_evidence(alone).values, strict=True))
    assert change["log spread of the vote about the estimate forward"] > 1.5
    assert change["log spread of the vote about the estimate left"] < 0.3
    assert change["log odds of the votes within 5 m"] < -2
    assert change["log ratio of the highest vote near the estimate to the highest elsewhere"] < -2
