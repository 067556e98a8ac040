"""The fast network gives what the plain one gives: folded, gathered, in half precision."""

import numpy as np
import pytest
import torch
from torch import nn

from cvloc_ros.datasets.town import town_pairs
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.evaluation.pairs import draw_tracked_prior, localize_pairs
from cvloc_ros.geometry import PinholeCamera, camera_extrinsics
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models import dense_flow_matcher, fused
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.encoder import Residual, conv_bn, standardize
from cvloc_ros.models.fast_vote_flow import FastVoteFlow
from cvloc_ros.models.fast_vote_flow import standardize as fast_standardize
from cvloc_ros.models.sampling import bilinear, correlate, sample
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher
from cvloc_ros.models.weights import SHIPPED, load_network

UNCALIBRATED = Calibration.constant((0.5, 0.5, 0.02), 0.9)


@pytest.fixture(scope="module")
def network():
    return load_network(SHIPPED / "vote_flow.safetensors")


@pytest.fixture(scope="module")
def pairs():
    return list(town_pairs(TEST_TOWNS, 40, style="train"))


def inputs(seed=0):
    """Smooth noise, a patch with a corner missing."""
    generator = torch.Generator().manual_seed(seed)
    config = VoteFlow().config
    camera = PinholeCamera.from_focal(416, 128, 240.0)
    pixels, visible = ground_pixels(camera, camera_extrinsics(height=1.65), config.bev_samples, config.heights)

    def noise(rows, cols):
        coarse = torch.rand(1, 3, rows // 8, cols // 8, generator=generator)
        return torch.nn.functional.interpolate(coarse, (rows, cols), mode="bilinear")

    size = config.patch_size
    coverage = torch.ones(1, 1, size, size)
    coverage[..., :60, 150:] = 0
    place = (torch.from_numpy(pixels)[None], torch.from_numpy(visible)[None], torch.tensor([[0.0, 0.0, 1.65]]))
    return noise(config.image_height, config.image_width), *place, noise(size, size) * coverage, coverage


@torch.inference_mode()
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (11.0, -6.0, 0.08)])
@pytest.mark.parametrize("box", [(4.0, 4.0, 0.07), (20.0, 20.0, 0.175)])
def test_the_fast_network_is_the_same_function(network, box, centre):
    block = network.block(box, centre)
    plain, fast = (net(*inputs(), block=block) for net in (network, FastVoteFlow(network)))
    looked_at = torch.isfinite(plain.coarse_logits)
    assert torch.equal(looked_at, torch.isfinite(fast.coarse_logits))
    close = {"atol": 0.02, "rtol": 0}  # of logits between -30 and 30
    torch.testing.assert_close(fast.coarse_logits[looked_at], plain.coarse_logits[looked_at], **close)
    torch.testing.assert_close(fast.fine_logits, plain.fine_logits, **close)
    torch.testing.assert_close(fast.close_logits, plain.close_logits, **close)
    torch.testing.assert_close(fast.voted, plain.voted, atol=2e-3, rtol=0)
    torch.testing.assert_close(fast.weights[-1], plain.weights[-1], atol=1e-3, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("form", [lambda network: network, FastVoteFlow])
def test_a_patch_of_another_size_is_refused(network, form):
    *others, patch, coverage = inputs()
    with pytest.raises(ValueError, match=r"a patch of shape \(B, 3, 288, 288\), got \(1, 3, 256, 256\)"):
        form(network)(*others, patch[..., :256, :256], coverage[..., :256, :256])


@torch.inference_mode()
def test_a_camera_that_changes(network):
    """What the fast network remembers of one camera does not serve another."""
    fast, (image, *first, camera, patch, coverage) = FastVoteFlow(network), inputs()
    second = [first[0] + 0.1, first[1] & (first[0].abs() < 0.5).all(-1)]
    for place in (first, second, first):
        plain, found = (net(image, *place, camera, patch, coverage) for net in (network, fast))
        torch.testing.assert_close(found.fine_logits, plain.fine_logits, atol=0.02, rtol=0)
        torch.testing.assert_close(found.close_logits, plain.close_logits, atol=0.02, rtol=0)


def test_samples_between_and_beyond_cells():
    """Of a map that is zero outside, as `grid_sample` has it."""
    features = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    row, col = torch.meshgrid(torch.linspace(-3, 8, 45), torch.linspace(-3, 10, 53), indexing="ij")
    where = torch.stack([(col + 0.5) * 2 / 7 - 1, (row + 0.5) * 2 / 5 - 1], dim=-1)[None]
    wanted = torch.nn.functional.grid_sample(features, where, align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(sample(features, *bilinear(row, col, (5, 7))), wanted, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("packs", [False, True])
def test_fused_convolutions(monkeypatch, packs):
    """Batch norm, ReLU and the residual's sum in one pass give what the modules give one after the other."""
    if packs and not fused.PACKS:
        pytest.skip("no oneDNN")
    monkeypatch.setattr(fused, "PACKS", packs)
    torch.manual_seed(0)
    steps = nn.Sequential(conv_bn(5, 8, stride=2), Residual(8), nn.Conv2d(8, 3, 1)).eval()
    for norm in (module for module in steps.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2.0)
    images = [torch.rand(1, 5, *size).contiguous(memory_format=torch.channels_last) for size in ((16, 24), (16, 24))]
    wanted = [steps(image) for image in images]
    fast = fused.fuse(steps)
    assert not any(isinstance(module, (nn.BatchNorm2d, nn.ReLU)) for module in fast.modules())
    for image, result in zip(images, wanted, strict=True):
        torch.testing.assert_close(fast(image), result, atol=1e-5, rtol=1e-5)


def test_sliding_by_a_matrix_product():
    torch.manual_seed(0)
    maps, kernel = torch.randn(3, 9, 7, 5), torch.randn(6, 5, 5)
    wanted = torch.nn.functional.conv2d(maps.permute(0, 3, 1, 2), kernel.permute(2, 0, 1)[None])[:, 0]
    torch.testing.assert_close(correlate(maps, kernel), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(correlate(maps[:, :6, :5], kernel), wanted[:, :1, :1], atol=1e-4, rtol=0)


def test_standardizing_in_two_passes():
    image = torch.rand(1, 3, 32, 48) * torch.tensor([1.0, 0.3, 0.0])[:, None, None] + 0.2
    torch.testing.assert_close(fast_standardize(image), standardize(image), atol=1e-3, rtol=1e-4)


def test_half_precision_stays_within_5_cm(network, pairs):
    """As the fast path runs where the processor has it."""
    found = []
    for precision in (torch.float32, torch.bfloat16):
        matcher = VoteFlowMatcher(network, fast=True)
        matcher.network = FastVoteFlow(network, precision=precision)
        localizer = Localizer(matcher, UNCALIBRATED, None)
        found.append([result.localization for result in localize_pairs(localizer, pairs, draw=draw_tracked_prior)])
    apart = np.array([a.T_map_base.vector() - b.T_map_base.vector() for a, b in zip(*found, strict=True)])
    assert np.abs(apart[:, :2]).max() < 0.05
    assert np.degrees(np.abs(apart[:, 2]).max()) < 0.1


def test_dense_flow_in_half_precision_stays_within_5_cm(pairs, monkeypatch):
    """With the vote's fast form, and a decoder in half precision: beside the network as it was trained."""
    monkeypatch.setattr(dense_flow_matcher, "fast_precision", lambda device: torch.bfloat16)
    found = []
    for fast in (False, True):
        matcher = DenseFlowMatcher(load_network(SHIPPED / "dense_flow.safetensors"), fast=fast)
        localizer = Localizer(matcher, UNCALIBRATED, None)
        found.append([result.localization for result in localize_pairs(localizer, pairs, draw=draw_tracked_prior)])
    apart = np.array([a.T_map_base.vector() - b.T_map_base.vector() for a, b in zip(*found, strict=True)])
    assert np.abs(apart[:, :2]).max() < 0.05
    assert np.degrees(np.abs(apart[:, 2]).max()) < 0.1
