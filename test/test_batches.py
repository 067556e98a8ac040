"""Batches give what single frames give: the networks, the evaluation that is cut into batches, and its interruption."""

from __future__ import annotations

import csv
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from test_eval_items import Breaking
from test_localizer import KnownMatcher

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.item import Item, box_prior
from cvloc_ros.datasets.town import Town, crop_patch, render_pair
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.evaluation.batches import in_batches
from cvloc_ros.evaluation.item_frames import evaluate_items
from cvloc_ros.evaluation.pairs import localize_pairs
from cvloc_ros.evaluation.protocol_notes import protocol_notes
from cvloc_ros.geometry import SE2, FisheyeCamera, GroundGrid, PinholeCamera
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.localizer import Localizer, load_localizer
from cvloc_ros.localization.types import Frame
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import SMALL
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.network_inputs import View
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher
from cvloc_ros.models.weights import SHIPPED, load_network

CALIBRATION = Calibration.constant((0.5, 0.5, 0.02), 0.9)
IDENTITY = {"protocol": "towns"}
WIDE, NARROW = (20.0, 20.0, np.radians(10.0)), (4.0, 6.0, np.radians(4.0))
GRID = VoteFlow().config.patch
TINY = replace(SMALL, patch_size=GRID.rows, hidden=8, iterations=2, refine_blocks=1)


@pytest.fixture(scope="module")
def pairs():
    town = Town.generate(TEST_TOWNS)
    return [render_pair(town, k) for k in range(4)]


@pytest.fixture(scope="module")
def items(pairs):
    """Six items of four cameras, each with its own prior; of one the imagery has a gap."""
    made, rng = [], np.random.default_rng(0)
    for k in range(6):
        pair = pairs[k % 4]
        prior = box_prior(SE2(*rng.uniform(-9, 9, 2), rng.uniform(-0.15, 0.15)), radius=20.0, yaw=np.radians(10))
        satellite = crop_patch(
            pair.satellite, GroundGrid.centred(pair.satellite.shape[0], GRID.cell), prior.T_map_base, GRID
        )
        coverage = np.ones(satellite.shape[:2], bool)
        coverage[: 60 * (k == 2), 100:] = False
        patch = Patch(satellite * coverage[..., None], coverage, GRID, prior.T_map_base)
        camera = PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K)
        frame = Frame(k, pair.ground, camera, pair.T_base_camera)
        made.append(Item(f"{k}.png", frame, prior, SE2(), patch))
    return made


@pytest.fixture(scope="module")
def inputs(items):
    """Images of several sizes and lenses, patches with gaps, boxes of two sizes, one of them off the patch's middle."""
    made = [
        MatchInput(
            each.frame.image, each.frame.camera, each.frame.T_base_camera, each.patch.image, each.patch.coverage, WIDE
        )
        for each in items[:4]
    ]
    first = made[0]
    larger = first.camera.resized(2 * first.camera.width, 2 * first.camera.height)
    made[0] = replace(first, image=cv2.resize(first.image, (larger.width, larger.height)), camera=larger)
    K = np.array([[190.0, 0, 207.5], [0, 190.0, 63.5], [0, 0, 1]])
    fisheye = replace(made[1], camera=FisheyeCamera(416, 128, K, (0.02, -0.01, 0.003, -0.0005)))
    return [*made, fisheye, replace(made[3], box=NARROW), replace(made[0], box=NARROW, centre=(5.0, -3.0, 0.05))]


def random_vote():
    torch.manual_seed(0)
    return VoteFlow()


def shipped_vote():
    return load_network(SHIPPED / "vote_flow.safetensors")


def random_dense(**changes):
    torch.manual_seed(0)
    return DenseFlowMatcher(DenseFlow(replace(TINY, **changes)))


MATCHERS = {
    "random weights": lambda: VoteFlowMatcher(random_vote()),
    "shipped weights": lambda: VoteFlowMatcher(shipped_vote()),
    "fast": lambda: VoteFlowMatcher(shipped_vote(), fast=True),
    "dense_flow from the prior": lambda: random_dense(start="identity", reach=0),
    "dense_flow after the vote": random_dense,
    "dense_flow fast": lambda: DenseFlowMatcher(random_dense().network, fast=True),
}


class TestMatchers:
    @pytest.mark.parametrize("name", MATCHERS)
    def test_a_batch_gives_what_single_images_give(self, name, inputs):
        """Whatever else is in the batch: to 1 mm and 0.01 degrees, and everything that the covariance rests on."""
        matcher = MATCHERS[name]()
        alone = [matcher.match_batch([each])[0] for each in inputs]
        for order in ([0], [0, 1, 2], [3, 2, 1, 0], [4, 0, 4], [1, 5, 6, 0]):
            batch = matcher.match_batch([inputs[k] for k in order])
            assert len(batch) == len(order)
            for k, found in zip(order, batch, strict=True):
                wanted = alone[k]
                assert np.hypot(*(found.pose - wanted.pose)[:2]) < 1e-3, (order, k)
                assert abs(np.degrees(found.pose[2] - wanted.pose[2])) < 0.01
                assert found.solved == wanted.solved
                np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-3)
                np.testing.assert_allclose(found.local, wanted.local, atol=1e-3)
                np.testing.assert_allclose(found.similarity, wanted.similarity, atol=1e-3)
                np.testing.assert_allclose(found.base, wanted.base, atol=1e-3)
                np.testing.assert_allclose(found.patch, wanted.patch, atol=5e-3)
                np.testing.assert_allclose(found.weights, wanted.weights, atol=1e-3)
                np.testing.assert_allclose(found.scales, wanted.scales, rtol=1e-2)

    def test_answers_differ_between_the_images_of_a_batch(self, inputs):
        """Else the test above would say little."""
        poses = np.array([match.pose for match in VoteFlowMatcher(shipped_vote()).match_batch(inputs)])
        apart = np.linalg.norm(poses[:, None, :2] - poses[None, :, :2], axis=-1)
        assert (apart[:4, :4][~np.eye(4, dtype=bool)] > 0.5).all()

    def test_neighbours_that_search_the_same_poses_go_together(self, inputs, monkeypatch):
        """And patches that come again, as for the blind model, are not described again."""
        matcher, sizes = VoteFlowMatcher(random_vote()), {"locate": [], "encode_satellite": []}
        for method, seen in sizes.items():
            called = getattr(matcher.network, method)

            def counted(first, *rest, called=called, seen=seen, **keywords):
                seen.append(len(first if torch.is_tensor(first) else first.coarse))
                return called(first, *rest, **keywords)

            monkeypatch.setattr(matcher.network, method, counted)
        matcher.match_batch([inputs[k] for k in (0, 1, 2, 5)])
        assert sizes == {"locate": [3, 1], "encode_satellite": [3, 1]}
        seen = inputs[:4]
        matcher.match_batch(seen)
        matcher.match_batch([replace(each, image=np.zeros_like(each.image)) for each in seen])
        assert sizes == {"locate": [3, 1, 4, 4], "encode_satellite": [3, 1, 4]}

    def test_alone_a_camera_is_projected_once(self, inputs):
        """The fast network knows a camera again by the same tensors."""
        view = View(VoteFlow().config, torch.device("cpu"))
        first = view.look(inputs[:1])
        again = view.look([replace(inputs[0], image=inputs[0].image // 2)])
        assert all(a is b for a, b in zip(first[1:], again[1:], strict=True))
        both = view.look([inputs[1], inputs[0]])
        torch.testing.assert_close(both.pixels[1:], first.pixels, rtol=0, atol=0)
        assert not torch.equal(both.pixels[:1], first.pixels)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_a_gpu_takes_many_at_a_time(self, inputs):
        alone = [VoteFlowMatcher(shipped_vote()).match_batch([each])[0] for each in inputs[:4]]
        matcher = VoteFlowMatcher(shipped_vote(), device="cuda")
        assert matcher.batch_size > 4
        for one, other in zip(alone, matcher.match_batch(inputs[:4]), strict=True):
            assert np.hypot(*(one.pose - other.pose)[:2]) < 0.05
            assert abs(np.degrees(one.pose[2] - other.pose[2])) < 0.1

    def test_the_processor_takes_one_at_a_time(self):
        assert VoteFlowMatcher(random_vote()).batch_size == VoteFlowMatcher(random_vote(), fast=True).batch_size == 1


@pytest.fixture(scope="module")
def localizer():
    return load_localizer(None, device="cpu", fast=False)


@pytest.fixture(scope="module")
def one_by_one(localizer, items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_by_one")
    evaluate_items(localizer, items, folder, indices=range(6), identity=IDENTITY, batch_size=1)
    return rows_of(folder)


class TestEvaluation:
    def test_batches_give_the_rows_of_single_frames(self, localizer, items, one_by_one, tmp_path):
        told = []
        evaluate_items(
            localizer, items, tmp_path, indices=range(6), identity=IDENTITY, batch_size=4, progress=told.append
        )
        assert told == [0, 4, 6]
        assert_same_answers(rows_of(tmp_path), one_by_one)

    def test_an_interruption_inside_a_batch(self, localizer, items, one_by_one, tmp_path):
        """What was read before the item that failed is done; resumed, other frames share a batch."""
        with pytest.raises(DatasetError, match="no such file"):
            evaluate_items(localizer, Breaking(items, 1), tmp_path, indices=range(6), identity=IDENTITY, batch_size=4)
        assert [row["name"] for row in rows_of(tmp_path)] == ["0.png"]
        again = Breaking(items, None)
        evaluate_items(localizer, again, tmp_path, indices=range(6), identity=IDENTITY, batch_size=4)
        assert again.asked == [1, 2, 3, 4, 5]
        assert_same_answers(rows_of(tmp_path), one_by_one)

    def test_who_stops_it_while_it_matches_loses_a_batch(self, items, tmp_path):
        class Stopped(KnownMatcher):
            def match(self, given):
                if len(self.patches) == 11:  # of 4 and 4 blind ones, then of the second batch
                    raise KeyboardInterrupt
                return super().match(given)

        def evaluate(matcher, folder):
            localizer = Localizer(matcher, CALIBRATION, None)
            return evaluate_items(localizer, items, folder, indices=range(6), identity=IDENTITY, batch_size=4)

        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            evaluate(Stopped([3.0, 2.0, 0.1]), tmp_path / "a")
        assert threading.active_count() == before
        assert [row["name"] for row in rows_of(tmp_path / "a")] == [f"{k}.png" for k in range(4)]
        found = evaluate(KnownMatcher([3.0, 2.0, 0.1]), tmp_path / "a")
        assert found.estimate == evaluate(KnownMatcher([3.0, 2.0, 0.1]), tmp_path / "b").estimate

    def test_pairs_of_towns(self, localizer, pairs):
        for blind in (False, True):
            alone, together = (list(localize_pairs(localizer, pairs, blind=blind, batch_size=size)) for size in (1, 3))
            assert len(alone) == len(together) == 4
            for one, other in zip(alone, together, strict=True):
                assert one.localization.prior.T_map_base == other.localization.prior.T_map_base
                assert np.hypot(*(one.error - other.error)[:2]) < 1e-3
                assert abs(np.degrees(one.error[2] - other.error[2])) < 0.01

    def test_a_share_of_a_batchs_time_is_no_latency(self, items, tmp_path):
        matcher = KnownMatcher([0.0, 0.0, 0.0])
        localizer = Localizer(matcher, CALIBRATION, None)
        found = evaluate_items(localizer, items, tmp_path, indices=range(6), identity=IDENTITY)
        assert not any("latency" in note for note in protocol_notes("pairs", found, localizer, share=1.0))
        matcher.batch_size = 16
        assert any("16 at a time" in note for note in protocol_notes("pairs", found, localizer, share=1.0))


class TestReadingAhead:
    def test_items_come_in_order(self):
        for size, lengths in ((1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (9, [7])):
            batches = list(in_batches(iter(range(7)), size))
            assert [len(batch) for batch in batches] == lengths and sum(batches, []) == list(range(7))
        assert list(in_batches([], 4)) == []

    @pytest.mark.parametrize("size", [1, 4])
    def test_what_was_read_before_an_error_comes_before_it(self, size):
        def broken():
            yield from range(6)
            raise DatasetError("no such file")

        given = []
        with pytest.raises(DatasetError, match="no such file"):
            given.extend(in_batches(broken(), size))
        assert sum(given, []) == list(range(6))

    def test_as_much_as_a_batch_is_read_ahead_and_no_more(self):
        read = []
        batches = in_batches((read.append(k) or k for k in range(100)), 4)
        assert next(batches) == [0, 1, 2, 3]
        deadline = time.monotonic() + 30
        while len(read) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert read == list(range(8))
        batches.close()
        assert not any(thread.name.startswith("read_ahead") for thread in threading.enumerate())

    def test_alone_an_item_is_read_when_it_is_wanted(self):
        read = []
        batches = in_batches((read.append(threading.current_thread()) or k for k in range(9)), 1)
        assert next(batches) == [0] and next(batches) == [1]
        assert read == [threading.main_thread()] * 2


def rows_of(folder):
    with (folder / "frames.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_answers(found, wanted):
    """Of frames.csv: to 1 mm and 0.01 degrees."""
    assert [row["name"] for row in found] == [row["name"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert (row["accepted"], row["reason"]) == (other["accepted"], other["reason"])
        for pose in ("prior", "truth", "estimate", "blind"):
            for part, tolerance in (("x", 1e-3), ("y", 1e-3), ("yaw_deg", 0.01)):
                assert float(row[f"{pose}_{part}"]) == pytest.approx(float(other[f"{pose}_{part}"]), abs=tolerance)
        for name in ("var_x", "cov_xy", "var_y", "var_yaw", "quality"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-2, abs=1e-4)
