"""The paper's eqs. 4 to 7: unit values, and the corrections to its code."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.dense_flow_config import FULL, SMALL
from cvloc_ros.models.dense_flow_losses import (
    absolute_confidence_loss,
    beta,
    confidence_loss,
    dense_flow_loss,
    kappa,
    matching_loss,
    position_loss,
    sample_losses,
    tilt_loss,
)
from cvloc_ros.models.solver import place, solve_pose, tilt_shift

TINY = replace(SMALL, hidden=8, refine_blocks=1, confidence_target="relative", beta_schedule="code")
LEVEL = replace(TINY, tilt_degrees=0.0)


def slopes(n):
    """Where the cameras are and how the ground is tilted, as a batch has it."""
    generator = torch.Generator().manual_seed(1)
    return {
        "camera": torch.tensor([[0.5, 0.0, 1.65]]).repeat(n, 1),
        "tilt": 0.005 * torch.randn(n, 2, generator=generator),
    }


def drawn_output(model, truth, iterations=3, seed=0):
    """An output as training gives it, whose matches err by a metre or so."""
    generator = torch.Generator().manual_seed(seed)
    b, target = len(truth), place(model.points, truth)
    draw = lambda *shape: torch.rand(b, *target.shape[1:3], *shape, generator=generator)  # noqa: E731
    confidences, seen = [draw() for _ in range(iterations)], draw() > 0.4
    return DenseFlowOutput(
        start=torch.zeros(b, 3),
        votes=None,
        seen=seen,
        moved=[target + (3 - i) * (draw(2) - 0.5) for i in range(iterations)],
        confidences=[S * seen for S in confidences],
        weights=confidences[-1] * seen,
        tilt=0.005 * torch.randn(b, 2, generator=generator),
        ground=model.points.repeat(b, 1, 1, 1),
        pose=truth + 0.1 * torch.randn(b, 3, generator=generator),
        solved=torch.ones(b) > 0,
        bev=torch.randn(b, 4, 24, 24, generator=generator),
        satellite=torch.randn(b, 4, 64, 64, generator=generator),
    )


class TestGroundTruth:
    @pytest.mark.parametrize(("sx", "sy", "theta"), [(0.5, -0.25, 0.3), (-0.4, 0.3, -0.7)])
    def test_flow_at_the_centre_is_the_split_files_offset(self, sx, sy, theta):
        """KITTI's protocol: the vehicle is at (right, up) = R(10 theta degrees) 20 (sx, sy) m of the patch.

        The patch's forward is KITTI's right (its crop has the heading to the right), its left is KITTI's up.
        """
        yaw = np.radians(10 * theta)
        R = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        forward, left = R @ [20 * sx, 20 * sy]
        truth = torch.tensor([[forward, left, yaw]], dtype=torch.float32)
        flow = (place(torch.zeros(1, 1, 2), truth) / FULL.patch_cell)[0, 0, 0]
        u, v = float(flow[0]), -float(flow[1])  # pixels right and down
        c, s = np.cos(yaw), np.sin(yaw)
        wanted = np.array([[c, s], [-s, c]]) @ [20 * sx / 0.195822, -20 * sy / 0.195822]
        np.testing.assert_allclose([u, v], wanted, rtol=1e-5)
        if theta == 0.3:
            np.testing.assert_allclose([forward, left], [10.25, -4.47], atol=0.01)


class TestConfidence:
    def test_gradient_by_confidence_is_the_tangent(self):
        """dL/dS = tanh(d~ / 2 kappa) / n: positive for a match that is worse than the mean, which lowers its S."""
        distance = torch.tensor([[[0.0, 1.0, 2.0, 9.0]]])
        S = torch.full((1, 1, 4), 0.3, requires_grad=True)
        seen = torch.ones(1, 1, 4, dtype=torch.bool)
        confidence_loss(S, distance, seen, kappa=2.0).sum().backward()
        d = (distance - 3.0) / distance.std(correction=0)
        torch.testing.assert_close(S.grad, torch.tanh(d / 4.0) / 4)
        assert (S.grad[0, 0] > 0).tolist() == [False, False, False, True]

    def test_the_unit_of_the_distance_does_not_matter(self):
        distance, S = torch.rand(1, 3, 4), torch.rand(1, 3, 4)
        seen = torch.ones(1, 3, 4, dtype=torch.bool)
        torch.testing.assert_close(
            confidence_loss(S, distance, seen, kappa=2.0), confidence_loss(S, 7 * distance, seen, kappa=2.0)
        )

    @pytest.mark.parametrize("loss", [(confidence_loss, {"kappa": 2.0}), (absolute_confidence_loss, {"within": 0.5})])
    def test_distances_get_no_gradient_and_unseen_points_no_say(self, loss):
        function, options = loss
        generator = torch.Generator().manual_seed(0)
        distance = torch.rand(2, 3, 4, generator=generator).requires_grad_()
        S = torch.rand(2, 3, 4, generator=generator).requires_grad_()
        seen = torch.rand(2, 3, 4, generator=generator) > 0.5
        value = function(S, distance, seen, **options)
        value.sum().backward()
        assert distance.grad is None
        assert (S.grad[~seen] == 0).all() and (S.grad[seen] != 0).all()
        torch.testing.assert_close(function(S, distance + 50 * ~seen, seen, **options), value)

    def test_absolute_confidence_is_the_share_of_good_matches(self):
        distance = torch.tensor([0.1, 0.2, 0.3, 5.0]).view(1, 2, 2)
        seen = torch.ones(1, 2, 2, dtype=torch.bool)
        losses = [
            float(absolute_confidence_loss(torch.full((1, 2, 2), S), distance, seen, within=1.0))
            for S in (0.65, 0.75, 0.85)
        ]
        assert losses[1] == min(losses)

    def test_nothing_seen_is_no_loss(self):
        nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
        ones = torch.ones(1, 2, 2)
        for value in (
            confidence_loss(ones, ones, nothing, kappa=2.0),
            absolute_confidence_loss(ones, ones, nothing, within=1.0),
            matching_loss(ones[..., None], ones[..., None], nothing, unit=0.4),
        ):
            assert value == 0


class TestTerms:
    def test_matching_is_the_l1_distance_in_pixels(self):
        target = torch.zeros(1, 2, 2, 2)
        moved = torch.tensor([0.4, -0.8]).expand(1, 2, 2, 2)
        seen = torch.tensor([[[True, True], [True, False]]])
        assert matching_loss(moved, target, seen, unit=0.4)[0] == pytest.approx(3.0)

    def test_position_is_metres_plus_degrees(self):
        truth = torch.tensor([[3.0, 4.0, np.pi / 2]], dtype=torch.float32)
        pose = truth + torch.tensor([[0.5, -0.25, np.radians(2.0)]], dtype=torch.float32)
        assert position_loss(pose, truth)[0] == pytest.approx(2.75, abs=1e-4)

    def test_weights_make_the_pose_and_get_a_gradient_from_it(self):
        generator = torch.Generator().manual_seed(0)
        source = torch.rand(1, 50, 2, generator=generator) * 40
        target = source.clone()
        target[:, :15] += torch.tensor([15.0, 4.0])
        S = torch.full((1, 50), 0.5, requires_grad=True)
        pose, _ = solve_pose(source, target, S)
        position_loss(pose, torch.zeros(1, 3)).sum().backward()
        assert S.grad[:, :15].mean() > 0 > S.grad[:, 15:].mean(), "displaced matches are to weigh less"
        exact, _ = solve_pose(source, target, torch.cat([torch.zeros(1, 15), torch.ones(1, 35)], dim=1))
        torch.testing.assert_close(exact, torch.zeros(1, 3), atol=1e-5, rtol=0)


class TestTilt:
    truth = torch.tensor([[3.0, -2.0, 0.05]])

    def test_points_are_to_be_found_where_the_tilted_ground_puts_them(self):
        model, given = DenseFlow(TINY), slopes(1)
        out = drawn_output(model, self.truth)
        there = place(model.points + tilt_shift(model.points[None], **given), self.truth)
        for moved, loss in (([there], 0.0), ([place(model.points, self.truth)], None)):
            once = replace(out, moved=moved, confidences=out.confidences[:1])
            found = sample_losses(model, once, self.truth, progress=1.0, **given)["matching"]
            assert (found == loss if loss is not None else found > 1.0).all()

    def test_a_level_network_ignores_it(self):
        model = DenseFlow(LEVEL)
        out = drawn_output(model, self.truth, iterations=1)
        out = replace(out, moved=[place(model.points, self.truth)])
        found = sample_losses(model, out, self.truth, progress=1.0, **slopes(1))
        assert found["matching"] == found["tilt"] == 0

    def test_what_nobody_knows_is_not_judged(self):
        truth = self.truth.repeat(2, 1)
        out = drawn_output(model := DenseFlow(TINY), truth)
        known = torch.tensor([1.0, 0.0])
        found = sample_losses(model, out, truth, progress=1.0, tilt_known=known, **slopes(2))["tilt"]
        assert found[0] > 0 and found[1] == 0
        assert tilt_loss(torch.tensor([[0.005, -0.01]]), torch.zeros(1, 2), sigma=0.005) == pytest.approx(1.0)


class TestTotal:
    truth = torch.tensor([[3.0, -2.0, 0.05], [-8.0, 4.0, -0.1], [1.0, 9.0, 0.15]])

    @pytest.mark.parametrize("target", ["relative", "absolute"])
    def test_permuting_the_batch_permutes_the_losses(self, target):
        model = DenseFlow(replace(TINY, confidence_target=target))
        out = drawn_output(model, self.truth)
        order = [2, 0, 1]
        given = slopes(3)
        permuted = replace(
            out,
            seen=out.seen[order],
            moved=[m[order] for m in out.moved],
            confidences=[S[order] for S in out.confidences],
            tilt=out.tilt[order],
            pose=out.pose[order],
        )
        losses = sample_losses(model, out, self.truth, progress=1.0, **given)
        turned = {name: value[order] for name, value in given.items()}
        other = sample_losses(model, permuted, self.truth[order], progress=1.0, **turned)
        for name, value in losses.items():
            torch.testing.assert_close(value[order], other[name], msg=name)
            assert len(set(value.tolist())) == 3
        alone = drawn_output(model, self.truth)
        alone.seen[1:] = False  # what the others see is nothing to the first
        torch.testing.assert_close(
            sample_losses(model, alone, self.truth, progress=1.0, **given)["total"][0], losses["total"][0]
        )

    def test_equation_7(self):
        model = DenseFlow(replace(LEVEL, gamma=0.5, alpha=100.0))
        out = drawn_output(model, self.truth)
        target = place(model.points, self.truth)
        wanted = 500.0 * position_loss(out.pose, self.truth)
        for weight, moved, S in zip((0.25, 0.5, 1.0), out.moved, out.confidences, strict=True):
            distance = (moved - target).norm(dim=-1)
            wanted = wanted + weight * matching_loss(moved, target, out.seen, unit=0.4)
            wanted = wanted + weight * 100.0 * confidence_loss(S, distance, out.seen, kappa=2.0)
        losses = dense_flow_loss(model, out, self.truth, progress=1.0, **slopes(3))
        torch.testing.assert_close(losses["total"], wanted.mean())

    @pytest.mark.parametrize(
        ("schedule", "turn", "kappas", "betas"),
        [("paper", 0.6, (200.0, 20.0), (1.0, 10.0)), ("code", 0.567, (20.0, 2.0), (0.0, 500.0))],
    )
    def test_schedules(self, schedule, turn, kappas, betas):
        config = replace(FULL, kappa_schedule=schedule, beta_schedule=schedule)
        assert (kappa(config, 0.0), kappa(config, 1.0)) == kappas
        assert (beta(config, 0.0), beta(config, 1.0)) == betas
        assert beta(config, turn - 0.01) == betas[0] and beta(config, turn + 0.01) == betas[1]
        assert beta(replace(config, position_loss=False), 1.0) == 0
        assert beta(replace(config, matching_loss=False), 0.0) == betas[1], "else nothing would train the flow"
