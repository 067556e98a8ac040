import numpy as np
import pytest
import torch
import torch.nn.functional as F
from raft_large import raft_large
from safetensors.torch import save_file

from cvloc_ros.models.pretrained import load_raft, load_resnet18
from cvloc_ros.models.raft import CorrelationPyramid, UpdateBlock, convex_upsample
from cvloc_ros.models.resnet_trunk import ResNetTrunk


class TestTrunk:
    def test_pretrained_layers_load_and_the_third_stays(self, tmp_path):
        trunk = ResNetTrunk((64, 64, 128, 256), 8)
        state = {n: torch.rand_like(t) if t.is_floating_point() else t for n, t in trunk.state_dict().items()}
        state["layer3.0.conv1.weight"] = torch.zeros(256, 128, 3, 3)
        state |= {"fc.bias": torch.zeros(1000), "layer4.0.conv1.weight": torch.zeros(512, 256, 3, 3)}
        save_file(state, tmp_path / "resnet18.safetensors")
        load_resnet18(trunk, tmp_path / "resnet18.safetensors")
        for name in ("conv1.weight", "bn1.running_var", "layer1.1.conv2.weight", "layer2.0.downsample.0.weight"):
            torch.testing.assert_close(trunk.state_dict()[name], state[name])
        assert trunk.state_dict()["layer3.0.conv1.weight"].abs().sum() > 0

    def test_names_are_torchvisions(self):
        """Those of `torchvision.models.resnet18`, up to the layer that is not taken from it."""
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        wanted = {"conv1.weight", *(f"bn1.{name}" for name in norm)}
        for block in ("layer1.0", "layer1.1", "layer2.0", "layer2.1"):
            for k in (1, 2):
                wanted |= {f"{block}.conv{k}.weight", *(f"{block}.bn{k}.{name}" for name in norm)}
        wanted |= {"layer2.0.downsample.0.weight", *(f"layer2.0.downsample.1.{name}" for name in norm)}
        names = ResNetTrunk((64, 64, 128, 256), 8).state_dict()
        assert {name for name in names if not name.startswith("layer3.")} == wanted

    def test_other_weights_are_named(self, tmp_path):
        trunk = ResNetTrunk((64, 64, 128, 256), 8)
        save_file({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=r"conv1.weight of shape \(64, 3, 7, 7\).*got \(64, 3, 3, 3\)"):
            load_resnet18(trunk, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match="expected a safetensors file"):
            load_resnet18(trunk, tmp_path / "none.safetensors")

    @pytest.mark.parametrize("stride", [4, 8])
    def test_a_feature_is_centred_on_its_pixel(self, stride):
        """What `DenseFlow` takes for granted when it samples features and places cells."""
        trunk = ResNetTrunk((4, 4, 4, 4), stride).eval()
        for parameter in trunk.parameters():
            torch.nn.init.constant_(parameter, 0.05 if parameter.dim() > 1 else 1.0)
        image = torch.zeros(1, 3, 128, 128)
        image[..., 64, 64] = 1.0
        answer = (trunk(image) - trunk(torch.zeros_like(image)))[0].sum(0)
        row, col = np.unravel_index(int(answer.argmax()), answer.shape)
        assert (row * stride, col * stride) == (64, 64)
        torch.testing.assert_close(answer[row, col - 1], answer[row, col + 1], atol=0, rtol=1e-3)


class TestRaftWeights:
    """The recurrent part takes RAFT's weights: what comes out is RAFT's, which counts columns before rows."""

    @staticmethod
    def step_of_raft(state, hidden, context, correlation, flow):
        """Take RAFT's step (Teed and Deng, section 3.3 and appendix A), in its own order of columns and rows."""

        def conv(name, x):
            weight = state[f"{name}.weight"]
            return F.conv2d(x, weight, state[f"{name}.bias"], padding=[n // 2 for n in weight.shape[2:]])

        motion = "update_block.motion_encoder"
        seen = conv(f"{motion}.convcorr2.0", conv(f"{motion}.convcorr1.0", correlation).relu()).relu()
        moved = conv(f"{motion}.convflow2.0", conv(f"{motion}.convflow1.0", flow).relu()).relu()
        x = torch.cat([context, conv(f"{motion}.conv.0", torch.cat([seen, moved], 1)).relu(), flow], 1)
        for k in (1, 2):
            gate = f"update_block.recurrent_block.convgru{k}.conv"
            z, r = (torch.sigmoid(conv(gate + name, torch.cat([hidden, x], 1))) for name in "zr")
            hidden = (1 - z) * hidden + z * torch.tanh(conv(f"{gate}q", torch.cat([r * hidden, x], 1)))
        change = conv("update_block.flow_head.conv2", conv("update_block.flow_head.conv1", hidden).relu())
        mask = 0.25 * conv("mask_predictor.conv", conv("mask_predictor.convrelu.0", hidden).relu())
        return hidden, change, mask

    def test_a_step_is_that_of_raft(self, tmp_path):
        state = raft_large()
        save_file(state, tmp_path / "raft.safetensors")
        update = UpdateBlock(correlations=324, hidden=128, factor=8, confidence=True)
        confidence = update.confidence[0].weight.clone()
        load_raft(update, tmp_path / "raft.safetensors")
        assert torch.equal(update.confidence[0].weight, confidence), "RAFT has none"
        generator = torch.Generator().manual_seed(4)
        hidden, context, correlation, flow = (torch.randn(1, n, 5, 7, generator=generator) for n in (128, 128, 324, 2))
        with torch.no_grad():
            found, moved = update(hidden, context, correlation, flow)
            # in RAFT a window's places, and a flow, count columns first
            columns_first = correlation.unflatten(1, (4, 9, 9)).transpose(2, 3).reshape(correlation.shape)
            hidden, change, mask = self.step_of_raft(state, hidden, context, columns_first, flow.flip(1))
            torch.testing.assert_close(found, hidden, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(moved, change.flip(1), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(update.upsampling(found), mask, atol=1e-5, rtol=1e-4)

    def test_other_sizes_and_files_are_named(self, tmp_path):
        state = raft_large()
        save_file(state, tmp_path / "raft.safetensors")
        small = UpdateBlock(correlations=50, hidden=48, factor=4, confidence=True)
        with pytest.raises(ValueError, match=r"convcorr1.0.weight of shape \(96, 50, 1, 1\).*got \(256, 324, 1, 1\)"):
            load_raft(small, tmp_path / "raft.safetensors")
        del state["update_block.flow_head.conv2.bias"]
        save_file(state, tmp_path / "cut.safetensors")
        update = UpdateBlock(correlations=324, hidden=128, factor=8, confidence=False)
        with pytest.raises(ValueError, match=r"flow_head.conv2.bias of shape \(2,\).*got nothing: give the state_dict"):
            load_raft(update, tmp_path / "cut.safetensors")


class TestRaft:
    def test_levels_are_averages_around_the_same_place(self):
        satellite = torch.zeros(1, 1, 32, 32)
        satellite[..., 12:16, 20:24] = 1.0  # one cell of the third level, centred at (13.5, 21.5)
        pyramid = CorrelationPyramid.everywhere(torch.ones(1, 1, 1, 1), satellite, levels=3, radius=1)
        around = pyramid.look_up(torch.tensor([13.5, 21.5]).view(1, 2, 1, 1)).view(3, 3, 3)
        torch.testing.assert_close(around[2], F.pad(torch.ones(1, 1), (1, 1, 1, 1)))
        torch.testing.assert_close(around[0], torch.ones(3, 3))
        beyond = pyramid.look_up(torch.tensor([-50.0, 1e9]).view(1, 2, 1, 1))
        assert (beyond == 0).all()

    def test_look_up_is_bilinear(self):
        generator = torch.Generator().manual_seed(1)
        satellite, bev = torch.randn(1, 6, 32, 32, generator=generator), torch.randn(1, 6, 3, 4, generator=generator)
        where = torch.rand(1, 2, 3, 4, generator=generator) * 36 - 2
        found = CorrelationPyramid.everywhere(bev, satellite, levels=1, radius=2).look_up(where)
        step = torch.arange(-2.0, 3)
        offsets = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).view(25, 2)
        points = where.permute(0, 2, 3, 1)[..., None, :] + offsets  # (1, 3, 4, 25, 2)
        grid = ((2 * points + 1) / 32 - 1).flip(-1).reshape(1, 12, 25, 2)
        around = F.grid_sample(satellite, grid, align_corners=False).view(1, 6, 3, 4, 25)
        wanted = (around * bev[..., None]).sum(1) / 6**0.5
        torch.testing.assert_close(found, wanted.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)

    def test_around_a_start_it_is_the_same_as_everywhere(self):
        """Where the samples are the satellite's own features, half a cell being one of them."""
        generator = torch.Generator().manual_seed(2)
        satellite, bev = torch.randn(1, 6, 16, 16, generator=generator), torch.randn(1, 6, 4, 5, generator=generator)
        samples = satellite[..., :14, :16]  # cells lie at (3, 3), (3, 5), ... (9, 11), and see 3 to each side
        row, col = torch.meshgrid(torch.arange(3.0, 11, 2), torch.arange(3.0, 13, 2), indexing="ij")
        flow = torch.rand(1, 2, 4, 5, generator=generator) * 2 - 1
        near = CorrelationPyramid.around(bev, samples, reach=3, levels=1, radius=2).look_up(3 + flow)
        far = CorrelationPyramid.everywhere(bev, satellite, levels=1, radius=2).look_up(
            torch.stack([row, col])[None] + flow
        )
        torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-4)

    def test_coarser_levels_average_what_is_there(self):
        bev, samples = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 8, 8)
        pyramid = CorrelationPyramid.around(bev, samples, reach=2, levels=2, radius=1)
        assert [volume.shape[-1] for volume in pyramid.volumes] == [5, 3]
        assert (pyramid.volumes[1] == 1).all()

    def test_upsampling_stays_between_the_neighbours_and_keeps_places(self):
        ramp = torch.arange(6.0).expand(1, 2, 5, 6)
        logits = torch.full((1, 9, 16, 5, 6), -50.0)
        logits[:, 4] = 0.0  # all weight on the cell itself
        fine = convex_upsample(ramp, logits.flatten(1, 2), 4)
        torch.testing.assert_close(fine, ramp.repeat_interleave(4, 2).repeat_interleave(4, 3))
        mixed = convex_upsample(ramp, torch.zeros(1, 144, 5, 6), 4)
        torch.testing.assert_close(mixed[0, 0, 0, 4:20].view(4, 4).mean(1), torch.arange(1.0, 5))
