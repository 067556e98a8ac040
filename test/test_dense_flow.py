from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cvloc_ros.geometry import PinholeCamera, camera_extrinsics
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import FULL, SMALL, DenseFlowConfig
from cvloc_ros.models.dense_flow_encoders import Ground, Patch, TrunkEncoders
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.models.raft import CorrelationPyramid
from cvloc_ros.models.solver import place, solve_pose
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.weights import SHIPPED, load_network

KITTI = PinholeCamera(1242, 375, np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1.0]]))
# The small preset with encoders of its own, from the prior, on level ground, with the whole patch in sight.
OWN = replace(
    SMALL,
    encoders="resnet",
    trunk_widths=(24, 24, 40, 48),
    start="identity",
    tilt_degrees=0.0,
    reach=0,
    levels=4,
    radius=4,
)
# What takes half a second to build and is still the same design.
TINY = replace(OWN, trunk_widths=(8, 8, 8, 8), hidden=8, iterations=2, refine_blocks=1)
TINY_VOTE = replace(SMALL, hidden=8, iterations=2, refine_blocks=1)
SIDE = SMALL.patch_size // SMALL.stride  # of a patch's features


def batch(config, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    camera = PinholeCamera.from_focal(config.image_width, config.image_height, 0.58 * config.image_width)
    pixels, visible = ground_pixels(camera, camera_extrinsics(height=1.65), config.bev_samples, config.heights)
    return {
        "image": torch.rand(n, 3, config.image_height, config.image_width, generator=generator),
        "pixels": torch.from_numpy(pixels).repeat(n, 1, 1, 1, 1),
        "visible": torch.from_numpy(visible).repeat(n, 1, 1, 1),
        "camera": torch.tensor([[0.0, 0.0, 1.65]]).repeat(n, 1),
        "patch": torch.rand(n, 3, config.patch_size, config.patch_size, generator=generator),
        "coverage": torch.ones(n, 1, config.patch_size, config.patch_size),
    }


@pytest.fixture(scope="module", params=[OWN, SMALL], ids=["own encoders", "the vote's"])
def network(request):
    torch.manual_seed(0)
    return DenseFlow(request.param).eval()


def smooth_map(channels, size, seed=0):
    """Random features (1, channels, size, size) that bilinear samples between cells still resemble."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels, int(0.6 * size), int(0.6 * size), generator=generator)
    return F.normalize(F.interpolate(coarse, (size, size), mode="bicubic"), dim=1)


def sampled_at(network, satellite, pose):
    """The BEV features that a perfect encoder would see from a pose: the satellite's at the cells' places."""
    cells = network.to_features(place(network.cells, pose), SIDE)
    where = ((2 * cells + 1) / satellite.shape[-1] - 1).flip(-1)
    return F.grid_sample(satellite, where, align_corners=False)


class TestSizes:
    def test_the_full_preset_is_the_papers(self):
        with torch.device("meta"):
            network = DenseFlow(FULL)
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(29.8, abs=0.1)
        inputs = {name: tensor.to("meta") for name, tensor in batch(FULL, 1).items()}
        with FlopCounterMode(display=False) as counter:
            out = network(**inputs)
        assert counter.get_total_flops() / 2e9 == pytest.approx(330, rel=0.03)  # GMAC, every iteration upsampled
        assert len(out.moved) == len(out.confidences) == 12
        assert out.moved[-1].shape == (1, 512, 512, 2)
        assert out.satellite.shape == (1, 256, 64, 64)

    def test_kitti_visibility(self):
        """837 of the paper's 64 x 64 cells are seen, 6.3 to 48.6 m ahead; its cells lie half a cell off the centres."""
        K = np.diag([128 / 1242, 32 / 375, 1.0]) @ KITTI.K
        K[:2, 2] -= 0.5  # what the paper shows is 0 to 127, 0 to 31 of the feature map, not half a feature more
        half = FULL.bev.cell / 2
        T = camera_extrinsics(height=1.65, x=half, y=-half)
        _, visible = ground_pixels(PinholeCamera(127, 31, K), T, FULL.bev)
        ahead = FULL.bev.centres()[..., 0] - half
        assert visible.sum() == 837
        assert ahead[visible[0]].min() == pytest.approx(6.3, abs=0.05)
        assert ahead[visible[0]].max() == pytest.approx(48.6, abs=0.05)

    def test_what_it_sees_of_kitti(self):
        """With pixels and cells where they are, half of each from the paper's: 868 cells, 7.0 to 49.3 m ahead."""
        camera = KITTI.resized(FULL.image_width, FULL.image_height)
        _, visible = ground_pixels(camera, camera_extrinsics(height=1.65), FULL.bev)
        ahead = FULL.bev.centres()[..., 0][visible[0]]
        assert visible.sum() == 868
        assert (ahead.min(), ahead.max()) == pytest.approx((7.05, 49.35), abs=0.05)

    def test_the_small_preset_sees_what_the_vote_does(self):
        vote = VoteFlow().config
        assert replace(vote, peaks=3) == SMALL.vote, "what a training builds on"
        assert SMALL.patch == vote.patch and SMALL.bev == vote.bev and SMALL.bev_samples == vote.bev_samples
        assert sum(p.numel() for p in DenseFlow(SMALL).parameters() if p.requires_grad) < 1.5e6

    def test_the_shipped_one_is_the_small_preset_on_the_shipped_encoders(self):
        network, vote_flow = (load_network(SHIPPED / f"{name}.safetensors") for name in ("dense_flow", "vote_flow"))
        assert network.config == SMALL
        for name, value in network.encoders.vote.state_dict().items():
            assert torch.equal(value, vote_flow.state_dict()[name]), f"{name} is not that of vote_flow"

    @pytest.mark.parametrize("preset", [FULL, SMALL], ids=["full", "small"])
    def test_a_card_holds_a_config(self, preset):
        numbers = {k: tuple(v) if isinstance(v, list) else v for k, v in asdict(preset).items()}
        assert DenseFlowConfig(**numbers) == preset

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"start": "votes"}, "start to be one of identity, vote, got 'votes'"),
            ({"stride": 16}, "stride to be one of 4, 8"),
            ({"image_width": 1020}, "image_width to be a multiple of the stride 8, got 1020"),
            ({"patch_size": 64}, "expected the flow to see 16 places or more for 4 levels, got 8"),
            ({"start": "vote"}, "expected the encoders vote for the start vote, got resnet"),
            ({"encoders": "vote"}, "expected stride to be 4 with the encoders vote, got 8"),
            ({"bev_of": "image"}, "stride 8, for a bev_of image, got project True and bev_samples_per_cell 1"),
            (
                {"bev_of": "image", "bev_samples_per_cell": 8, "project": False},
                "got project False and bev_samples_per_cell 8",
            ),
        ],
    )
    def test_impossible_configs_are_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            replace(FULL, **wrong)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"bev_rows": 16}, "expected a square BEV with the encoders vote, got 16 x 24"),
            ({"project": False, "refine": False}, "expected refine where the encoders vote do not project"),
            ({"normalization": "imagenet"}, "expected normalization to be image with the encoders vote"),
            ({"bev_of": "image"}, "expected bev_of to be features with the encoders vote"),
            ({"image_width": 408}, "expected image_width to be a multiple of 16 with the encoders vote, got 408"),
            ({"reach": -1}, "expected a reach of 0 or more half cells, got -1"),
            ({"reach": 1}, "expected the flow to see 4 places or more for 2 levels, got 3"),
        ],
    )
    def test_the_votes_encoders_have_sizes_of_their_own(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **wrong)

    @pytest.mark.parametrize("name", ["image", "patch", "pixels"])
    def test_tensors_of_another_size_are_refused(self, network, name):
        inputs = batch(network.config, 1)
        inputs[name] = inputs[name][:, :, :-8]
        with pytest.raises(ValueError, match=r"expected .* of shape .*, got"):
            network(**inputs)


class TestDecoder:
    @pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (7.3, -4.1, 0.12), (-11.0, 9.5, -0.17)])
    def test_correlations_lead_to_the_pose(self, pose):
        """From a start near it each cell goes to the best of its window, and least squares give the pose back."""
        network = DenseFlow(OWN)
        truth = torch.tensor([pose])
        satellite = smooth_map(48, SIDE)
        bev = sampled_at(network, satellite, truth)
        pyramid = CorrelationPyramid.everywhere(bev, satellite, levels=4, radius=4)
        step = torch.arange(-4.0, 5)
        offsets = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).view(81, 2)
        found = truth + torch.tensor([[1.7, -2.2, 0.03]])
        for _ in range(3):
            origin = network.to_features(place(network.cells, found), SIDE)
            window = pyramid.look_up(origin.permute(0, 3, 1, 2))[:, :81]
            flow = torch.einsum("bnhw,nd->bhwd", (100 * window).softmax(dim=1), offsets)
            moved = network.config.patch.y_max - ((origin + flow) * 4 + 0.5) * 0.4
            on_patch = (moved.abs() < 45).all(-1).float()
            matches = (network.cells.expand_as(moved).flatten(1, 2), moved.flatten(1, 2), on_patch.flatten(1))
            found, solved = solve_pose(*matches)
        assert solved.all()
        np.testing.assert_allclose(found[0].numpy(), truth[0].numpy(), atol=0.1)

    @torch.inference_mode()
    @pytest.mark.parametrize("turn", [0.0, 0.1])
    def test_what_is_near_the_start_is_sampled_in_the_vehicles_axes(self, turn):
        """A cell's window shows how well it fits half a cell ahead, behind, left and right of the start's place."""
        torch.manual_seed(0)
        network = DenseFlow(TINY_VOTE)
        truth = torch.tensor([[6.0, -3.0, turn]])
        satellite = F.normalize(F.interpolate(smooth_map(24, SIDE // 2), (SIDE, SIDE), mode="bicubic"), dim=1)
        bev, half = sampled_at(network, satellite, truth), network.config.flow_cell
        c, s = np.cos(turn), np.sin(turn)
        for ahead, left in ((0, 0), (3, 0), (0, -4), (-2, 5)):
            dx, dy = ahead * half, left * half
            start = truth - torch.tensor([[c * dx - s * dy, s * dx + c * dy, 0.0]], dtype=torch.float32)
            pyramid = network._correlate(bev, satellite, start)
            window = pyramid.look_up(network._places(torch.zeros(1, 2, 24, 24), start))
            assert window.shape == (1, 2 * 25, 24, 24)
            whole = pyramid.volumes[0].mean((0, 1))
            row, col = np.unravel_index(int(whole.argmax()), whole.shape)
            assert (6 - row, 6 - col) == (ahead, left)

    @torch.inference_mode()
    def test_where_all_is_seen_the_flow_counts_along_the_patch(self):
        """As its windows lie, whatever the start's heading."""
        network, start = DenseFlow(TINY), torch.tensor([[5.0, -3.0, 0.3]])
        flow = torch.tensor([4.0, -1.5]).view(1, 2, 1, 1).expand(1, 2, 24, 24)
        moved = network._places(flow, start) - network._places(torch.zeros_like(flow), start)
        torch.testing.assert_close(moved, flow, atol=1e-4, rtol=0)

    @torch.inference_mode()
    def test_without_projection_no_descriptor_knows_the_cameras_geometry(self):
        torch.manual_seed(0)
        for base in (TINY, TINY_VOTE):
            network = DenseFlow(replace(base, project=False)).eval()
            one, start = batch(base, 1), torch.zeros(1, 3)
            other = one | {"pixels": one["pixels"].flip(2)}
            torch.testing.assert_close(network(**one, start=start).bev, network(**other, start=start).bev)

    @torch.inference_mode()
    def test_shifting_patch_and_start_shifts_the_pose(self, network):
        """Two cells forward and one to the right: the same flow from there, and nothing else of the pose changes."""
        generator = torch.Generator().manual_seed(0)
        channels = network.encoders.descriptor_channels
        satellite = smooth_map(channels, SIDE)
        full = torch.ones(1, 1, SIDE - 20, SIDE - 8)
        satellite = satellite * F.pad(full, (4, 4, 8, 12))  # what rolls around is empty
        bev = torch.randn(1, network.encoders.bev_channels, 24, 24, generator=generator)
        descriptors = torch.randn(1, channels, 24, 24, generator=generator)
        ground = Ground(bev, torch.rand(1, 1, 24, 24, generator=generator) > 0.3, descriptors)
        coverage, camera = torch.ones(1, 1, SMALL.patch_size, SMALL.patch_size), torch.tensor([[0.0, 0.0, 1.65]])
        near = torch.tensor([[2.0, 1.0, 0.04]])
        step = torch.tensor([[3.2, -1.6, 0.0]])
        one = network.decode(ground, Patch(satellite, coverage), camera, start=near)
        rolled = Patch(satellite.roll((-2, 1), (2, 3)), coverage)
        other = network.decode(ground, rolled, camera, start=near + step)
        assert (one.pose - near).abs().max() > 1e-4, "an untrained flow moves it somewhere"
        torch.testing.assert_close(other.pose - step, one.pose, atol=1e-4, rtol=0)

    @torch.inference_mode()
    def test_turning_all_but_the_vehicle_turns_the_pose(self):
        """Where only the start's surroundings are seen, the patch's own axes are of no matter."""
        torch.manual_seed(0)
        network = DenseFlow(SMALL).eval()
        generator = torch.Generator().manual_seed(0)
        patch = Patch(smooth_map(24, 2 * SIDE), torch.ones(1, 1, SMALL.patch_size, SMALL.patch_size))
        bev, descriptors = (torch.randn(1, n, 24, 24, generator=generator) for n in (64, 24))
        ground, camera = Ground(bev, torch.ones(1, 1, 24, 24) > 0, descriptors), torch.tensor([[0.0, 0.0, 1.65]])
        start = torch.tensor([[2.0, -4.0, 0.1]])
        one = network.decode(ground, patch, camera, start=start)
        quarter = Patch(patch.features.rot90(1, (2, 3)), patch.coverage)  # counter-clockwise: (x, y) is at (-y, x)
        turned = torch.tensor([[4.0, 2.0, 0.1 + np.pi / 2]], dtype=torch.float32)
        other = network.decode(ground, quarter, camera, start=turned)
        torch.testing.assert_close(relative_pose(turned, other.pose), relative_pose(start, one.pose), atol=1e-4, rtol=0)
        assert relative_pose(start, one.pose).abs().max() > 1e-3

    @torch.inference_mode()
    def test_a_start_is_where_the_flow_counts_from(self, network):
        inputs = batch(network.config, 1)
        start = torch.tensor([[5.0, -3.0, 0.1]])
        out = network(**inputs, start=start)
        placed = place(network.points, start)
        assert not torch.equal(out.moved[-1], placed)
        unseen = ~F.max_pool2d(out.seen.float(), 21, 1, 10).bool()  # no seen cell's flow is mixed into these
        torch.testing.assert_close(out.moved[-1][unseen], placed[unseen])

    @torch.inference_mode()
    def test_an_unseen_ground_leaves_the_pose_where_it_started(self, network):
        inputs = batch(network.config, 1)
        inputs["visible"] = torch.zeros_like(inputs["visible"])
        start = torch.tensor([[5.0, -3.0, 0.1]])
        out = network(**inputs, start=start)
        assert not out.solved.any()
        torch.testing.assert_close(out.pose, start)

    @torch.inference_mode()
    @pytest.mark.parametrize("base", [TINY, TINY_VOTE], ids=["own encoders", "the vote's"])
    def test_context_is_read_off_the_bev_or_off_the_patch_under_it(self, base):
        start = torch.tensor([[5.0, -3.0, 0.1]])
        for of in ("bev", "patch"):
            network = DenseFlow(replace(base, context_of=of)).eval()
            read = []
            network.context.register_forward_pre_hook(lambda _, given, read=read: read.append(given[0]))
            inputs = batch(base, 1)
            out = network(**inputs, start=start)
            ground = network.describe(*(inputs[name] for name in ("image", "pixels", "visible")))
            cells = (2 * network.to_features(place(network.cells, start), out.satellite.shape[-1]) + 1).flip(-1)
            under = F.grid_sample(out.satellite, cells / out.satellite.shape[-1] - 1, align_corners=False)
            torch.testing.assert_close(read[0], ground.bev if of == "bev" else under)

    @torch.inference_mode()
    def test_matches_beyond_the_imagery_do_not_count(self, network):
        inputs = batch(network.config, 1)
        inputs["coverage"][..., :, 128:] = 0  # nothing to the right of the prior
        out = network(**inputs)
        assert (out.weights[out.moved[-1][..., 1] < -1.0] == 0).all()
        assert (out.weights > 0).any()


class TestBev:
    @torch.inference_mode()
    def test_features_come_from_where_the_camera_sees_the_cells(self):
        """A map of the pixel's own place, sampled on the BEV, is the projection of the cells."""
        config = OWN
        camera = PinholeCamera.from_focal(416, 128, 240.0)
        T = camera_extrinsics(height=1.65, x=1.0, y=0.3, yaw=0.05, pitch=0.02)
        pixels, visible = ground_pixels(camera, T, config.bev_samples)
        v, u = torch.meshgrid(torch.arange(0.0, 128, 4), torch.arange(0.0, 416, 4), indexing="ij")
        places = torch.stack([u, v])[None]
        encoders = TrunkEncoders(config)
        encoders.ground_trunk = torch.nn.Identity()
        encoders._normalize = lambda image: places
        bev, seen, *_ = encoders.ground(
            torch.zeros(1, 3, 128, 416), torch.from_numpy(pixels)[None], torch.from_numpy(visible)[None]
        )
        centres, whole = ground_pixels(camera, T, config.bev)
        wanted = (centres[0] + 1) / 2 * [416, 128] - 0.5
        far = whole[0] & seen[0, 0].numpy() & (config.bev.centres()[..., 0] > 15)  # there a cell's mean is its centre's
        far &= np.abs(wanted[..., 0] - 208) < 190  # nor is any sample of them beyond the image
        assert far.sum() > 100
        np.testing.assert_allclose(bev[0].permute(1, 2, 0).numpy()[far], wanted[far], atol=1.0)

    @torch.inference_mode()
    def test_an_image_laid_out_on_the_ground_shows_the_cells_where_they_are(self):
        """Likewise, where the trunk comes after the projection: its features lie on the first sample of each cell."""
        config = replace(OWN, bev_of="image", bev_samples_per_cell=OWN.stride)
        camera, T = PinholeCamera.from_focal(416, 128, 240.0), camera_extrinsics(height=1.65, x=1.0, y=0.3, yaw=0.05)
        pixels, visible = (torch.from_numpy(array)[None] for array in ground_pixels(camera, T, config.bev_samples))
        encoders = TrunkEncoders(config)
        encoders.ground_trunk.forward = lambda ground: ground[..., ::4, ::4]
        v, u = torch.meshgrid(torch.arange(128.0), torch.arange(416.0), indexing="ij")
        encoders._normalize = lambda image: torch.stack([u, v])[None]
        bev = encoders.ground(torch.zeros(1, 3, 128, 416), pixels, visible).bev
        centres, _ = ground_pixels(camera, T, config.bev)
        wanted = (centres[0] + 1) / 2 * [416, 128] - 0.5
        all_seen = F.avg_pool2d(visible[:, :1].float(), 4)
        all_seen = -F.max_pool2d(-all_seen, 3, 1, 1)[0, 0].numpy() == 1  # the neighbours', too, that it lies between
        far = all_seen & (config.bev.centres()[..., 0] > 15)
        far[:, -1] = False  # no feature lies to the right of its middle
        assert far.sum() > 80
        np.testing.assert_allclose(bev[0].permute(1, 2, 0).numpy()[far], wanted[far], atol=0.5)


class TestAnswers:
    @torch.inference_mode()
    def test_half_precision_agrees(self, network):
        inputs = batch(network.config, 2)
        start = torch.tensor([[5.0, -3.0, 0.1], [-2.0, 8.0, -0.05]])
        exact = network(**inputs, start=start).pose
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(**inputs, start=start).pose
        assert relative_pose(exact, half)[:, :2].norm(dim=1).max() < 0.05

    @torch.inference_mode()
    def test_a_permuted_batch_gives_permuted_answers(self, network):
        inputs = batch(network.config, 3)
        order = [2, 0, 1]
        out, other = network(**inputs), network(**{name: tensor[order] for name, tensor in inputs.items()})
        torch.testing.assert_close(out.pose[order], other.pose, atol=1e-4, rtol=1e-4)
