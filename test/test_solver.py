"""The rigid motion and the ground's tilt, by least squares over matches."""

import numpy as np
import pytest
import torch

from cvloc_ros.geometry import camera_extrinsics
from cvloc_ros.models.solver import solve_pose, solve_tilt, tilt_shift


def rigid(points, pose):
    c, s = np.cos(pose[2]), np.sin(pose[2])
    return points @ np.array([[c, s], [-s, c]]) + pose[:2]


def matches(pose, n=200, seed=0):
    source = np.random.default_rng(seed).uniform(-20, 20, (n, 2))
    return torch.tensor(source)[None], torch.tensor(rigid(source, pose))[None]


class TestTilt:
    camera = camera_extrinsics(height=1.6, x=1.2, y=0.2, pitch=0.02)

    @pytest.mark.parametrize(("pitch", "roll"), [(0.004, 0.0), (0.0, 0.004), (0.003, -0.002)])
    def test_shift_is_that_of_a_vehicle_that_pitches_and_rolls(self, pitch, roll):
        shaken = camera_extrinsics(height=0.0, pitch=pitch, roll=roll) @ np.linalg.inv(camera_extrinsics(height=0.0))
        on_level_ground = np.array([12.0, 4.0])
        ray = self.camera[:3, :3].T @ (np.append(on_level_ground, 0.0) - self.camera[:3, 3])
        T = shaken @ self.camera
        ray = T[:3, :3] @ ray
        really = (T[:3, 3] - ray * T[2, 3] / ray[2])[:2]
        shift = tilt_shift(
            torch.from_numpy(on_level_ground)[None, None],
            torch.from_numpy(self.camera[None, :3, 3].copy()),
            torch.tensor([[np.tan(pitch), -np.tan(roll)]]),
        )
        np.testing.assert_allclose(shift[0, 0].numpy(), really - on_level_ground, rtol=0.08, atol=0.01)

    def test_tilt_comes_back_with_a_motion(self):
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(1, 200, 2, generator=generator).double() * 30 + torch.tensor([6.0, -15.0])
        camera, tilt = torch.from_numpy(self.camera[None, :3, 3].copy()), torch.tensor([[0.004, -0.003]]).double()
        turned = torch.stack([-points[..., 1], points[..., 0]], -1)
        flow = tilt_shift(points, camera, tilt) + torch.tensor([0.5, -0.3]) + 0.02 * turned
        start = torch.tensor([[0.001, 0.002]]).double()
        found = solve_tilt(
            points, flow - tilt_shift(points, camera, start), torch.full((1, 200), 5.0).double(), camera=camera,
            start=start, sigma=0.005,
        )  # fmt: skip
        np.testing.assert_allclose(found.numpy(), tilt.numpy(), atol=2e-5)

    def test_without_matches_the_ground_is_level(self):
        points = torch.rand(1, 50, 2)
        camera, level = torch.tensor([[0.0, 0.0, 1.6]]), torch.zeros(1, 2)
        found = solve_tilt(points, points, torch.zeros(1, 50), camera=camera, start=level, sigma=0.005)
        assert found.abs().max() < 1e-9


class TestSolver:
    @pytest.mark.parametrize("degrees", [0.05, -0.05, 9.0, 90.0, -179.0])
    def test_small_and_large_angles_come_back(self, degrees):
        pose = np.array([3.0, -2.0, np.radians(degrees)])
        found, solved = solve_pose(*matches(pose), torch.ones(1, 200, dtype=torch.double))
        assert solved.all()
        np.testing.assert_allclose(found[0].numpy(), pose, atol=1e-9)

    def test_displaced_points_of_no_weight_do_not_move_the_pose(self):
        source, target = matches(np.array([1.0, 2.0, 0.1]))
        weights = torch.ones(1, 200, dtype=torch.double)
        weights[:, :60] = 0
        target[:, :60] += torch.tensor([15.0, 4.0])
        found, _ = solve_pose(source, target, weights)
        np.testing.assert_allclose(found[0].numpy(), [1.0, 2.0, 0.1], atol=1e-9)

    def test_plain_centroids_are_moved_by_what_hardly_counts(self):
        """Where all agree it is the same; a wrong match of little weight moves plain means like any other."""
        pose = np.array([1.0, 2.0, 0.0])
        source, target = matches(pose)
        weights = torch.ones(1, 200, dtype=torch.double)
        for weighted in (True, False):
            found, _ = solve_pose(source, target, weights, weighted_centroids=weighted)
            np.testing.assert_allclose(found[0].numpy(), pose, atol=1e-9, rtol=0)
        target[:, 0] += torch.tensor([20.0, 0.0])
        weights[:, 0], weights[:, 1:101] = 1e-9, 0  # of no weight: these do not count in either
        weighted, plain = (solve_pose(source, target, weights, weighted_centroids=w)[0][0] for w in (True, False))
        np.testing.assert_allclose(weighted.numpy(), pose, atol=1e-6)
        np.testing.assert_allclose(plain.numpy(), pose + [20 / 100, 0, 0], atol=1e-3)

    def test_a_reflection_gives_a_rotation(self):
        source, _ = matches(np.zeros(3))
        mirrored = source * torch.tensor([1.0, -1.0])
        found, _ = solve_pose(source, mirrored, torch.ones(1, 200, dtype=torch.double))
        assert torch.isfinite(found).all()

    @pytest.mark.parametrize("case", ["no weight", "one point", "all points equal"])
    def test_degenerate_input_is_a_stated_failure_with_finite_gradients(self, case):
        source = torch.rand(1, 10, 2, dtype=torch.double)
        target = source.clone().requires_grad_()
        weights = torch.ones(1, 10, dtype=torch.double)
        if case == "no weight":
            weights = torch.zeros_like(weights)
        elif case == "one point":
            weights[:, 1:] = 0
        else:
            source = torch.ones_like(source)
        pose, solved = solve_pose(source, target, weights)
        assert not solved.any()
        assert torch.isfinite(pose).all()
        pose.sum().backward()
        assert torch.isfinite(target.grad).all()

    def test_collinear_points_are_solved(self):
        source = torch.stack([torch.linspace(0, 9, 10), torch.zeros(10)], -1)[None].double()
        found, solved = solve_pose(source, source + 1, torch.ones(1, 10).double())
        assert solved.all()
        np.testing.assert_allclose(found[0].numpy(), [1, 1, 0], atol=1e-9)

    def test_gradient_is_right(self):
        source, target = matches(np.array([1.0, 2.0, 0.1]), n=6)
        weights = torch.rand(1, 6, dtype=torch.double)
        inputs = (source.requires_grad_(), target.requires_grad_(), weights.requires_grad_())
        assert torch.autograd.gradcheck(lambda *a: solve_pose(*a)[0], inputs)
