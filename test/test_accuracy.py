"""The shipped weights, on pairs of towns that they were not trained on. Floors with slack: `cvloc eval` measures."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cvloc_ros.datasets.town import town_pairs
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.evaluation.metrics import honesty, nees
from cvloc_ros.evaluation.pairs import localize_pairs
from cvloc_ros.evaluation.town import evaluate_towns, write_accuracy
from cvloc_ros.localization.localizer import load_localizer
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.models.weights import SHIPPED, load_network
from cvloc_ros.training.samples import item_sample, to_inputs
from cvloc_ros.training.scenes import town_item

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


@pytest.fixture(scope="module")
def held_out(localizer):
    """On as many pairs of the held-out style as the card: of 60, three that are 20 m off, or none, are luck."""
    return list(localize_pairs(localizer, town_pairs(TEST_TOWNS, 5 * COUNT, style="heldout")))


def distances(results):
    return np.array([np.hypot(*r.error[:2]) for r in results])


def test_a_frame_alone_is_localized(results):
    assert np.median(distances(results)) < 0.8
    assert np.median(np.abs(np.degrees([r.error[2] for r in results]))) < 1.0


def test_what_is_accepted_is_better_than_what_is_rejected(results, held_out):
    """In the held-out style, of which enough is rejected: in styles that are known it is next to nothing."""
    accepted = [r for r in results if r.localization.accepted]
    assert len(accepted) > 0.65 * COUNT
    assert np.mean(distances(accepted)) < 1.6
    accepted = [r for r in held_out if r.localization.accepted]
    rejected = [r for r in held_out if not r.localization.accepted]
    assert min(len(accepted), len(rejected)) > 0.1 * len(held_out)
    assert np.mean(distances(accepted)) < 0.5 * np.mean(distances(rejected))
    expected = sum(1 - r.localization.quality for r in accepted)
    assert (distances(accepted) > 2).sum() < 1.4 * expected, "as many are wrong as the quality says, or fewer"


def test_the_covariance_is_honest(results):
    """On this few frames with slack; on average an honest NEES is 3, and 95 % are inside."""
    accepted = [r for r in results if r.localization.accepted]
    values = nees(np.array([r.error for r in accepted]), np.array([r.localization.covariance for r in accepted]))
    scores = honesty(values)
    assert 1.5 < scores["mean"] < 5 and scores["within_95"] > 0.85


def test_the_covariance_is_finite_positive_definite_and_longer_along_the_heading(results):
    longer = []
    for r in results:
        covariance, T_map_base = r.localization.covariance, r.localization.T_map_base
        assert np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance).min() > 0
        forward, left = np.diag(T_map_base.rotation().T @ covariance[:2, :2] @ T_map_base.rotation())
        longer.append(np.sqrt(forward / left))
    assert np.median(longer) > 1.3


def test_the_quality_tells_right_from_wrong(localizer, held_out):
    """In both styles: of the towns in known styles too few are wrong to tell."""
    known = list(localize_pairs(localizer, town_pairs(TEST_TOWNS, 2 * COUNT, style="train")))
    results = known + held_out
    quality, right = np.array([r.localization.quality for r in results]), distances(results) < 2
    assert quality[right].mean() > quality[~right].mean() + 0.2
    for style in (slice(0, len(known)), slice(len(known), None)):
        assert abs(quality[style].mean() - right[style].mean()) < 0.15


def test_the_wrong_image_is_as_good_as_chance(localizer, pairs):
    """If a shuffled pair were localized, the pose would be leaking through something but the image."""
    shuffled = [
        replace(one, ground=other.ground, K=other.K, T_base_camera=other.T_base_camera)
        for one, other in zip(pairs, pairs[9:] + pairs[:9], strict=True)
    ]
    found = list(localize_pairs(localizer, shuffled))
    assert np.median(distances(found)) > 6.0
    assert np.mean([r.localization.quality for r in found]) < 0.3
    assert np.mean([r.localization.accepted for r in found]) < 0.1


def test_a_blank_image_is_not_believed(localizer, pairs):
    blind = list(localize_pairs(localizer, pairs, blind=True))
    assert np.median(distances(blind)) > 4.0
    assert sum(r.localization.accepted for r in blind) <= COUNT / 8


@pytest.mark.parametrize("method", ["vote_flow", "dense_flow"])
def test_shifting_the_prior_moves_nothing_but_the_search(method, pairs, results):
    """The same pairs from other priors, and so on other patches: where both searches are sure, they agree."""
    localizer = load_localizer(None, method=method, device="cpu")
    results = results if method == "vote_flow" else list(localize_pairs(localizer, pairs))
    again = list(localize_pairs(localizer, pairs, seed=7))
    both = [
        (a.localization.T_map_base, b.localization.T_map_base)
        for a, b in zip(results, again, strict=True)
        if a.localization.quality > 0.9 and b.localization.quality > 0.9
    ]
    assert len(both) > COUNT / 4
    apart = [np.hypot(a.x - b.x, a.y - b.y) for a, b in both]
    assert np.median(apart) < 0.8


def test_the_table_and_its_figure(localizer, tmp_path):
    """`cvloc eval`, on a few pairs."""
    accuracy = evaluate_towns(localizer, count=4)
    write_accuracy(accuracy, tmp_path)
    table = (tmp_path / "accuracy.md").read_text().splitlines()
    assert [row.split("|")[2].strip().split(" (")[0] for row in table[2:]].count("chance") == 2
    assert set(accuracy.results) == {"unseen towns", "held-out style"}
    assert accuracy.tables["unseen towns"]["vote_flow"]["position_error_m"]["max"] == pytest.approx(
        max(np.hypot(*r.error[:2]) for r in accuracy.results["unseen towns"])
    )
    assert cv2.imread(str(tmp_path / "honesty.png")).std() > 10


@torch.inference_mode()
def test_dense_flow_beats_the_vote_it_starts_from(pairs):
    """On the same frames, from the vote alone to the flow's answer: nearer in the median, in place and in heading."""
    network, rng = load_network(SHIPPED / "dense_flow.safetensors"), np.random.default_rng(0)
    box = (20.0, np.radians(10.0))
    errors = {"start": [], "pose": []}
    for pair in (*pairs, *town_pairs(TEST_TOWNS + 100, COUNT, style="train")):
        sample = item_sample(town_item(pair, rng, grid=network.config.patch, box=box), network.config)
        batch = {name: torch.from_numpy(value)[None] for name, value in sample.items()}
        out = network(**to_inputs(batch))
        for name, found in errors.items():
            found.append(relative_pose(batch["truth"], getattr(out, name))[0].numpy())
    start, pose = (np.abs(np.array(found)) for found in errors.values())
    assert np.median(np.hypot(*pose[:, :2].T)) < 0.95 * np.median(np.hypot(*start[:, :2].T))
    assert np.median(pose[:, 2]) < 0.95 * np.median(start[:, 2])
