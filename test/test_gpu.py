"""On a GPU: what is recorded once and replayed gives what the plain network gives. Its parts are tested anywhere."""

from __future__ import annotations

import gc
import warnings
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from cvloc_ros.datasets.town import crop_patch, town_pairs
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.ready import load_ready_localizer
from cvloc_ros.localization.types import Frame, Prior
from cvloc_ros.models import cuda_graph
from cvloc_ros.models.cuda_graph import Recorder, compiled
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import FULL
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.fast_vote_flow import FastVoteFlow
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.network_inputs import ToDevice
from cvloc_ros.models.vote import Correlate, slide_by_fourier
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_matcher import Packed, VoteFlowMatcher
from cvloc_ros.models.vote_flow_types import BoxMask
from cvloc_ros.models.weights import SHIPPED, load_network

# what `compiled` and `Recorder` warn of is that they have given up
gpu = [
    pytest.mark.filterwarnings("error:torch.compile failed|the GPU is given"),
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
WIDE, NARROW = (20.0, 20.0, np.radians(10.0)), (3.0, 3.0, np.radians(4.0))


@pytest.fixture(scope="module")
def network():
    return load_network(SHIPPED / "vote_flow.safetensors")


@pytest.fixture(scope="module")
def inputs():
    return make_inputs(VoteFlow().config.patch)


def make_inputs(grid):
    """Of each of two pairs: a narrow box and a wide one, on two patches, one of them off the truth."""
    made = []
    for pair in town_pairs(TEST_TOWNS, 2, style="train"):
        camera = PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K)
        source = GroundGrid.centred(pair.satellite.shape[0], grid.cell)
        for pose in (SE2(), SE2(3.0, -2.0, 0.05)):
            patch = crop_patch(pair.satellite, source, pose, grid)
            covered = np.ones(patch.shape[:2], bool)
            for box in (NARROW, WIDE, WIDE):
                centre = tuple(pose.inverse().vector()) if box is NARROW else (0.0, 0.0, 0.0)
                made.append(MatchInput(pair.ground, camera, pair.T_base_camera, patch, covered, box, centre))
    return made


@torch.inference_mode()
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (11.0, -6.0, 0.08)])
@pytest.mark.parametrize("box", [NARROW, WIDE])
def test_a_masked_vote_is_that_over_the_block(network, inputs, box, centre):
    matcher = VoteFlowMatcher(network, fast=True)
    fast, given = matcher.network, [replace(inputs[0], box=box, centre=centre)]
    assert isinstance(fast, FastVoteFlow)
    image, pixels, visible, _ = matcher._view.look(given)
    ground = fast.describe(image, pixels, visible)
    patch = matcher._patches.arrived(matcher._patches.look([(given[0].patch, given[0].coverage)]))
    block = fast.block(box, centre)
    searched = torch.zeros(len(fast.headings), len(fast.shifts), len(fast.shifts), dtype=torch.bool)
    searched[block] = True
    assert searched.all() == (box == WIDE and not any(centre))
    by_block, masked = (fast.vote(ground, patch, block=b) for b in (block, BoxMask(searched, fast._peak_count(block))))
    for name in ("coarse_logits", "peak_logits", "box_logits", "candidates", "voted"):
        torch.testing.assert_close(getattr(masked, name), getattr(by_block, name), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("size", "kernel"), [((13, 13), (6, 5)), ((10, 12), (10, 4))])
def test_sliding_by_fourier(size, kernel):
    """And its gradients, those of the convolution."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 4, *size, generator=generator, requires_grad=True)
    kernels = torch.rand(2, 5, 4, *kernel, generator=generator, requires_grad=True)
    results = [slide(maps, kernels) for slide in (Correlate.apply, slide_by_fourier)]
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-5)
    weights = torch.rand(results[0].shape, generator=generator)
    wanted, found = (torch.autograd.grad((r * weights).sum(), (maps, kernels)) for r in results)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_arrays_come_as_they_were():
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.tensor([True]), "c": torch.rand(1, 2, 2)}
    arrays = Packed.of(tensors).arrays()
    assert list(arrays) == list(tensors)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, tensors[name].numpy().astype(np.float32))


def test_without_a_gpu_a_function_is_only_called():
    calls = []
    recorder = Recorder(lambda a, b, c: calls.append((a, b, c)) or a + c, record=False)
    one = torch.ones(2)
    for k in range(3):
        assert torch.equal(recorder(one, k, fixed=(one,)), 2 * one)
    assert [b for _, b, _ in calls] == [0, 1, 2]


class TestCompiling:
    @pytest.fixture(autouse=True)
    def compiler(self, monkeypatch):
        monkeypatch.setattr(cuda_graph, "_can_compile", lambda: True)

    @pytest.mark.parametrize("at_once", [True, False], ids=["at once", "when called"])
    def test_what_cannot_be_compiled_runs_as_it_is(self, monkeypatch, at_once):
        def broken(*given):
            raise RuntimeError("no such target\nand so on")

        monkeypatch.setattr(torch, "compile", lambda function, **options: broken() if at_once else broken)
        double = compiled(lambda x: 2 * x)
        with pytest.warns(UserWarning, match="no such target$"):
            assert double(3) == 6
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert double(4) == 8
        with pytest.raises(TypeError):
            double(None)

    def test_parts_are_compiled_once_whatever_they_are_given(self, monkeypatch):
        """By a compiler that changes nothing; and copies of the network compute with their own weights."""
        made = []
        compile_ = torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda f, **o: compile_(f, backend=lambda graph, _: made.append(graph) or graph, **o)
        )
        torch.manual_seed(0)
        small = {"image_width": 128, "image_height": 64, "patch_size": 128, "bev_rows": 16, "bev_cols": 16, "levels": 2}
        config = replace(FULL, **small, hidden=8, trunk_widths=(8, 8, 8, 16), refine_blocks=1, iterations=3)
        network = DenseFlow(config).eval().requires_grad_(False)
        network.halve(torch.bfloat16)
        plain = deepcopy(network)
        network.join_kernels()
        shape = (1, 1, config.bev_samples.rows, config.bev_samples.cols)
        count = []
        for copied in (network, network, deepcopy(network)):
            if copied is not network:
                for part in (plain, copied):
                    for weights in part.parameters():
                        weights *= 1.1
            given = (
                torch.rand(1, 3, 64, 128),
                torch.rand(*shape, 2) * 2 - 1,
                torch.rand(shape) < 0.9,
                torch.tensor([[1.0, 0.0, 1.6]]),
                torch.rand(1, 3, 128, 128),
                torch.ones(1, 1, 128, 128),
            )
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("error")
                found, wanted = copied(*given), plain(*given)
            torch.testing.assert_close(found.moved[-1], wanted.moved[-1], atol=0.02, rtol=0.01)
            count.append(len(made))
        assert count[0] == 5 and count[1] == count[0]  # an iteration, what is read off, two RefineBlocks, the trunk

    def test_out_of_memory_is_no_compilers_fault(self, monkeypatch):
        def full(*given):
            raise torch.cuda.OutOfMemoryError("out of memory")

        monkeypatch.setattr(torch, "compile", lambda function, **options: full)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            compiled(abs)(3)

    def test_without_a_compiler_nothing_is_compiled(self, monkeypatch):
        monkeypatch.setattr(cuda_graph, "_can_compile", lambda: False)
        assert compiled(abs) is abs


class TestRecording:
    def test_what_cannot_be_recorded_is_called(self, monkeypatch):
        def refuse(*given, **options):
            raise RuntimeError("CUDA error: out of memory\nand so on")

        monkeypatch.setattr(cuda_graph, "_Recorded", refuse)
        recorder = Recorder(lambda x: 2 * x, record=True)
        with pytest.warns(UserWarning, match="out of memory$"):
            assert recorder(torch.ones(1)) == 2
        assert recorder(torch.ones(1)) == 2 and not recorder.record

    def test_each_kind_of_call_has_its_own(self, monkeypatch):
        made = []
        monkeypatch.setattr(cuda_graph, "_Recorded", lambda function, given, choose: made.append(given) or function)
        recorder = Recorder(lambda *given: given, record=True)
        one, two = torch.ones(1), torch.ones(2)
        calls = [(one, None), (None, one), (one, two), (one, 1), (one, 2), (one.int(), 2)]
        for call in calls * 2:
            assert recorder(*call) == call
        assert len(made) == len(calls)


def take_what_is_free() -> list[torch.Tensor]:
    """Take all memory that the allocator has, or can get, down to the smallest piece."""
    taken, size = [], 2**30
    while size >= 512:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            size //= 2
    return taken


class TestOnAGpu:
    pytestmark = gpu

    @torch.inference_mode()
    def test_replays_see_what_they_are_given(self):
        launched = []

        def function(given, power, fixed):
            launched.append(power)
            return {"sum": (given["x"] ** power + fixed).sum(), "x": given["x"]}

        recorder = Recorder(function, record=True)
        fixed = torch.ones(3, device="cuda")
        for k in range(6):
            x = torch.full((3,), float(k), device="cuda")
            for power in (1, 2):
                found = recorder({"x": x}, power, fixed=(fixed,))
                assert found["sum"].item() == 3 * k**power + 3
        assert len(launched) == 1 + 2 * 4  # called once as it is; then warmed up and recorded, of either kind
        found = recorder({"x": x}, 1, fixed=(fixed + 1,))
        assert found["sum"].item() == 3 * 5 + 6

    @torch.inference_mode()
    def test_images_come_as_on_the_cpu(self, inputs):
        there, here = (ToDevice(3.0, torch.device(name), record=name == "cuda") for name in ("cuda", "cpu"))
        for given in inputs[::3]:
            for images in ([given.image], [given.image[::-1], given.image]):
                apart = (there(images).cpu() - here(images)).abs() * 255
                assert apart.max() < 1.01 and (apart > 0.5).float().mean() < 1e-3

    @pytest.mark.parametrize("method", ["vote_flow", "dense_flow"])
    def test_poses_are_those_of_the_plain_network_on_the_cpu(self, method):
        make, path = (VoteFlowMatcher if method == "vote_flow" else DenseFlowMatcher), SHIPPED / f"{method}.safetensors"
        plain, fast = make(load_network(path)), make(load_network(path), device="cuda", fast=True)
        for given in make_inputs(plain.patch_grid) * 2:
            wanted, found = (matcher.match_batch([given])[0] for matcher in (plain, fast))
            assert np.hypot(*(found.pose - wanted.pose)[:2]) < 0.05
            assert abs(np.degrees(found.pose[2] - wanted.pose[2])) < 0.1
            assert found.solved == wanted.solved
            np.testing.assert_allclose(found.probability, wanted.probability, atol=0.02)
            np.testing.assert_allclose(found.local, wanted.local, atol=0.02)
        assert len(fast.locate._recorded) == 2  # of one peak and of several

    def test_a_patch_that_is_expected_is_the_one_that_is_matched(self, network, inputs):
        """Although what the last one was described as is overwritten by then."""
        matcher, first = VoteFlowMatcher(network, device="cuda", fast=True), inputs[0]
        second = replace(first, patch=inputs[1].patch, coverage=inputs[1].coverage)
        wanted = [matcher.match_batch([each])[0] for each in (first, second, first)][1]  # the last two are recorded
        assert matcher.expect(second.patch, second.coverage) is None
        found = matcher.match_batch([second])[0]
        np.testing.assert_allclose(found.pose, wanted.pose, atol=5e-3)

    def test_the_cpu_takes_over_from_a_gpu_without_memory(self, inputs):
        lines = []
        localizer = load_ready_localizer(None, device="cuda", report=lines.append)
        given = inputs[0]
        patch = Patch(given.patch, given.coverage, localizer.matcher.patch_grid, SE2())
        prior = Prior(SE2(), np.diag([1.0, 1.0, 0.02]) ** 2)
        frames = []
        for _ in range(2):  # each a new camera to the matcher, which needs memory for where it sees the ground
            camera = PinholeCamera(given.camera.width, given.camera.height, given.camera.K)
            frames.append(Frame(0, given.image, camera, given.T_base_camera))
        before = localizer.match(frames[0], prior, patch)
        assert localizer.matcher.device.type == "cuda" and not lines
        gc.collect()  # what becomes free must not become so in between
        torch.cuda.set_per_process_memory_fraction(1e-9)
        try:
            taken = take_what_is_free()
            after = localizer.match(frames[1], prior, patch)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert taken
        assert localizer.matcher.device.type == "cpu"
        assert len(lines) == 1 and "out of memory" in lines[0]
        apart = before.T_map_base.inverse() @ after.T_map_base
        assert np.hypot(apart.x, apart.y) < 0.05 and abs(np.degrees(apart.yaw)) < 0.1

    def test_the_papers_network_replayed(self, inputs):
        torch.manual_seed(0)
        network = DenseFlow(replace(FULL, refine_blocks=1, iterations=2))
        patch = crop_patch(
            np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8),
            GroundGrid.centred(700, FULL.patch_cell),
            SE2(),
            FULL.patch,
        )
        given = replace(inputs[0], patch=patch, coverage=np.ones(patch.shape[:2], bool))
        plain, fast = (DenseFlowMatcher(network, device="cuda", fast=fast) for fast in (False, True))
        for image in (given.image, given.image[:, ::-1].copy(), given.image):
            wanted, found = (m.match_batch([replace(given, image=image)])[0] for m in (plain, fast))
            assert np.hypot(*(found.pose - wanted.pose)[:2]) < 0.1
            assert found.base.shape == wanted.base.shape
            np.testing.assert_allclose(found.probability, wanted.probability, atol=0.02)
            np.testing.assert_allclose(found.local, wanted.local, atol=0.02)
        assert fast.locate._recorded
