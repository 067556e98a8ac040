"""From what a matcher is given, in numpy, to what its network takes: a batch on its device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvloc_ros.geometry import Camera
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.contrast import even_contrast_on_device
from cvloc_ros.models.cuda_graph import Recorder
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.preprocess import even_contrast, fit_image
from cvloc_ros.models.vote_flow_config import VoteFlowConfig


class Look(NamedTuple):
    """What a network takes of a batch of cameras: see `VoteFlow.forward`. Of one camera, all but the image are kept.

    Attributes:
        image: (B, 3, H, W).
        pixels: (B, Z, rows, cols, 2).
        visible: (B, Z, rows, cols).
        camera: (B, 3).

    """

    image: Tensor
    pixels: Tensor
    visible: Tensor
    camera: Tensor


class View:
    """What a network sees of cameras; the BEV is projected once for as long as the camera stays the same.

    Attributes:
        seconds: that the last `look` took.

    """

    def __init__(self, config: DenseFlowConfig | VoteFlowConfig, device: torch.device, *, record: bool = False):
        self._config, self._device = config, device
        self._to_device = ToDevice(config.local_contrast, device, record=record)
        self._ground: tuple[Camera, np.ndarray, tuple[Tensor, Tensor, Tensor]] | None = None
        self.seconds = 0.0

    def look(self, inputs: Sequence[MatchInput]) -> Look:
        """Return what the network takes of a batch; of one camera, which stays the same, the same objects."""
        began = time.perf_counter()
        fitted = [self._fit(each) for each in inputs]
        ground = [self._project(each, camera) for each, (_, camera) in zip(inputs, fitted, strict=True)]
        images = self._to_device([image for image, _ in fitted])
        look = Look(images, *(_joined(list(parts)) for parts in zip(*ground, strict=True)))
        self.seconds = time.perf_counter() - began
        return look

    def _fit(self, given: MatchInput) -> tuple[np.ndarray, Camera]:
        c = self._config
        size = {"width": c.image_width, "height": c.image_height}
        return fit_image(given.image, given.camera, given.T_base_camera, **size, stretch=c.image_fit == "stretch")

    def _project(self, given: MatchInput, fitted: Camera) -> tuple[Tensor, Tensor, Tensor]:
        """Project the BEV once for as long as the camera stays the same object, mounted the same."""
        kept = self._ground
        if kept is None or kept[0] is not given.camera or not np.array_equal(kept[1], given.T_base_camera):
            arrays = ground_pixels(fitted, given.T_base_camera, self._config.bev_samples, self._config.heights)
            place = given.T_base_camera[:3, 3].astype(np.float32)
            pixels, visible, camera = (torch.from_numpy(array)[None].to(self._device) for array in (*arrays, place))
            self._ground = kept = given.camera, given.T_base_camera.copy(), (pixels, visible, camera)
        return kept[2]


class PatchView:
    """What a network knows of patches; they are described once for as long as they stay the same objects.

    Attributes:
        seconds: that the last `look` took, and then `arrived`.

    """

    def __init__(
        self,
        config: DenseFlowConfig | VoteFlowConfig,
        encode: Callable[[Tensor, Tensor], Any],
        device: torch.device,
        *,
        beside: bool = False,
        record: bool = False,
    ):
        """Describe patches by the ``encode_satellite`` of a network of this config.

        Args:
            config: of the network.
            encode: its function.
            device: where it runs.
            beside: describe a patch in a thread of its own, while the caller goes on with the image.
            record: record what a GPU does before that, see `Recorder`.

        """
        self._encode, self._device = encode, device
        self._to_device = ToDevice(config.local_contrast, device, record=record)
        self._thread = ThreadPoolExecutor(1, "patch") if beside else None
        self._kept: tuple[list[np.ndarray], Any] | None = None
        self.seconds = 0.0

    def look(self, patches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
        """Begin to describe a batch of patches, unless they are the last ones; `arrived` wants what comes back.

        Args:
            patches: (S, S, 3) RGB uint8 and coverage (S, S) bool of each.

        """
        began = time.perf_counter()
        given = [array for patch in patches for array in patch]
        if self._kept is None or [*map(id, self._kept[0])] != [*map(id, given)]:
            described = self._thread.submit(self._describe, patches) if self._thread else self._describe(patches)
            self._kept = given, described
        self.seconds = time.perf_counter() - began
        return self._kept[1]

    def expect(self, patch: np.ndarray, coverage: np.ndarray) -> Future | None:
        """Begin to describe a patch at which `look` will look; see `Matcher.expect`."""
        described = self.look([(patch, coverage)])
        return described if isinstance(described, Future) else None

    def arrived(self, described: Any) -> Any:
        """Return what the network made of the patches at which `look` has looked, as soon as it is there."""
        if not isinstance(described, Future):
            return described
        began = time.perf_counter()
        try:
            return described.result()
        except BaseException:
            self._kept = None  # the next frame may have more luck
            raise
        finally:
            self.seconds += time.perf_counter() - began

    @torch.inference_mode()  # which a thread does not have from the one that started it
    def _describe(self, patches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
        covered = coverage_tensor([coverage for _, coverage in patches], self._device)
        return self._encode(self._to_device([image for image, _ in patches]), covered)


class ToDevice:
    """Brings images to a device, their contrast evened out."""

    def __init__(self, limit: float, device: torch.device, *, record: bool = False):
        """Even out up to a limit, see `even_contrast`; ``record`` what a GPU does for it."""
        self._limit, self._device = limit, device
        self._finish = Recorder(lambda images: _planes(even_contrast_on_device(images, limit)), record=record)

    def __call__(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return images of one size, RGB uint8 (H, W, 3), as (B, 3, H, W) in [0, 1], channels last.

        What is recorded is overwritten by the next call.
        """
        if self._device.type == "cuda":
            pinned = torch.from_numpy(np.stack(images)).pin_memory()  # else the copy waits for the device
            return self._finish(pinned.to(self._device, non_blocking=True))
        evened = np.stack([even_contrast(image, self._limit) for image in images])
        return _planes(torch.from_numpy(evened).to(self._device).float())


def _planes(images: Tensor) -> Tensor:
    """Make (B, H, W, 3) float32 of 0 to 255, in place, (B, 3, H, W) in [0, 1], channels last."""
    return images.permute(0, 3, 1, 2).div_(255).contiguous(memory_format=torch.channels_last)


def coverage_tensor(coverages: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Return coverages, bool (S, S), as (B, 1, S, S) in [0, 1]."""
    return torch.from_numpy(np.stack(coverages).astype(np.float32))[:, None].to(device)


def _joined(tensors: list[Tensor]) -> Tensor:
    """Join (1, ...) to (B, ...); one alone stays the same object, by which the fast network knows it again."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
