"""What dense_flow learns from: gradients, what is frozen, the switches of Table 5, and the ground's tilt."""

from dataclasses import replace

import pytest
import torch
from test_dense_flow import TINY, TINY_VOTE, batch

from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_losses import dense_flow_loss
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.models.solver import place, solve_pose

TRUTH = torch.tensor([[3.0, -2.0, 0.05], [-8.0, 4.0, -0.1]])
SLOPES = {
    "camera": torch.tensor([[0.0, 0.0, 1.65]]).repeat(2, 1),
    "tilt": torch.tensor([[0.004, 0.0], [-0.002, 0.003]]),
}


class TestTilt:
    @torch.inference_mode()
    def test_a_flow_that_tells_of_a_tilt_is_solved_for_it(self):
        """Cells found where tilted ground puts them: the tilt is told from the pose, and that is the true one."""
        torch.manual_seed(0)
        network = DenseFlow(TINY_VOTE).eval()
        network.tilt_gain.zero_()
        start = TRUTH + torch.tensor([0.4, -0.3, 0.01])
        found = place(network.ground_points(SLOPES["camera"], SLOPES["tilt"]), TRUTH)
        shift = place(found, torch.zeros(2, 3)) - start[:, None, None, :2]  # into the started vehicle's frame
        c, s = torch.cos(start[:, 2])[:, None, None], torch.sin(start[:, 2])[:, None, None]
        x, y = shift.unbind(-1)
        shift = torch.stack([c * x + s * y, -s * x + c * y], -1) - network.points
        tilt = network._solve_tilt(shift, torch.ones(2, 96, 96), SLOPES["camera"])
        torch.testing.assert_close(tilt, SLOPES["tilt"], atol=4e-4, rtol=0)
        level = solve_pose(
            network.points.expand(2, -1, -1, -1).flatten(1, 2), found.flatten(1, 2), torch.ones(2, 9216)
        )[0]
        true = solve_pose(
            network.ground_points(SLOPES["camera"], tilt).flatten(1, 2), found.flatten(1, 2), torch.ones(2, 9216)
        )[0]
        assert relative_pose(TRUTH, level)[0, :2].norm() > 1.0 > 0.2 > relative_pose(TRUTH, true)[0, :2].norm()


class TestTraining:
    @pytest.mark.parametrize(
        "config",
        [
            replace(TINY, confidence_target="relative", refine_siamese=True),
            replace(TINY, confidence_target="absolute"),
            TINY_VOTE,
        ],
        ids=["relative", "absolute", "the vote's encoders"],
    )
    def test_every_parameter_that_is_trained_gets_a_gradient(self, config):
        torch.manual_seed(0)
        model = DenseFlow(config).train()
        if config.encoders == "vote":  # its last layer begins at zero, which keeps gradients from those before
            torch.nn.init.normal_(model.refine.mix.weight)
        out = model(**batch(config), start=TRUTH + 0.2)
        dense_flow_loss(model, out, TRUTH, progress=1.0, **SLOPES)["total"].backward()
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert not [n for n, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
        assert all(torch.isfinite(p.grad).all() for p in trained.values())
        frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
        assert all(n.startswith("encoders.vote.") for n in frozen) and bool(frozen) == (config.encoders == "vote")

    def test_the_votes_encoders_stay_as_they_are(self):
        """Nor do their batch norms learn from what they see in training."""
        torch.manual_seed(0)
        model = DenseFlow(TINY_VOTE).train()
        before = {n: t.clone() for n, t in model.encoders.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
        for _ in range(2):
            dense_flow_loss(model, model(**batch(TINY_VOTE), start=TRUTH), TRUTH, progress=1.0, **SLOPES)[
                "total"
            ].backward()
            optimizer.step()
        for name, tensor in model.encoders.state_dict().items():
            assert torch.equal(tensor, before[name]), name

    @pytest.mark.parametrize("base", [TINY, TINY_VOTE], ids=["own encoders", "the vote's"])
    @pytest.mark.parametrize(
        "switch",
        [
            {"project": False},
            {"refine": False},
            {"matching_loss": False},
            {"position_loss": False},
            {"confidence": False},
            {"hold_unseen": False},
            {"refine_siamese": False},
            {"weighted_centroids": False},
            {"context_of": "patch"},
            {"bev_of": "image"},
        ],
        ids=lambda switch: next(iter(switch)),
    )
    def test_every_switch_changes_something_and_still_trains(self, base, switch):
        if base is TINY:
            base = replace(base, refine_siamese=True, bev_samples_per_cell=base.stride)
        elif switch.keys() & {"refine_siamese", "bev_of"}:
            pytest.skip("no choice: descriptors of the vote fit each other")
        inputs, results, weights = batch(base), [], {}
        for config in (base, replace(base, **switch)):
            torch.manual_seed(0)
            model = DenseFlow(config).train()
            if model.refine and base is TINY_VOTE:
                torch.nn.init.normal_(model.refine.mix.weight)
            own = model.state_dict()
            same = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
            model.load_state_dict(same, strict=False)  # what a switch adds has taken random numbers from the rest
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            losses = dense_flow_loss(model, model(**inputs, start=TRUTH + 0.3), TRUTH, progress=1.0, **SLOPES)
            losses["total"].backward()
            assert torch.isfinite(losses["total"])
            results.append(float(losses["total"].detach()))
        assert results[0] != results[1]
