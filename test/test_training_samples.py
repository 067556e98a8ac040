"""Training samples: truth, image and patch of each agree, whatever data set it is from; the stream starts anywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from test_pairs import table  # noqa: F401 (fixture: a town as pairs)

from cvloc_ros.datasets.protocols import TRAINING, open_training
from cvloc_ros.datasets.town import TownPair, crop_patch
from cvloc_ros.datasets.town.classes import WALLED
from cvloc_ros.datasets.town.pairs import CLASS_GRID
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.network_inputs import PatchView, View
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.training import stream
from cvloc_ros.training.augment import AugmentConfig, filter_randomly
from cvloc_ros.training.config import SourceConfig, TrainConfig
from cvloc_ros.training.loading import PackedBatch
from cvloc_ros.training.samples import INPUTS, item_sample, make_sample, to_inputs
from cvloc_ros.training.scenes import Scene, draw_prior_error, open_source, town_item
from cvloc_ros.training.stream import ItemCycle, TownPool, shard_samples

CONFIG = VoteFlowConfig()
SATELLITE = GroundGrid.centred(400, 0.4)
PLAIN = AugmentConfig(mirrored=0.0, blank_ground=0.0, partial_coverage=0.0, recoloured=0.0, filtered=0.0)


def dotted_pair(dot, number=0):
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
        T_map_base=SE2(number),
        classes=classes,
    )


def bright_centre(image):
    rows, cols = np.nonzero(image[0] > 60)
    assert len(rows)
    return np.array([rows.mean(), cols.mean()])


def nearest_cell(sample, row, col):
    """The ground cell that the sample says is seen at a pixel."""
    seen = np.array([(col + 0.5) / 416, (row + 0.5) / 128]) * 2 - 1
    away = np.linalg.norm((sample["pixels"][0] - seen) * [208, 64], axis=-1) + 1e3 * ~sample["visible"][0]
    return np.unravel_index(away.argmin(), away.shape)


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_truth_image_and_patch_of_a_sample_agree(mirrored):
    """The dot's pixel in the image, taken to the ground and placed by the truth, is its place on the patch."""
    scene = Scene.of_pair(dotted_pair((12.4, 2.8)))  # the centre of a cell of the classes
    augment = replace(PLAIN, mirrored=mirrored)
    for seed in range(4):
        sample = make_sample(scene, np.random.default_rng(seed), CONFIG, augment)
        cells = CONFIG.bev_samples.centres()
        on_ground = cells[nearest_cell(sample, *bright_centre(sample["image"]))]
        assert on_ground[1] * (-1 if mirrored else 1) > 0  # the dot is left of the vehicle, right once mirrored
        on_patch = CONFIG.patch.to_metres(bright_centre(sample["patch"]))
        truth = SE2(*sample["truth"].astype(float))
        np.testing.assert_allclose(truth.apply(on_ground), on_patch, atol=0.9)
        named = cells[sample["bev_classes"][0] == WALLED]
        np.testing.assert_allclose(named[0], on_ground, atol=0.9)
        named = CONFIG.patch.coarser(2).centres()[sample["patch_classes"][0] == WALLED]
        np.testing.assert_allclose(named.mean(axis=0), on_patch, atol=0.9)
        assert sample["camera"][1] == pytest.approx(-0.2 if mirrored else 0.2)
        assert sample["tilt_known"] == sample["classes_known"] == 1


def test_tilt_turns_with_the_mirror():
    scene = replace(Scene.of_pair(dotted_pair((12.4, 2.8))), tilt=np.array([0.003, 0.002]))
    sample = make_sample(scene, np.random.default_rng(0), CONFIG, replace(PLAIN, mirrored=1.0))
    np.testing.assert_allclose(sample["tilt"], [0.003, -0.002])


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


def test_validation_gives_the_network_what_the_matcher_gets():
    pair = dotted_pair((12.4, 2.8))
    item = town_item(pair, np.random.default_rng(0), grid=CONFIG.patch, box=(20.0, 0.17))
    sample = item_sample(item, CONFIG)
    assert sample["image"].shape == (3, 128, 416)
    on_patch = CONFIG.patch.to_metres(bright_centre(sample["patch"]))
    np.testing.assert_allclose(SE2(*sample["truth"].astype(float)).apply(np.array([12.4, 2.8])), on_patch, atol=0.5)


def test_a_pair_has_no_imagery_beyond_its_picture():
    """Which ends 80 m ahead: 50 m from the middle of a patch that is 30 m ahead, and that reaches 57.6 m."""
    pair = dotted_pair((12.4, 2.8))
    middle, ahead = (pair.patch(SE2(x, 0.0, 0.0), CONFIG.patch) for x in (0.0, 30.0))
    assert middle.coverage.all()
    assert ahead.coverage.all(1).tolist() == [False] * 19 + [True] * (CONFIG.patch.rows - 19)
    assert not ahead.coverage[:19].any()


def test_a_sample_is_what_the_matcher_sees():
    """Of an image of another size, and a map with a hole, to the last pixel."""
    rng, pair = np.random.default_rng(0), dotted_pair((12.4, 2.8))
    ground, satellite = (rng.integers(0, 256, size, dtype=np.uint8) for size in ((300, 700, 3), (400, 400, 3)))
    scene = Scene.of_pair(replace(pair, ground=cv2.blur(ground, (9, 9)), satellite=cv2.blur(satellite, (5, 5))))
    coverage = scene.coverage.copy()
    coverage[150:180, 100:300] = 0
    scene = replace(scene, coverage=coverage)
    sample = make_sample(scene, np.random.default_rng(5), CONFIG, None)

    box = (CONFIG.box_metres, np.radians(CONFIG.box_degrees))
    T_grid_patch = scene.T_grid_vehicle @ draw_prior_error(np.random.default_rng(5), box).inverse()
    patch = crop_patch(scene.satellite, scene.grid, T_grid_patch, CONFIG.patch)
    covered = crop_patch(coverage, scene.grid, T_grid_patch, CONFIG.patch, interpolation=cv2.INTER_NEAREST).astype(bool)
    assert 0.5 < covered.mean() < 1
    patch *= covered[..., None]
    given = MatchInput(scene.image, scene.camera, scene.T_base_camera, patch, covered, box=(20.0, 20.0, 0.17))
    device = torch.device("cpu")
    view = PatchView(CONFIG, lambda patch, coverage: {"patch": patch, "coverage": coverage}, device)
    seen = view.look([(given.patch, given.coverage)])
    matched = View(CONFIG, device).look([given])._asdict() | seen
    trained = to_inputs({name: torch.from_numpy(sample[name])[None] for name in INPUTS})
    assert matched.keys() == trained.keys()
    for name, value in trained.items():
        torch.testing.assert_close(matched[name], value)


class TestItems:
    """Samples of a data set's items: a painted town, seen through three kinds of camera."""

    def test_ground_and_patch_agree_from_any_prior(self, table):  # noqa: F811
        """Where cells are bright in the image, they are bright on the patch at the truth, and only there."""
        for item in open_source(SourceConfig(source="pairs", root=str(table)), cell=CONFIG.patch.cell):
            scene = Scene.of_item(item)
            agreement = []
            for seed in range(6):
                sample = make_sample(scene, np.random.default_rng(seed), CONFIG, replace(PLAIN, mirrored=seed % 2))
                assert sample["tilt_known"] == sample["classes_known"] == 0
                assert not sample["tilt"].any() and not sample["bev_classes"].any()
                truth = SE2(*sample["truth"].astype(float))
                agreement.append([correlation(sample, truth @ off) for off in (SE2(), SE2(4.0, 3.0, 0.1))])
            right, wrong = np.mean(agreement, axis=0)
            assert right > 0.5 and wrong < 0.25, (item.name, right, wrong)

    @pytest.mark.parametrize("cell", [0.4, 0.195822])
    def test_imagery_is_as_fine_as_the_network_wants_it(self, table, cell):  # noqa: F811
        """In training as in validation: of the paper's size it would else be twice as coarse as what it is tried on."""
        grid = open_source(SourceConfig(source="pairs", root=str(table)), cell=cell)[0].patch.grid
        assert grid.cell == cell and grid.rows * cell == pytest.approx(240.0, abs=cell)

    def test_all_items_come_before_any_comes_again_whoever_asks(self):
        class Numbers:
            def __len__(self):
                return 7

            def __getitem__(self, index):
                return index

        seen = []
        for shard in (0, 1):
            cycle = ItemCycle(Numbers(), shard, 2, seed=3, position=0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Scene, "of_item", staticmethod(lambda item: item))
                seen.append([cycle.next() for _ in range(7)])
                later = ItemCycle(Numbers(), shard, 2, seed=3, position=5)
                assert [later.next() for _ in range(2)] == seen[-1][5:]
        first = [seen[k % 2][k // 2] for k in range(14)]
        assert sorted(first[:7]) == sorted(first[7:]) == list(range(7)) and first[:7] != first[7:]

    def test_training_frames_of_every_data_set_have_a_name(self, tmp_path):
        assert {name.split("-")[0] for name in TRAINING} == {"kitti", "ford", "vigor", "oxford", "pairs"}
        with pytest.raises(ValueError, match="kitti-train.*got 'kitti-same'"):
            open_training("kitti-same", tmp_path)


def correlation(sample, T_patch_vehicle):
    """Of what the seen ground cells show in the image and on the patch, from 6 to 18 m ahead."""
    cells = CONFIG.bev_samples.centres()
    near = sample["visible"][0] & (cells[..., 0] > 6) & (cells[..., 0] < 18)
    image, patch = (cv2.GaussianBlur(sample[name][0].astype(np.float32), (0, 0), 1) for name in ("image", "patch"))
    where = (sample["pixels"][0] + 1) * np.array([208, 64], np.float32) - 0.5
    seen = cv2.remap(image, where.astype(np.float32), None, cv2.INTER_LINEAR)
    places = CONFIG.patch.to_cells(T_patch_vehicle.apply(cells)).astype(np.float32)
    there = cv2.remap(patch, places[..., ::-1].copy(), None, cv2.INTER_LINEAR)
    return np.corrcoef(seen[near], there[near])[0, 1]


@pytest.fixture
def numbered_pairs(monkeypatch):
    """Pairs that cost nothing, and tell their town and number by where they are."""

    def render(town, number, *, scatter):
        return replace(dotted_pair((12.4, 2.8)), T_map_base=SE2(town, number, scatter))

    monkeypatch.setattr(stream.Town, "generate", staticmethod(lambda seed: seed))
    monkeypatch.setattr(stream, "render_pair", render)


class TestStream:
    CONFIG = TrainConfig(pool=8, reuse=3)

    def samples(self, count, *, position=0, **changes):
        config = replace(self.CONFIG, **changes)
        return list(islice(shard_samples(config, CONFIG, shard=1, shards=2, position=position), count))

    def test_it_goes_on_anywhere_with_what_would_have_come(self, numbered_pairs, table):  # noqa: F811
        data = (SourceConfig(weight=2.0), SourceConfig(source="pairs", root=str(table)))
        whole = self.samples(30, data=data)
        towns = sum(float(sample["classes_known"]) for sample in whole)
        assert 14 <= towns <= 26  # two thirds of 30
        for position in (3, 8, 13, 20):
            for a, b in zip(whole[position:], self.samples(30 - position, position=position, data=data), strict=True):
                for key in a:
                    np.testing.assert_array_equal(a[key], b[key], err_msg=key)

    def test_priors_fill_the_box_and_jitter_its_range(self, numbered_pairs):
        samples = self.samples(40)
        truths = np.array([sample["truth"] for sample in samples])
        assert (np.abs(truths) <= [20, 20, np.radians(10.001)]).all() and (np.abs(truths).max(0) > [15, 15, 0.13]).all()
        jitter = np.array([sample["jitter"] for sample in samples])
        assert jitter.shape == (40, 3, 3) and 0.9 < np.abs(jitter).max() <= 1

    def test_pairs_are_used_as_often_as_said_and_towns_are_shared_out(self, numbered_pairs, monkeypatch):
        monkeypatch.setattr(stream, "PAIRS_PER_TOWN", 4)
        used = {}
        monkeypatch.setattr(Scene, "of_pair", classmethod(lambda cls, pair: pair))
        for shard in (0, 1):
            pool = TownPool(
                shard, 2, AugmentConfig(natural_towns=3, scatter=0.5), first_town=100, reuse=3, size=8, position=0
            )
            for _ in range(8 + 3 * 20):
                pair = pool.next()
                key = (shard, int(pair.T_map_base.x), int(pair.T_map_base.y))
                used[key] = used.get(key, 0) + 1
                assert pair.T_map_base.yaw == (0.5 if pair.T_map_base.x >= 103 else 0.0)  # the scatter of its town
            assert {k[1] % 2 for k in used if k[0] == shard} == {shard}
        assert len(used) == 2 * 28 and sum(used.values()) == 2 * 68


def test_a_random_filter_changes_colours_and_leaves_edges_where_they_are():
    rng = np.random.default_rng(0)
    image = np.full((40, 60, 3), 90, np.uint8)
    assert np.abs(filter_randomly(image, rng).astype(int) - 90).max() <= 1, "nothing to see stays nothing"
    image[:, 30:] = [200, 10, 170]
    made = [filter_randomly(image, rng).astype(int) for _ in range(20)]
    for picture in made:
        steps = np.abs(np.diff(picture, axis=1)).sum((0, 2))
        assert picture.shape == image.shape and abs(int(steps.argmax()) - 29) <= 1
    assert np.std([picture[0, 50] for picture in made], axis=0).min() > 10


def test_a_filtered_image_is_as_light_as_it_was_and_no_more_contrasty():
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal([80, 120, 160], [8, 16, 24], (40, 60, 3)), 0, 255).astype(np.uint8)
    for _ in range(20):
        made = filter_randomly(image, rng).astype(float)
        np.testing.assert_allclose(made.mean((0, 1)), image.mean((0, 1)), atol=1.5)
        assert (made.std((0, 1)) < image.std((0, 1)) + 1).all()


def test_samples_that_were_packed_are_what_they_were():
    samples = [
        make_sample(Scene.of_pair(dotted_pair((10.0, k))), np.random.default_rng(k), CONFIG, AugmentConfig())
        for k in (0, 1, 2)
    ]
    rows, fields = PackedBatch.of(samples)
    for part, given in ((rows, samples), (rows[1:2], samples[1:2])):  # of one sample the rows are not aligned
        tensors, wanted = PackedBatch(part, fields).tensors(), torch.utils.data.default_collate(given)
        assert tensors.keys() == wanted.keys() == samples[0].keys()
        for name, value in wanted.items():
            assert tensors[name].dtype == value.dtype, name
            assert torch.equal(tensors[name], value), name
