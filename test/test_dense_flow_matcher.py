"""dense_flow as a method: one frame through the `Matcher` interface, its weights, and that it learns at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from cvloc_ros.datasets.town import Town, render_pair
from cvloc_ros.geometry import PinholeCamera, camera_extrinsics
from cvloc_ros.localization.evidence import weigh_evidence
from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.dense_flow_config import SMALL
from cvloc_ros.models.dense_flow_losses import dense_flow_loss
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.dense_flow_posterior import PoseGrid, pose_scores
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.solver import place
from cvloc_ros.models.weights import (
    SHIPPED,
    WeightsError,
    load_matcher,
    load_network,
    save_weights,
)
from cvloc_ros.training.dense_flow_task import DenseFlowTask, DenseFlowTaskConfig
from cvloc_ros.training.samples import make_sample, to_inputs
from cvloc_ros.training.scenes import Scene

TINY = replace(SMALL, hidden=8, iterations=2, refine_blocks=1)
IDENTITY = replace(
    TINY, encoders="resnet", trunk_widths=(8, 8, 8, 8), start="identity", tilt_degrees=0.0, reach=0, levels=4, radius=4
)
FROM_PRIOR = replace(TINY, start="identity")
BOX = (20.0, 20.0, np.radians(10.0))


@pytest.fixture(scope="module")
def frame():
    """A town's camera image, and the patch where the prior is wrong by a known pose."""
    pair = render_pair(Town.generate(5), 0)
    sample = make_sample(Scene.of_pair(pair), np.random.default_rng(3), SMALL, None)
    patch = np.ascontiguousarray(sample["patch"].transpose(1, 2, 0))
    inputs = (pair.ground, PinholeCamera(416, 128, pair.K), pair.T_base_camera, patch, np.ones(patch.shape[:2], bool))
    return inputs, sample["truth"]


def untrained(config):
    torch.manual_seed(0)
    return DenseFlow(config)


def match_one(matcher, *inputs, box=BOX):
    return matcher.match_batch([MatchInput(*inputs, box=box)])[0]


class TestMatch:
    @pytest.mark.parametrize("config", [IDENTITY, TINY, FROM_PRIOR, replace(FROM_PRIOR, reach=0)])
    @pytest.mark.parametrize("target", ["relative", "absolute"])
    def test_a_match_is_what_the_interface_says(self, frame, config, target):
        network = untrained(replace(config, confidence_target=target))
        match = match_one(DenseFlowMatcher(network), *frame[0])
        n = len(match.base)
        assert n > 200 and match.patch.shape == (n, 2) and match.weights.shape == match.scales.shape == (n,)
        assert ((match.weights > 0) & (match.weights <= 1) & (match.scales >= 0.1)).all()
        assert match.probability.shape == (len(match.yaw), len(match.x), len(match.y))
        assert match.local.shape == (len(match.local_yaw), len(match.local_shift), len(match.local_shift))
        assert match.probability.sum() == pytest.approx(1) and match.local.sum() == pytest.approx(1)
        assert (np.diff(match.x) < 0).all() and (np.diff(match.local_shift) < 0).all()
        assert all(-1 <= value <= 1 for value in match.similarity)
        evidence = weigh_evidence(match)
        assert np.isfinite(evidence.values).all()

    @pytest.mark.parametrize("config", [IDENTITY, TINY], ids=["identity", "vote"])
    def test_the_posterior_keeps_to_the_box(self, frame, config):
        matcher = DenseFlowMatcher(untrained(config))
        match = match_one(matcher, *frame[0], box=(4.0, 8.0, np.radians(4.0)))
        assert np.abs(match.x[match.probability.any(axis=(0, 2))]).max() <= 4.8 + 1e-3
        assert 5 < np.abs(match.y[match.probability.any(axis=(0, 1))]).max() <= 8.8 + 1e-3
        assert np.degrees(np.abs(match.yaw[match.probability.any(axis=(1, 2))]).max()) <= 5.0 + 1e-3

    @pytest.mark.skipif(not (SHIPPED / "vote_flow.safetensors").exists(), reason="no weights: cvloc train")
    def test_it_starts_where_its_vote_puts_it(self, frame):
        """An untrained flow moves little: what is left is the vote, which finds the town's vehicle."""
        inputs, truth = frame
        network = untrained(TINY)
        network.encoders.vote.load_state_dict(
            load_network(SHIPPED / "vote_flow.safetensors").state_dict(), strict=False
        )
        match = match_one(DenseFlowMatcher(network), *inputs)
        assert np.linalg.norm(match.pose[:2] - truth[:2]) < 3.0
        assert np.linalg.norm(truth[:2]) > 6.0

    def test_the_fast_form_is_the_same_function(self, frame):
        """In half precision too, and the caller's network stays as it is."""
        network = untrained(TINY)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        plain, fast = DenseFlowMatcher(network), DenseFlowMatcher(network, fast=True)
        fast.network.halve(torch.bfloat16)  # on every processor
        for box, centre in ((BOX, (0.0, 0.0, 0.0)), ((4.0, 6.0, 0.07), (9.0, -5.0, 0.05))):
            one, other = (
                matcher.match_batch([MatchInput(*frame[0], box=box, centre=centre)])[0] for matcher in (plain, fast)
            )
            np.testing.assert_allclose(other.pose[:2], one.pose[:2], atol=0.05)
            np.testing.assert_allclose(other.pose[2], one.pose[2], atol=np.radians(0.1))
            np.testing.assert_allclose(other.probability, one.probability, atol=0.01)
        assert network.precision is None and network.state_dict().keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    def test_a_patch_is_described_once(self, frame, monkeypatch):
        """For as long as it is the same object, and what is found on it is the same."""
        network, described = untrained(TINY), []
        encode = network.encode_satellite
        monkeypatch.setattr(network, "encode_satellite", lambda *given: described.append(given) or encode(*given))
        matcher = DenseFlowMatcher(network)
        image, camera, T, patch, coverage = frame[0]
        first, again = (match_one(matcher, image, camera, T, patch, coverage) for _ in range(2))
        assert len(described) == 1
        np.testing.assert_array_equal(first.pose, again.pose)
        match_one(matcher, image, camera, T, patch.copy(), coverage)
        assert len(described) == 2

    def test_another_camera_is_projected_anew(self, frame):
        (image, camera, T, patch, coverage), _ = frame
        matcher = DenseFlowMatcher(untrained(IDENTITY))
        first = match_one(matcher, image, camera, T, patch, coverage)
        higher = camera_extrinsics(height=3.0)
        other = match_one(matcher, image, camera, higher, patch, coverage)
        again = match_one(matcher, image, camera, T, patch, coverage)
        assert len(other.base) != len(first.base)
        np.testing.assert_array_equal(again.pose, first.pose)

    def test_an_image_of_another_shape_is_stretched_or_cropped(self):
        """The paper squeezes KITTI's images to 4:1; a ground point stays where the camera says it is."""
        camera = PinholeCamera(1242, 375, np.array([[721.5, 0, 609.6], [0, 721.5, 172.9], [0, 0, 1.0]]))
        T = camera_extrinsics(height=1.65)
        for fit in ("stretch", "crop"):
            matcher = DenseFlowMatcher(untrained(replace(IDENTITY, image_fit=fit)))
            image = np.zeros((375, 1242, 3), np.uint8)
            (u, v), _ = camera.project((np.linalg.inv(T) @ [*matcher.network.cells[15, 10].tolist(), 0, 1])[:3])
            image[round(v) - 3 : round(v) + 4, round(u) - 3 : round(u) + 4] = 255
            inputs = matcher._view.look([MatchInput(image, camera, T, None, None, BOX)])
            where = inputs.pixels[0, 0, 30:32, 20:22].mean(dim=(0, 1)).numpy()  # the four samples of that cell
            rows, cols = np.nonzero(inputs.image[0, 0].numpy() > 0.3)
            seen = (np.array([cols.mean(), rows.mean()]) + 0.5) / [416, 128] * 2 - 1
            np.testing.assert_allclose(where, seen, atol=0.02)


class TestPosterior:
    @pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (6.4, -12.8, 0.0698), (-16.0, 4.8, -0.1396)])
    def test_it_peaks_at_the_pose_whose_features_fit(self, pose):
        network = untrained(IDENTITY)
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(1, 32, 27, 27, generator=generator)
        side = SMALL.patch_size // SMALL.stride
        satellite = F.interpolate(coarse, (side, side), mode="bicubic")  # similarities between cells are interpolated
        truth = torch.tensor([pose])
        cells = network.to_features(place(network.cells, truth), side)
        where = ((2 * cells + 1) / side - 1).flip(-1)
        bev = F.grid_sample(satellite, where, align_corners=False)
        ones = torch.ones(1, 96, 96)
        out = DenseFlowOutput(
            truth, None, ones > 0, [], [ones], ones, truth[:, :2], ones, truth, truth[:, 0] > 0, bev, satellite
        )
        coverage = torch.ones(1, 1, SMALL.patch_size, SMALL.patch_size)
        for grid, centre in ((PoseGrid.of_box(network), torch.zeros(3)), (PoseGrid.around_a_pose(network), truth[0])):
            poses = grid.poses(centre)
            score = pose_scores(network, out, coverage, poses, torch.arange(24 * 24))
            found = poses.flatten(0, 2)[score.argmax()]
            np.testing.assert_allclose(found[:2].numpy(), pose[:2], atol=0.01)
            assert abs(found[2] - pose[2]) < 1.01 * (grid.headings[1] - grid.headings[0])
            assert score.max() > score.median() + 0.5


class TestWeights:
    def test_round_trip(self, tmp_path, frame):
        network = untrained(TINY)
        path = tmp_path / "dense.safetensors"
        save_weights(network, path, {"calibration": {}})
        loaded = load_network(path)
        assert isinstance(loaded, DenseFlow) and loaded.config == TINY
        matcher, card = load_matcher("dense_flow", weights=str(path), device="cpu")
        assert card["method"] == matcher.name == "dense_flow"
        one = match_one(matcher, *frame[0])
        assert one.probability.shape == (11, 27, 27)

    def test_weights_of_another_method_are_refused(self, tmp_path):
        path = tmp_path / "dense.safetensors"
        save_weights(untrained(IDENTITY), path, {})
        with pytest.raises(WeightsError, match="expected weights of vote_flow, got those of dense_flow"):
            load_matcher("vote_flow", weights=str(path), device="cpu")
        path.with_suffix(".json").write_text('{"method": "other"}')
        with pytest.raises(WeightsError, match="expected a method of vote_flow, dense_flow"):
            load_network(path)


@pytest.mark.slow
def test_small_learns_eight_pairs_by_heart():
    """From starts that are metres wrong to within 0.2 m: geometry, flow, confidence and least squares fit together."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pairs = [render_pair(Town.generate(i), 0) for i in range(8)]
    batch = default_collate([make_sample(Scene.of_pair(pair), rng, SMALL, None) for pair in pairs])
    inputs, truth = to_inputs(batch), batch["truth"]
    start = truth + (2 * torch.rand(8, 3) - 1) * torch.tensor([2.4, 2.4, 0.03])
    assert relative_pose(truth, start)[:, :2].norm(dim=1).mean() > 1.5
    task = DenseFlowTask(SMALL, DenseFlowTaskConfig())
    task.begin()
    network = task.network.to(memory_format=torch.channels_last).train()
    optimizer, error = torch.optim.AdamW(network.parameters()), np.inf
    slopes = {name: batch[name] for name in ("camera", "tilt")}
    for step in range(150):  # how many are needed depends on the order in which numbers are rounded
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 10) * 0.96 ** max(0, step - 50)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = network(**inputs, start=start)
        optimizer.zero_grad()
        dense_flow_loss(network, out, truth, progress=min(1, step / 80), **slopes)["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step > 30 and step % 5 == 0:
            with torch.inference_mode():
                out = network.eval()(**inputs, start=start)
            network.train()
            error = float(relative_pose(truth, out.pose)[:, :2].norm(dim=1).max())
            if error < 0.2:
                break
    assert error < 0.2
