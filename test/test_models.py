import json

import numpy as np
import pytest
import torch
from test_solver import rigid

from cvloc_ros.geometry import GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.local_vote import LocalVote
from cvloc_ros.models.losses import relative_pose, total_loss, vote_loss
from cvloc_ros.models.peaks import find_peaks
from cvloc_ros.models.vote import Correlate, rotate_bev, warp_to_vehicle, weigh, weighted_vote
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.weights import DeviceError, WeightsError, choose_device, load_network, save_weights


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VoteFlow().eval()


class TestVote:
    @pytest.mark.parametrize(("maps", "kernels", "side", "kernel"), [(1, 3, 9, 4), (2, 1, 9, 6), (3, 2, 10, 3)])
    def test_gradients_of_the_correlation(self, maps, kernels, side, kernel):
        m = torch.randn(2, maps, 2, side, side, dtype=torch.double, requires_grad=True)
        k = torch.randn(2, kernels, 2, kernel, kernel, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(Correlate.apply, (m, k))

    def test_missing_imagery_does_not_lower_a_right_shift(self):
        kernel = torch.nn.functional.normalize(torch.randn(1, 1, 8, 6, 6), dim=2)
        maps = torch.zeros(1, 1, 8, 10, 10)
        maps[:, :, :, 2:8, 2:8] = kernel
        coverage = torch.zeros(1, 1, 1, 10, 10)
        coverage[..., 2:8, 2:7] = 1  # the right edge of the true place is unknown
        score = weighted_vote(weigh(maps[0], coverage[0])[None], weigh(kernel[0], torch.ones(1, 1, 6, 6))[None])
        assert score[0, 0, 0, 2, 2] == pytest.approx(1.0, abs=1e-5)
        assert score.argmax() == 2 * 5 + 2

    def test_a_few_cells_that_fit_by_chance_do_not_win(self):
        torch.manual_seed(0)
        kernel = torch.nn.functional.normalize(torch.randn(1, 1, 8, 6, 6), dim=2)
        maps = torch.nn.functional.normalize(torch.randn(1, 1, 8, 10, 10), dim=2)
        maps[:, :, :, 2:8, 2:8] += 2 * kernel  # the true place, seen differently
        maps = torch.nn.functional.normalize(maps, dim=2)
        maps[:, :, :, 5:10, 9] = kernel[:, :, :, 1:6, 5]  # at the border a column fits perfectly, when shifted there
        coverage = torch.ones(1, 1, 1, 10, 10)
        coverage[..., 4:, 4:9] = 0
        coverage[..., :4, 8:] = 0
        score = weighted_vote(weigh(maps[0], coverage[0])[None], weigh(kernel[0], torch.ones(1, 1, 6, 6))[None])
        assert score.argmax() == 2 * 5 + 2

    def test_turning_the_bev_turns_it_counter_clockwise(self):
        grid = GroundGrid.centred(20, 1.0)
        bev = torch.zeros(1, 1, 20, 20)
        row, col = grid.to_cells(np.array([8.5, 0.5])).round().astype(int)  # straight ahead
        bev[..., row, col] = 1
        xy = torch.tensor(grid.centres(), dtype=torch.float32)
        turned = rotate_bev(bev, xy, torch.tensor([np.pi / 2]), x_max=10.0, y_max=10.0, cell=1.0)
        found = np.unravel_index(int(turned.argmax()), (20, 20))
        # a vehicle that faces left in the patch sees what is ahead of it on the patch's left
        np.testing.assert_allclose(grid.to_metres(np.array(found)), [-0.5, 8.5])

    def test_warp_samples_where_the_pose_puts_the_vehicle(self):
        grid = GroundGrid.centred(64, 1.0)
        features = torch.tensor(grid.centres(), dtype=torch.float32).permute(2, 0, 1)[None]  # value = its own place
        points = torch.tensor([[[10.0, 2.0]]])
        pose = torch.tensor([[[3.0, -4.0, 0.3]]])
        sampled = warp_to_vehicle(features, points, pose, half_extent=32.0)[0, 0, :, 0, 0]
        np.testing.assert_allclose(sampled.numpy(), rigid(np.array([10.0, 2.0]), np.array([3.0, -4.0, 0.3])), atol=1e-4)


class TestBev:
    def test_pixels_are_where_the_camera_sees_the_ground(self):
        camera = PinholeCamera.from_focal(416, 128, 240.0)
        T = camera_extrinsics(height=1.65, x=1.0, pitch=0.03)
        grid = GroundGrid(24, 24, 1.6, 40.0)
        pixels, visible = ground_pixels(camera, T, grid, (0.0, 3.0))
        row, col = 10, 15
        x, y = grid.centres()[row, col]
        ahead, height = x - 1.0, 1.65
        v = 63.5 + 240 * (height * np.cos(0.03) - ahead * np.sin(0.03)) / (ahead * np.cos(0.03) + height * np.sin(0.03))
        assert visible[0, row, col]
        assert (pixels[0, row, col, 1] + 1) / 2 * 128 - 0.5 == pytest.approx(v, abs=1e-3)
        assert (pixels[0, row, col, 0] < 0) == (y > 0)
        height -= 3.0  # a point 3 m over the ground is above the horizon
        v = 63.5 + 240 * (height * np.cos(0.03) - ahead * np.sin(0.03)) / (ahead * np.cos(0.03) + height * np.sin(0.03))
        assert visible[1, row, col]
        assert (pixels[1, row, col, 1] + 1) / 2 * 128 - 0.5 == pytest.approx(v, abs=1e-3)


def batch(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    camera = PinholeCamera.from_focal(416, 128, 240.0)
    config = VoteFlow().config
    pixels, visible = ground_pixels(camera, camera_extrinsics(height=1.65), config.bev_samples, config.heights)
    return {
        "image": torch.rand(n, 3, 128, 416, generator=generator),
        "patch": torch.rand(n, 3, config.patch_size, config.patch_size, generator=generator),
        "coverage": torch.ones(n, 1, config.patch_size, config.patch_size),
        "pixels": torch.from_numpy(pixels).repeat(n, 1, 1, 1, 1),
        "visible": torch.from_numpy(visible).repeat(n, 1, 1, 1),
        "camera": torch.tensor([[0.0, 0.0, 1.65]]).repeat(n, 1),
    }


class TestNetwork:
    def test_every_parameter_gets_a_gradient(self):
        torch.manual_seed(0)
        model = VoteFlow()
        truth = torch.tensor([[3.0, -2.0, 0.05], [-8.0, 4.0, -0.1]])
        inputs = batch()
        out = model(**inputs, centre=truth + 0.5, start=truth + 0.2)
        losses = total_loss(model, out, truth, camera=inputs["camera"], tilt=torch.full((2, 2), 0.004))
        losses["total"].backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())

    @torch.inference_mode()
    def test_the_search_box_is_kept(self, network):
        out = network(**batch(), block=network.block((4.0, 6.0, np.radians(4)), (8.0, -3.0, np.radians(-2))))
        p = out.coarse_logits[0].flatten().softmax(0).view_as(out.coarse_logits[0])
        x, y = (network.shifts[p.sum(axes) > 0] for axes in ((0, 2), (0, 1)))
        yaw = network.headings[p.sum((1, 2)) > 0]
        assert 3 < x.max() - 8.0 <= 4.8 + 1e-3 and 3 < 8.0 - x.min() <= 4.8 + 1e-3
        assert 5 < y.max() + 3.0 <= 7.6 + 1e-3 and 5 < -3.0 - y.min() <= 7.6 + 1e-3
        np.testing.assert_allclose(np.degrees([yaw.min(), yaw.max()]), [-6, 2], atol=1e-3)

    @torch.inference_mode()
    def test_an_unseen_ground_leaves_the_pose_where_the_vote_put_it(self, network):
        inputs = batch(1)
        inputs["visible"] = torch.zeros_like(inputs["visible"])
        out = network(**inputs)
        assert not out.solved.any()
        torch.testing.assert_close(out.voted, out.starts[0], atol=1e-5, rtol=0)

    def test_wrong_image_sides_are_refused(self, network):
        inputs = batch(1)
        inputs["image"] = inputs["image"][..., :100, :]
        with pytest.raises(ValueError, match="divide by 16"):
            network(**inputs)

    @torch.inference_mode()
    def test_the_winner_of_two_votes_is_refined_and_that_of_three_again(self, network):
        inputs = batch(2)
        out = network(**inputs)
        count, candidates = network.config.peaks, network.config.candidates
        assert out.peak_logits.shape == (2, count) and out.fine_logits.shape == (2, 5, 11, 11)
        assert out.choice_logits.shape == (2, candidates) and out.close_logits.shape == (2, 5, 9, 9)
        each, best = torch.arange(2), out.peak_logits.argmax(1)
        poses = find_peaks(out.coarse_logits, network.headings, network.shifts, count=count).poses
        torch.testing.assert_close(out.fine_centre, poses[each, best])
        torch.testing.assert_close(out.starts[0], out.candidates[each, best])
        torch.testing.assert_close(out.starts[0], network.second.mean(out.fine_logits, out.fine_centre))
        # the third vote is held where the flow has ended, and where the second puts the next best
        iterations = network.config.iterations
        looked_at = out.candidates[each[:, None], out.peak_logits.topk(candidates).indices]
        looked_at[:, 0] = out.poses[iterations - 1]
        won = out.choice_logits.argmax(1)
        torch.testing.assert_close(out.close_centre, looked_at[each, won])
        torch.testing.assert_close(out.starts[iterations], network.third.mean(out.close_logits, out.close_centre))
        assert len(out.poses) == 2 * iterations
        # and once more where the flow from there has ended
        ground = network.describe(*(inputs[name] for name in ("image", "pixels", "visible")))
        features = ground, network.encode_satellite(inputs["patch"], inputs["coverage"]), inputs["camera"]
        again = network._look_closely(*features, out.poses[-1][:, None], out.tilts[-1])[:, 0]
        torch.testing.assert_close(out.voted, network.third.mean(again, out.poses[-1]))
        most_likely = out.box_logits.flatten(1).argmax(1)
        shifts = network.shifts[most_likely // 27 % 27], network.shifts[most_likely % 27]
        winner = out.peak_logits.topk(candidates).indices[each, won]
        torch.testing.assert_close(torch.stack(shifts, 1), poses[each, winner][:, :2])

    @torch.inference_mode()
    @pytest.mark.parametrize(("half", "peaks"), [(4.0, 1), (15.0, 6)])
    def test_a_small_box_has_one(self, network, half, peaks):
        out = network(**batch(1), block=network.block((half, half, 0.05)))
        assert out.peak_logits.shape == (1, peaks)
        if peaks == 1:
            assert out.choice_logits.shape == (1, 1)
            torch.testing.assert_close(out.box_logits, out.coarse_logits)

    def test_the_second_vote_learns_to_tell_them_apart_and_the_first_does_not(self, network):
        truth = torch.tensor([[3.0, -2.0, 0.05]])
        out = network(**batch(1), centre=truth, start=truth, close=truth)
        losses = total_loss(network, out, truth, camera=torch.tensor([[0.0, 0.0, 1.65]]), tilt=torch.zeros(1, 2))
        expected = torch.logsumexp(out.peak_logits, 1) - out.peak_logits[:, 0]
        torch.testing.assert_close(losses["peak"], expected.mean())
        coarse, fine = torch.autograd.grad(
            losses["peak"], [network.coarse_sharpness, network.fine_sharpness], allow_unused=True, retain_graph=True
        )
        assert coarse is None and fine.abs() > 0
        torch.testing.assert_close(losses["choice"], -out.choice_logits.log_softmax(1)[:, 0].mean())
        sharpness = [network.coarse_sharpness, network.fine_sharpness, network.close_sharpness]
        *others, close = torch.autograd.grad(losses["choice"], sharpness, allow_unused=True)
        assert others == [None, None] and close.abs() > 0


def test_the_pose_of_a_local_vote_lies_between_what_ties():
    vote = LocalVote(GroundGrid.centred(8, 1.6), shifts=5, headings=2, step_degrees=1.5)
    logits = torch.full((2, 5, 11, 11), -40.0)
    logits[0, 3, 3, 6] = 0.0  # 1.5 degrees to the left, 1.6 m ahead and 0.8 m to the right of that heading
    logits[1, 0, 5, 3] = logits[1, 4, 5, 7] = 0.0  # 3 degrees and 1.6 m to either side
    centre = torch.tensor([2.0, 1.0, np.pi / 2])
    found = vote.mean(logits, centre.expand(2, -1)).numpy()
    yaw = np.pi / 2 + np.radians(1.5)
    ahead, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    np.testing.assert_allclose(found[0], [*([2.0, 1.0] + 1.6 * ahead - 0.8 * left), yaw], atol=1e-5)
    np.testing.assert_allclose(found[1], centre.numpy(), atol=1e-5)


class TestLosses:
    def test_relative_pose(self):
        origin = torch.tensor([[1.0, 2.0, np.pi / 2]])
        seen = relative_pose(origin, torch.tensor([[1.0, 5.0, np.pi / 2 + 0.1]]))
        np.testing.assert_allclose(seen[0].numpy(), [3.0, 0.0, 0.1], atol=1e-6)

    def test_the_vote_loss_is_least_at_the_truth(self, network):
        pose = torch.tensor([[4.8, -3.2, np.radians(4.0)]])
        axes = {"headings": network.headings, "shifts": network.shifts, "sigma": (1.0, np.radians(1.2))}
        dyaw = (network.headings - pose[:, 2:]) / np.radians(1.2)
        dx, dy = network.shifts - pose[:, :1], network.shifts - pose[:, 1:2]
        square = dyaw[:, :, None, None] ** 2 + dx[:, None, :, None] ** 2 + dy[:, None, None, :] ** 2
        right = vote_loss(-0.5 * square, pose, **axes)
        wrong = vote_loss(-0.5 * square.roll(3, dims=2), pose, **axes)
        flat = vote_loss(torch.zeros_like(square), pose, **axes)
        assert right < flat < wrong


class TestWeights:
    def test_round_trip(self, network, tmp_path):
        path = tmp_path / "w.safetensors"
        save_weights(network, path, {})
        assert path.stat().st_mode & 0o777 == 0o644, "what is installed must be readable for all"
        loaded = load_network(path)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=2e-3, rtol=2e-3)

    def test_another_architecture_is_named(self, network, tmp_path):
        path = tmp_path / "w.safetensors"
        save_weights(network, path, {})
        card = json.loads(path.with_suffix(".json").read_text())
        card["architecture"]["bev_hidden"] = 32
        path.with_suffix(".json").write_text(json.dumps(card))
        with pytest.raises(WeightsError, match=r"bev\..*expected.*got"):
            load_network(path)

    def test_devices_are_named_as_torch_names_them(self, monkeypatch):
        assert choose_device("cpu") == "cpu"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert [choose_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
        with pytest.raises(DeviceError, match="cuda:2 was asked for, but the last GPU is cuda:1"):
            choose_device("cuda:2")
        for name in ("CPU", "cpu:0", "cuda:", "cuda:x", "cuda:01", "mps"):
            with pytest.raises(WeightsError, match=f"expected device auto, cpu, cuda or .*, got '{name}'"):
                choose_device(name)

    def test_damaged_and_missing_files_are_named(self, network, tmp_path):
        path = tmp_path / "w.safetensors"
        with pytest.raises(WeightsError, match="expected weights at"):
            load_network(path)
        save_weights(network, path, {})
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(WeightsError, match="safetensors"):
            load_network(path)
        path.with_suffix(".json").unlink()
        with pytest.raises(WeightsError, match="card"):
            load_network(path)
