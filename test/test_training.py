import csv

import cv2
import numpy as np
import pytest

from cvloc_ros.datasets.town import Town, TownPair, crop_patch
from cvloc_ros.datasets.town.classes import WALLED
from cvloc_ros.datasets.town.pairs import CLASS_GRID
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.samples import AugmentConfig, TownSamples, make_sample
from cvloc_ros.training.train import learning_rate, train

CONFIG = VoteFlowConfig()
SATELLITE = GroundGrid.centred(400, 0.4)


@pytest.fixture(scope="module")
def town():
    return Town.generate(3)


def dotted_pair(dot):
    """A pair whose only mark, on the ground at ``dot`` (m, vehicle frame), is white in both views."""
    camera = PinholeCamera.from_focal(416, 128, 240.0)
    T = camera_extrinsics(height=1.65, x=0.8, y=0.2, yaw=0.05)
    ground, satellite = np.zeros((128, 416, 3), np.uint8), np.zeros((400, 400, 3), np.uint8)
    (u, v), visible = camera.project((np.linalg.inv(T) @ [*dot, 0.0, 1.0])[:3])
    assert visible
    cv2.circle(ground, (round(u), round(v)), 2, (255, 255, 255), -1)
    row, col = SATELLITE.to_cells(np.array(dot))
    cv2.circle(satellite, (round(col), round(row)), 2, (255, 255, 255), -1)
    classes = np.zeros((200, 200, 3), np.uint8)
    row, col = CLASS_GRID.to_cells(np.array(dot)).round().astype(int)
    classes[row, col, 0] = WALLED
    return TownPair(
        ground=ground,
        K=camera.K,
        T_base_camera=T,
        tilt=np.zeros(2),
        satellite=satellite,
        T_map_base=SE2(),
        classes=classes,
    )


def bright_centre(image):
    rows, cols = np.nonzero(image[0] > 60)
    assert len(rows)
    return np.array([rows.mean(), cols.mean()])


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_truth_image_and_patch_of_a_sample_agree(mirrored):
    """The dot's pixel in the image, taken to the ground and placed by the truth, is its place on the patch."""
    pair = dotted_pair((12.4, 2.8))  # the centre of a cell of the classes
    augment = AugmentConfig(mirrored=mirrored, blank_ground=0.0, partial_coverage=0.0, recoloured=0.0)
    for seed in range(4):
        sample = make_sample(pair, np.random.default_rng(seed), CONFIG, augment)
        row, col = bright_centre(sample["image"])
        seen = np.array([(col + 0.5) / 416, (row + 0.5) / 128]) * 2 - 1
        cells = CONFIG.bev_samples.centres()
        away = np.linalg.norm((sample["pixels"][0] - seen) * [208, 64], axis=-1) + 1e3 * ~sample["visible"][0]
        cell = np.unravel_index(away.argmin(), away.shape)
        on_ground = cells[cell]
        assert on_ground[1] * (-1 if mirrored else 1) > 0  # the dot is left of the vehicle, right once mirrored
        on_patch = CONFIG.patch.to_metres(bright_centre(sample["patch"]))
        truth = SE2(*sample["truth"].astype(float))
        np.testing.assert_allclose(truth.apply(on_ground), on_patch, atol=0.9)
        named = cells[sample["bev_classes"][0] == WALLED]
        np.testing.assert_allclose(named[0], on_ground, atol=0.9)
        named = CONFIG.patch.coarser(2).centres()[sample["patch_classes"][0] == WALLED]
        np.testing.assert_allclose(named.mean(axis=0), on_patch, atol=0.9)


def test_crop_is_where_its_pose_says():
    satellite = np.zeros((400, 400, 3), np.uint8)
    point = np.array([7.0, -11.0])
    row, col = SATELLITE.to_cells(point).round().astype(int)
    satellite[row, col] = 255
    T = SE2(3.0, -5.0, 0.15)
    patch = crop_patch(satellite, SATELLITE, T, CONFIG.patch)
    weight = patch[..., 0].astype(float)
    found = (CONFIG.patch.centres() * weight[..., None]).sum((0, 1)) / weight.sum()
    np.testing.assert_allclose(T.apply(found), SATELLITE.to_metres(np.array([row, col])), atol=0.02)


def test_the_stream_is_seeded_and_its_priors_fill_the_box(town):
    first = TownSamples(0, CONFIG, pairs_per_town=4, pool=4)
    again = TownSamples(0, CONFIG, pairs_per_town=4, pool=4)
    a, b = iter(first), iter(again)
    truths = []
    for _ in range(6):
        one, other = next(a), next(b)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
        truths.append(one["truth"])
    assert np.abs(np.array(truths)[:, :2]).max() > 8
    assert (np.abs(np.array(truths)) <= [20, 20, np.radians(10.001)]).all()


def test_learning_rate_rises_holds_and_falls():
    config = TrainConfig(samples=10_000, warm_up=1000, decay=0.2, learning_rate=1.0)
    rates = [learning_rate(config, seen) for seen in (0, 500, 1000, 7900, 9000, 10_000)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 1, 0.5, 0], atol=1e-9)


@pytest.mark.slow
def test_a_run_can_be_resumed_and_its_log_goes_on(tmp_path):
    settings = dict(batch=4, workers=0, threads=1, validation_pairs=4, validate_every=8)
    train(TrainConfig(samples=8, **settings), tmp_path, resume=False, report=lambda seen, row: None)
    network = train(TrainConfig(samples=16, **settings), tmp_path, resume=True, report=lambda seen, row: None)
    assert isinstance(network, VoteFlow)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["seen"]) for r in rows] == [4, 8, 12, 16]
    assert float(rows[-1]["heldout_mean_m"]) > 0
    with pytest.raises(FileNotFoundError, match="resume"):
        train(TrainConfig(samples=8), tmp_path / "none", resume=True, report=lambda seen, row: None)
