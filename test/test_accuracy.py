"""The shipped weights, on pairs of towns that they were not trained on. Floors with slack: `cvloc eval` measures."""

from dataclasses import replace

import numpy as np
import pytest

from cvloc_ros.datasets.town import town_pairs
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.evaluation.pairs import localize_pairs
from cvloc_ros.localization.localizer import load_localizer

COUNT = 60


@pytest.fixture(scope="module")
def localizer():
    return load_localizer(None, device="cpu")


@pytest.fixture(scope="module")
def pairs():
    return list(town_pairs(TEST_TOWNS, COUNT, style="train"))


@pytest.fixture(scope="module")
def results(localizer, pairs):
    return list(localize_pairs(localizer, pairs))


def distances(results):
    return np.array([np.hypot(*r.error[:2]) for r in results])


def test_a_frame_alone_is_localized(results):
    assert np.median(distances(results)) < 1.2
    assert np.median(np.abs(np.degrees([r.error[2] for r in results]))) < 1.5


def test_what_is_accepted_is_better_than_what_is_rejected(results):
    accepted = [r for r in results if r.localization.accepted]
    rejected = [r for r in results if not r.localization.accepted]
    assert len(accepted) > COUNT / 2
    assert np.mean(distances(accepted)) < 2.5
    if rejected:
        assert np.mean(distances(accepted)) < np.mean(distances(rejected))


def test_the_covariance_is_of_the_errors_size(results):
    accepted = [r for r in results if r.localization.accepted]
    nees = []
    for r in accepted:
        error = r.localization.T_map_base.vector()  # the map is the true vehicle's frame
        nees.append(error @ np.linalg.solve(r.localization.covariance, error))
    assert 0.5 < np.median(nees) < 8  # honest: 2.4


def test_the_wrong_image_is_as_good_as_chance(localizer, pairs):
    """If a shuffled pair were localized, the pose would be leaking through something but the image."""
    shuffled = [
        replace(one, ground=other.ground, K=other.K, T_base_camera=other.T_base_camera)
        for one, other in zip(pairs, pairs[9:] + pairs[:9], strict=True)
    ]
    found = list(localize_pairs(localizer, shuffled))
    assert np.median(distances(found)) > 6.0
    assert np.mean([r.localization.quality for r in found]) < 0.5


def test_a_blank_image_is_not_believed(localizer, pairs):
    blind = list(localize_pairs(localizer, pairs, blind=True))
    assert np.median(distances(blind)) > 4.0
    assert sum(r.localization.accepted for r in blind) <= COUNT / 8


def test_shifting_the_prior_moves_nothing_but_the_search(localizer, pairs, results):
    """The same pairs from other priors: where both searches are sure, they agree on the place."""
    again = list(localize_pairs(localizer, pairs, seed=7))
    both = [
        (a.localization.T_map_base, b.localization.T_map_base)
        for a, b in zip(results, again, strict=True)
        if a.localization.quality > 0.9 and b.localization.quality > 0.9
    ]
    assert len(both) > COUNT / 4
    apart = [np.hypot(a.x - b.x, a.y - b.y) for a, b in both]
    assert np.median(apart) < 0.8
