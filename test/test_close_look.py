"""The third vote of vote_flow: near cells seen where the camera has them, compared on ground that is tilted."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cvloc_ros.geometry import GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.onnx_export import INPUTS, _Located
from cvloc_ros.models.solver import tilt_shift
from cvloc_ros.models.vote import weigh
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher
from cvloc_ros.training.samples import to_inputs
from cvloc_ros.training.vote_flow_task import VoteFlowTask, VoteFlowTaskConfig

CAMERA = PinholeCamera.from_focal(416, 128, 240.0)
T_BASE_CAMERA = camera_extrinsics(height=1.65, x=0.5, pitch=0.01)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VoteFlow().eval()


def test_its_cells_are_samples_of_the_bev(network):
    c, close = network.config, network.close
    np.testing.assert_allclose(c.bev_samples.centres()[close.rows, close.cols], c.close.centres(), atol=1e-9)


def test_quarters_of_cells_are_where_the_camera_sees_them(network):
    c, grid = network.config, network.config.close
    pixels, visible = ground_pixels(CAMERA, T_BASE_CAMERA, c.bev_samples, c.heights)
    where, seen = network.close.near(torch.from_numpy(pixels)[None], torch.from_numpy(visible)[None])
    quarters = GroundGrid(2 * grid.rows, 2 * grid.cols, grid.cell / 2, grid.x_max)
    exact, really = ground_pixels(CAMERA, T_BASE_CAMERA, quarters)
    seen = seen[0, 0].numpy() > 0
    assert not (seen & ~really[0]).any() and seen.sum() > 0.9 * really.sum()
    # one row of pixels is x^2 / (f h) metres of ground, one column x / f
    x = quarters.centres()[..., 0] - 0.5
    apart = np.abs(where[0].numpy() - exact[0]) * [416 / 2, 128 / 2]
    metres = np.hypot(apart[..., 0] * x / 240, apart[..., 1] * x**2 / 240 / 1.65)
    assert metres[seen & (x > 5)].max() < 0.1 * grid.cell


@torch.inference_mode()
@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.006, -0.004)])
def test_it_finds_the_pose_on_tilted_ground(network, slope):
    """Cells described as the map is, where the tilted ground really has them."""
    generator = torch.Generator().manual_seed(0)
    camera, tilt, pose = torch.tensor([[0.5, 0.0, 1.65]]), torch.tensor([slope]), torch.tensor([[3.1, -4.3, 0.062]])
    noise = torch.rand(1, 16, 128, 128, generator=generator) - 0.5
    side = network.config.patch_size
    described = F.normalize(F.interpolate(noise, (side, side), mode="bilinear"), dim=1)
    covered = torch.ones(1, 1, side, side)
    cells = torch.as_tensor(network.config.close.centres(), dtype=torch.float32)[None]
    ground = network._warp(described, (cells + tilt_shift(cells, camera, tilt))[:, None], pose[:, None])[:, 0]
    weight = torch.ones(1, 1, *ground.shape[-2:])
    # the truth is a cell of the vote: two steps back, one to the left, and turned by one
    cos, sin, step = math.cos(0.062), math.sin(0.062), network.config.close.cell / 2
    back, left = -2 * step, step
    centre = pose - torch.tensor([[cos * back - sin * left, sin * back + cos * left, float(network.third.headings[3])]])
    lattice = network.third.lattice.expand(1, -1, -1, -1)

    def held(lattice):
        features = weigh(ground, weight), weigh(described, covered)
        score = network._hold(network.third, *features, centre[:, None], precision=torch.float32, lattice=lattice)[:, 0]
        return score.amax(), network.third.mean(60 * score, centre)

    score, found = held(lattice + tilt_shift(lattice, camera, tilt))
    torch.testing.assert_close(found[:, :2], pose[:, :2], atol=0.04, rtol=0)
    assert (found[0, 2] - pose[0, 2]).abs() < np.radians(0.1)
    if any(slope):
        level, _ = held(None)
        assert level < score - 0.02, "the tilt counts"


@torch.inference_mode()
@pytest.mark.parametrize("last", [False, True])
def test_it_is_held_on_the_tilt_that_the_flow_has_found(last):
    """At the candidates, as in training, where nothing comes after them, and once more where the last flow ends."""
    torch.manual_seed(0)
    network = VoteFlow(VoteFlowConfig(iterations=1)).eval()
    network.tilt_gain.fill_(7.5)  # of a network that has not learned anything
    generator = torch.Generator().manual_seed(1)
    pixels, visible = ground_pixels(CAMERA, T_BASE_CAMERA, network.config.bev_samples, network.config.heights)
    place = torch.from_numpy(pixels)[None], torch.from_numpy(visible)[None]
    side = network.config.patch_size
    image, patch = (torch.rand(1, 3, *size, generator=generator) for size in ((128, 416), (side, side)))
    camera = torch.from_numpy(T_BASE_CAMERA[None, :3, 3]).float()
    satellite = network.encode_satellite(patch, torch.ones(1, 1, side, side))
    close = None if last else torch.tensor([[1.0, 2.0, 0.05]])
    ground = network.describe(image, *place)
    out = network.locate(satellite, ground, camera, close=close)
    assert len(out.tilts) == 1 + last
    lattice, tilt, centre = network.third.lattice[None], out.tilts[-1], out.poses[-1] if last else close
    features = weigh(ground.close, ground.close_weight), satellite.close

    def held(tilt):
        bent = lattice + tilt_shift(lattice, camera, tilt)
        score = network._hold(network.third, *features, centre[:, None], precision=torch.float32, lattice=bent)[:, 0]
        return network.third.mean(score * network.close_sharpness.exp(), centre)

    torch.testing.assert_close(out.voted, held(tilt), atol=1e-5, rtol=0)
    for wrong in (-tilt, torch.zeros_like(tilt)):
        assert (out.voted - held(wrong)).abs().max() > 1e-4


@torch.inference_mode()
def test_its_mean_is_the_answer(network, monkeypatch):
    """Of the matcher, of the exported network and of training's validation: not where the last flow has ended."""
    rng = np.random.default_rng(0)
    square = (network.config.patch_size, network.config.patch_size)
    image, patch = (rng.integers(0, 255, (*size, 3), np.uint8) for size in ((128, 416), square))
    found, locate = [], network.locate
    monkeypatch.setattr(network, "locate", lambda *given, **more: found.append(locate(*given, **more)) or found[-1])
    given = MatchInput(image, CAMERA, T_BASE_CAMERA, patch, np.ones(square, bool), box=(20.0, 20.0, 0.17))
    (match,) = VoteFlowMatcher(network).match_batch([given])

    pixels, visible = ground_pixels(CAMERA, T_BASE_CAMERA, network.config.bev_samples, network.config.heights)
    sample = {"pixels": pixels, "visible": visible, "camera": np.float32(T_BASE_CAMERA[:3, 3])}
    sample |= {"image": image.transpose(2, 0, 1), "patch": patch.transpose(2, 0, 1), "coverage": np.ones((1, *square))}
    batch = {name: torch.from_numpy(value)[None] for name, value in sample.items()}
    poses = VoteFlowTask(network.config, VoteFlowTaskConfig()).locate(network, batch)
    (exported, *_) = _Located(network)(*(to_inputs(batch)[name] for name in INPUTS))

    for answer, out in zip((torch.from_numpy(match.pose)[None].float(), poses["final"], exported), found, strict=True):
        torch.testing.assert_close(answer, out.voted)
        assert (answer - out.poses[-1]).abs().max() > 1e-3
    torch.testing.assert_close(poses["vote"], found[1].starts[0])


def test_the_mean_does_not_jump_along_a_ridge(network):
    """Cells that are nearly as high as one another: whichever is highest, the pose is the same."""
    logits, centre = torch.full((1, 5, 9, 9), -20.0), torch.tensor([[1.0, 2.0, 0.3]])
    logits[0, 2, 2:7, 4] = 5.0
    means = []
    for row in (2, 6):
        ridge = logits.clone()
        ridge[0, 2, row, 4] += 1e-3
        means.append(network.third.mean(ridge, centre))
    torch.testing.assert_close(*means, atol=2e-3, rtol=0)
    torch.testing.assert_close(means[0], centre, atol=2e-3, rtol=0)


@pytest.mark.parametrize("size", [0, 27, 48])
def test_cells_that_are_no_samples_are_refused(size):
    with pytest.raises(ValueError, match=f"expected an even close_size under 48.*got {size}"):
        VoteFlowConfig(close_size=size)


def test_a_third_vote_of_another_size():
    network = VoteFlow(VoteFlowConfig(close_size=20, close_shifts=3, close_headings=1)).eval()
    close = network.close
    c = network.config
    np.testing.assert_allclose(c.bev_samples.centres()[close.rows, close.cols], c.close.centres(), atol=1e-9)
    assert network.third.lattice.shape == (4 * 23, 23, 2)
