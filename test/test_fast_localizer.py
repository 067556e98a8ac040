"""The fast path as it drives: patches that are kept and described beside the image, threads, devices that fail."""

from threading import Barrier, current_thread

import cv2
import numpy as np
import pytest
import torch

from cvloc_ros.datasets.town import crop_patch, town_pairs
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera
from cvloc_ros.imagery import ImageryError, Patch
from cvloc_ros.localization import ready
from cvloc_ros.localization.localizer import Localizer, load_localizer
from cvloc_ros.localization.ready import load_ready_localizer
from cvloc_ros.localization.types import Frame, Prior
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher
from cvloc_ros.models.weights import WeightsError
from cvloc_ros.ros import resources

SURE = np.diag([0.5, 0.5, np.radians(1.0)]) ** 2


@pytest.fixture(scope="module")
def pairs():
    return list(town_pairs(TEST_TOWNS, 3, style="train"))


def town_frame(pair):
    camera = PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K)
    return Frame(0, pair.ground, camera, pair.T_base_camera)


class PairMap:
    """Patches of one pair's satellite image, the map being the frame of the true vehicle; counts them."""

    problem = ""

    def __init__(self, pair, grid):
        source = GroundGrid.centred(pair.satellite.shape[0], grid.cell)
        self.cut, self.patches = lambda pose: crop_patch(pair.satellite, source, pose, grid), []
        self.covered = True

    def patch(self, T_map_patch, grid):
        coverage = np.ones((grid.rows, grid.cols), bool)
        coverage[:20] = self.covered
        self.patches.append(Patch(self.cut(T_map_patch), coverage, grid, T_map_patch))
        return self.patches[-1]


def count_calls(monkeypatch, thing, name):
    """Return a list that grows with every call of a method."""
    calls, method = [], getattr(thing, name)
    monkeypatch.setattr(thing, name, lambda *given: calls.append(given) or method(*given))
    return calls


def test_cached_equals_uncached(pairs, monkeypatch):
    """A frame that is searched on a kept patch gets the pose that it gets on the same patch described anew."""
    localizer = load_localizer(None, device="cpu")
    described = count_calls(monkeypatch, localizer.matcher.network, "encode_satellite")
    localizer.satellite_map = PairMap(pairs[0], localizer.matcher.patch_grid)
    frame = town_frame(pairs[0])
    localizer.localize(frame, Prior(SE2(-6.0, 1.0, 0.05), SURE))
    prior = Prior(SE2(0.8, -0.6, -0.02), SURE)
    kept = localizer.localize(frame, prior)
    assert len(localizer.satellite_map.patches) == 1
    anew = load_localizer(None, device="cpu").match(frame, prior, localizer.satellite_map.patches[0])
    np.testing.assert_array_equal(kept.T_map_base.vector(), anew.T_map_base.vector())
    np.testing.assert_array_equal(kept.covariance, anew.covariance)
    assert len(described) == 1


@pytest.mark.parametrize("method", ["vote_flow", "dense_flow"])
def test_a_patch_is_described_beside_the_image(pairs, monkeypatch, method):
    """On a CPU fast describes both at once: each waits here for the other to have begun."""
    localizer = load_localizer(None, method=method, device="cpu")
    localizer.satellite_map = PairMap(pairs[0], localizer.matcher.patch_grid)
    network, both, threads = localizer.matcher.network, Barrier(2, timeout=20), {}
    for name in ("encode_satellite", "describe"):
        called = getattr(network, name)

        def met(*given, called=called, name=name):
            threads[name] = current_thread()
            both.wait()
            return called(*given)

        monkeypatch.setattr(network, name, met)
    localizer.localize(town_frame(pairs[0]), Prior(SE2(-6.0, 1.0, 0.05), SURE))
    assert threads["describe"] is current_thread() is not threads["encode_satellite"]


def test_what_fails_beside_the_image_is_told_once(pairs, monkeypatch):
    """The next frame on that patch tries again."""
    localizer = load_localizer(None, device="cpu")
    localizer.satellite_map = PairMap(pairs[0], localizer.matcher.patch_grid)
    network, errors = localizer.matcher.network, [RuntimeError("no memory")]
    encode = network.encode_satellite

    def fail_once(*given):
        if errors:
            raise errors.pop()
        return encode(*given)

    monkeypatch.setattr(network, "encode_satellite", fail_once)
    frame, prior = town_frame(pairs[0]), Prior(SE2(-6.0, 1.0, 0.05), SURE)
    with pytest.raises(RuntimeError, match="no memory"):
        localizer.localize(frame, prior)
    localizer.localize(frame, prior)
    assert len(localizer.satellite_map.patches) == 1


def test_a_kept_patch_gives_the_pose_that_a_patch_of_its_own_gives(pairs):
    """The patch's frame is not the prior's: pose, matches and posterior say the same in the map all the same."""
    for pair in pairs:
        fast, plain = load_localizer(None, device="cpu"), load_localizer(None, device="cpu", fast=False)
        frame, prior = town_frame(pair), Prior(SE2(1.2, -0.7, np.radians(1.5)), SURE)
        for localizer in (fast, plain):
            localizer.satellite_map = PairMap(pair, localizer.matcher.patch_grid)
            localizer.localize(frame, Prior(SE2(-7.0, 2.0, np.radians(-3.0)), SURE))
        kept, own = fast.localize(frame, prior), plain.localize(frame, prior)
        assert (len(fast.satellite_map.patches), len(plain.satellite_map.patches)) == (1, 2)
        apart = np.abs(kept.T_map_base.vector() - own.T_map_base.vector())
        assert apart[:2].max() < 0.5 and np.degrees(apart[2]) < 1.0
        at = kept.prior.T_map_base.apply(kept.matches.patch)
        heavy = kept.matches.weights > 0.3 * kept.matches.weights.max()
        placed = kept.T_map_base.apply(kept.matches.base)
        assert np.median(np.hypot(*(at - placed)[heavy].T)) < 0.5
        p = kept.posterior
        k, i, j = np.unravel_index(p.probability.argmax(), p.probability.shape)
        peak = kept.prior.T_map_base @ p.T_patch_prior.inverse() @ SE2(p.x[i], p.y[j], p.yaw[k])
        assert np.hypot(peak.x - kept.T_map_base.x, peak.y - kept.T_map_base.y) < 2.5


def test_when_a_patch_is_cut_anew(pairs):
    """When the box leaves what the vote covers, and every time while imagery is missing."""
    localizer = load_localizer(None, device="cpu")
    localizer.satellite_map = cut = PairMap(pairs[0], localizer.matcher.patch_grid)
    frame = town_frame(pairs[0])

    def patches_after(x, yaw=0.0, covariance=SURE):
        localizer.localize(frame, Prior(SE2(x, 0.0, np.radians(yaw)), covariance))
        return len(cut.patches)

    assert [patches_after(x) for x in (-8.0, -3.0, 2.0, 7.5)] == [1, 1, 1, 1]
    assert patches_after(8.5) == 2  # the box of 4 m would end 20.5 m from the first patch's middle
    assert patches_after(8.5, yaw=5.5) == 2
    assert patches_after(8.5, yaw=7.0) == 3  # to 11 degrees
    assert patches_after(8.5, covariance=100 * SURE) == 4
    cut.covered = False
    assert [patches_after(-20.0) for _ in range(3)] == [5, 6, 7]


def test_a_patch_is_ready_before_the_image(pairs, monkeypatch):
    """Where a prior is expected, a patch is cut and described; it serves the prior that comes, the largest box too."""
    localizer = load_localizer(None, device="cpu")
    localizer.satellite_map = cut = PairMap(pairs[0], localizer.matcher.patch_grid)
    described = count_calls(monkeypatch, localizer.matcher.network, "encode_satellite")
    whole, off = 200 * SURE, SE2(0.1, -0.15, np.radians(0.3))
    localizer.expect(Prior(SE2(1.2, -0.7, 0.02), whole)).result()
    assert len(cut.patches) == len(described) == 1
    found = localizer.localize(town_frame(pairs[0]), Prior(SE2(1.2, -0.7, 0.02) @ off, whole))
    assert len(cut.patches) == len(described) == 1
    assert found.search_box[0] == localizer.matcher.search_box[0]
    assert np.abs(found.T_map_base.vector()[:2]).max() < 1.0
    localizer.localize(town_frame(pairs[0]), Prior(SE2(1.2, -0.7, 0.02) @ off @ off, whole))
    assert len(cut.patches) == len(described) == 2


def test_what_cannot_be_made_ready_is_told_with_the_frame(pairs, monkeypatch):
    """And a localizer that keeps no patches has nothing to get ready."""
    localizer, prior = load_localizer(None, device="cpu"), Prior(SE2(1.2, -0.7, 0.02), SURE)
    assert localizer.expect(prior) is None, "there is no map yet"
    localizer.satellite_map = cut = PairMap(pairs[0], localizer.matcher.patch_grid)

    def unreadable(*given):
        raise ImageryError("no such file")

    with monkeypatch.context() as broken:
        broken.setattr(cut, "patch", unreadable)
        assert localizer.expect(prior) is None
        with pytest.raises(ImageryError, match="no such file"):
            localizer.localize(town_frame(pairs[0]), prior)
    cut.covered = False
    assert localizer.expect(prior) is None, "what is missing may be there when the image comes"
    plain = load_localizer(None, device="cpu", fast=False)
    plain.satellite_map = PairMap(pairs[0], plain.matcher.patch_grid)
    assert plain.expect(prior) is None and not plain.satellite_map.patches


def test_what_an_image_takes_of_the_machine(monkeypatch):
    """As many threads as it may, and memory that is not given back."""
    kept: list = []
    monkeypatch.setattr(resources, "keep_freed_memory", kept.append)
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        for count in (1, 2):
            resources.set_up_process(count)
            assert (torch.get_num_threads(), cv2.getNumThreads()) == (count, count)
        assert kept == [128, 128]
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


class TestFallback:
    def test_a_gpu_that_is_not_there(self, monkeypatch, tmp_path):
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        monkeypatch.setattr(ready, "_DRIVER", tmp_path / "no driver")
        lines = []
        localizer = load_ready_localizer(None, device="cuda", report=lines.append)
        assert localizer.matcher.device.type == "cpu"
        assert len(lines) == 1 and "\n" not in lines[0]
        assert lines[0].startswith("the network runs on the CPU: ") and "no GPU" in lines[0]

    def test_what_is_no_device_is_refused(self):
        with pytest.raises(WeightsError, match="expected device auto, cpu, cuda or .*, got 'gpu'"):
            load_ready_localizer(None, device="gpu", report=pytest.fail)

    def test_a_gpu_that_runs_out_of_memory(self, monkeypatch):
        real = ready.load_localizer

        def load(satellite_map, *, device, **options):
            if device == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore lines")
            return real(satellite_map, device=device, **options)

        monkeypatch.setattr(ready, "load_localizer", load)
        lines = []
        assert load_ready_localizer(None, device="cuda", report=lines.append).matcher.device.type == "cpu"
        assert lines == ["the network runs on the CPU: CUDA out of memory. Tried to allocate 20.00 MiB."]

    def test_a_gpu_that_runs_out_of_memory_at_the_first_image(self, monkeypatch):
        real, match = ready.load_localizer, Localizer.match

        def load(satellite_map, *, device, **options):
            localizer = real(satellite_map, device="cpu", **options)
            localizer.wanted = device
            return localizer

        def run(localizer, *given):
            if localizer.wanted == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return match(localizer, *given)

        monkeypatch.setattr(ready, "load_localizer", load)
        monkeypatch.setattr(Localizer, "match", run)
        lines = []
        assert load_ready_localizer(None, device="cuda", report=lines.append).wanted == "cpu"
        assert lines == ["the network runs on the CPU: CUDA out of memory."]

    def test_a_gpu_that_fails_during_the_drive(self, monkeypatch, pairs):
        """The image at which it fails is localized too, and all that come later."""
        real, lines, failing = ready.load_localizer, [], []

        def failing_load(*given):
            raise RuntimeError("no memory either")

        monkeypatch.setattr(ready, "load_localizer", lambda *given, device, **o: real(*given, device="cpu", **o))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        localizer = load_ready_localizer(None, device="cuda", report=lines.append)
        monkeypatch.undo()
        first = localizer.matcher
        localizer.satellite_map = PairMap(pairs[0], first.patch_grid)
        frame, prior = town_frame(pairs[0]), Prior(SE2(0.8, -0.6, -0.02), SURE)
        before = localizer.localize(frame, prior)
        monkeypatch.setattr(first, "match_batch", lambda inputs: failing.append(1) or torch.zeros(1) @ torch.zeros(2))
        with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="no memory either"):
            broken.setattr(ready, "_load", failing_load)
            localizer.localize(frame, prior)
        assert lines == [], "the CPU could not take over"
        for _ in range(2):
            after = localizer.localize(frame, prior)
            np.testing.assert_array_equal(after.T_map_base.vector(), before.T_map_base.vector())
        assert len(failing) == 2 and localizer.matcher is not first
        assert len(lines) == 1 and lines[0].startswith("the network runs on the CPU: inconsistent tensor size")
        monkeypatch.setattr(localizer.matcher, "match_batch", first.match_batch)
        with pytest.raises(RuntimeError, match="inconsistent tensor size"):  # the CPU has no spare
            localizer.localize(frame, prior)

    @pytest.mark.parametrize("device", ["auto", "cuda"])
    def test_a_driver_too_old(self, monkeypatch, tmp_path, device):
        driver = tmp_path / "version"
        driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  450.80\nGCC version: 9\n")
        monkeypatch.setattr(ready, "_DRIVER", driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        lines = []
        load_ready_localizer(None, device=device, report=lines.append)
        assert len(lines) == 1 and "450.80" in lines[0] and "CUDA 13.0" in lines[0]

    def test_nothing_is_said_where_nothing_is_wrong(self, monkeypatch):
        """And the network has run by then, over the least box and over the largest."""
        lines, boxes, match = [], [], VoteFlowMatcher.match_batch
        monkeypatch.setattr(
            VoteFlowMatcher, "match_batch", lambda self, inputs: boxes.append(inputs[0].box) or match(self, inputs)
        )
        localizer = load_ready_localizer(None, device="cpu", report=lines.append)
        assert not lines
        assert max(boxes)[0] == localizer.matcher.search_box[0] and min(boxes)[0] < 5.0
