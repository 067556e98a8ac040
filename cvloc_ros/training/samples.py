"""From rendered pairs to training samples: where the prior is wrong, what the camera did to the colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cvloc_ros.datasets.town import Town, TownPair, crop_patch, render_pair
from cvloc_ros.datasets.town.seeds import VALIDATION_TOWNS
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.vote_flow_config import VoteFlowConfig

BENT = 0.3  # of the recoloured images: share with a bent tone curve


@dataclass(frozen=True)
class AugmentConfig:
    """How towns are coloured for training, and how a rendered pair becomes a sample; probabilities, but the first.

    Attributes:
        natural_towns: the stream's first towns keep to the seasons' colours: matching is learned sooner in them.
        scatter: of colours and covers far from any season, in the later towns: see `Appearance.draw`.
        mirrored: swap left and right.
        blank_ground: no camera image.
        partial_coverage: imagery missing beyond an edge.
        recoloured: of each image: gamma, gain and offset by channel, grey, swapped channels.

    """

    natural_towns: int = 30
    scatter: float = 0.5
    mirrored: float = 0.5
    blank_ground: float = 0.03
    partial_coverage: float = 0.1
    recoloured: float = 0.7


def draw_prior_error(rng: np.random.Generator, config: VoteFlowConfig) -> SE2:
    """Draw the vehicle's pose in the patch: uniform in the search box (±20 m ±10° by default)."""
    half, yaw = config.box_metres, np.radians(config.box_degrees)
    x, y = rng.uniform(-half, half, 2)
    return SE2(x, y, rng.uniform(-yaw, yaw))


def make_sample(
    pair: TownPair, rng: np.random.Generator, config: VoteFlowConfig, augment: AugmentConfig | None
) -> dict[str, np.ndarray]:
    """Turn a pair into the network's inputs and the truth.

    Args:
        pair: ground and satellite image with the true pose at the satellite's centre.
        rng: draws the prior's error and the augmentation.
        config: sizes.
        augment: None leaves the images as rendered.

    Returns:
        ``image`` (3, H, W) and ``patch`` (3, S, S) uint8, ``coverage`` (1, S, S) uint8 of 0 or 1, ``pixels`` and
        ``visible`` as `ground_pixels` gives them, ``camera`` (3,) its place in the vehicle, ``tilt`` (2,) and
        ``truth`` (3,) float32, the ground's slope and the pose of the vehicle in the patch, and the ground's
        classes, paint and crowns, uint8, half as fine as the patch (3, S/2, S/2) in ``patch_classes`` and
        on ``config.bev_samples`` in ``bev_classes``.

    """
    ground, satellite, K, T_base_camera = pair.ground, pair.satellite, pair.K, pair.T_base_camera
    classes, tilt = pair.classes, pair.tilt
    if augment and rng.random() < augment.mirrored:
        ground, satellite, K, T_base_camera = _mirror(ground, satellite, K, T_base_camera)
        classes, tilt = np.ascontiguousarray(classes[:, ::-1]), tilt * [1, -1]
    T_patch_vehicle = draw_prior_error(rng, config)
    source = GroundGrid.centred(satellite.shape[0], config.patch_cell)
    patch = crop_patch(satellite, source, T_patch_vehicle.inverse(), config.patch)
    class_source = GroundGrid.centred(classes.shape[0], 2 * config.patch_cell)
    patch_classes, bev_classes = (
        crop_patch(classes, class_source, T, grid, interpolation=cv2.INTER_NEAREST).transpose(2, 0, 1)
        for T, grid in ((T_patch_vehicle.inverse(), config.patch.coarser(2)), (SE2(), config.bev_samples))
    )
    coverage = np.ones(patch.shape[:2], np.uint8)
    if augment:
        if rng.random() < augment.recoloured:
            ground = _recolour(ground, rng)
        if rng.random() < augment.recoloured:
            patch = _recolour(patch, rng)
        if rng.random() < augment.partial_coverage:
            coverage = _cut_coverage(coverage, rng)
            patch = patch * coverage[..., None]  # after the colours: missing imagery is black on the vehicle too
        if rng.random() < augment.blank_ground:
            ground = np.zeros_like(ground)
    camera = PinholeCamera(ground.shape[1], ground.shape[0], K)
    pixels, visible = ground_pixels(camera, T_base_camera, config.bev_samples, config.heights)
    return {
        "image": np.ascontiguousarray(ground.transpose(2, 0, 1)),
        "patch": np.ascontiguousarray(patch.transpose(2, 0, 1)),
        "coverage": coverage[None],
        "pixels": pixels,
        "visible": visible,
        "camera": T_base_camera[:3, 3].astype(np.float32),
        "tilt": tilt.astype(np.float32),
        "truth": T_patch_vehicle.vector().astype(np.float32),
        "patch_classes": np.ascontiguousarray(patch_classes),
        "bev_classes": np.ascontiguousarray(bev_classes),
    }


class TownSamples(IterableDataset):
    """An endless, seeded stream of samples. Each worker renders its own towns.

    A rendered pair is used ``reuse`` times with fresh priors and colours, spread over a pool so that a batch mixes
    many towns.
    """

    def __init__(
        self, first_town: int, config: VoteFlowConfig, *, pairs_per_town: int = 32, reuse: int = 4, pool: int = 384
    ):
        self.first_town, self.config, self.augment = first_town, config, AugmentConfig()
        self.pairs_per_town, self.reuse, self.pool = pairs_per_town, reuse, pool

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield samples for ever."""
        cv2.setNumThreads(1)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        rng = np.random.default_rng([self.first_town, worker])
        pairs = self._pairs(worker, workers)
        pool: list[TownPair] = []
        while True:
            if len(pool) < self.pool:
                # while the pool fills every pair is new; used pairs stay for their further uses
                pool.append(next(pairs))
                yield make_sample(pool[-1], rng, self.config, self.augment)
                continue
            for use in range(self.reuse):
                slot = int(rng.integers(self.pool))
                if use == 0:
                    pool[slot] = next(pairs)
                yield make_sample(pool[slot], rng, self.config, self.augment)

    def _pairs(self, worker: int, workers: int) -> Iterator[TownPair]:
        """Render the pairs of every ``workers``-th town, from this worker's first on."""
        town_seed = self.first_town + worker
        while True:
            town = Town.generate(town_seed % VALIDATION_TOWNS)
            scatter = self.augment.scatter if town_seed >= self.augment.natural_towns else 0.0
            for i in range(self.pairs_per_town):
                yield render_pair(town, i, scatter=scatter)
            town_seed += workers


INPUTS = ("image", "pixels", "visible", "camera", "patch", "coverage")


def to_inputs(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the arguments of `VoteFlow.forward` from a batch of samples."""
    inputs = {k: batch[k].to(device, non_blocking=True) for k in INPUTS}
    for name in ("image", "patch"):
        inputs[name] = inputs[name].float().div_(255).contiguous(memory_format=torch.channels_last)
    inputs["coverage"] = inputs["coverage"].float()
    return inputs


def _mirror(ground, satellite, K, T_base_camera):
    """Swap left and right of the whole world: a second town for the price of a flip."""
    K = K.copy()
    K[0, 2] = ground.shape[1] - 1 - K[0, 2]
    base, optical = np.diag([1.0, -1.0, 1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0])
    return ground[:, ::-1], np.ascontiguousarray(satellite[:, ::-1]), K, base @ T_base_camera @ optical


def _cut_coverage(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Remove the imagery beyond a random straight edge."""
    size = coverage.shape[0]
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.5) * size
    row, col = np.mgrid[:size, :size] - size / 2
    return ((col * np.cos(angle) + row * np.sin(angle)) < offset).astype(np.uint8)


def _recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change each channel's gamma, gain and offset; sometimes bend the tones, mix down to grey or swap two channels.

    A bent tone curve need not rise: what was lighter than its surroundings may become darker, as snow turns lawns.
    """
    levels = np.linspace(0, 1, 256)
    if rng.random() < BENT:
        knots = np.linspace(0, 1, 5)
        levels = np.interp(levels, knots, np.clip(knots + rng.normal(0, 0.35, 5), 0, 1))
    gamma = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.08, 3))
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.08, 3))
    offset = rng.normal(0, 0.06) + rng.normal(0, 0.02, 3)
    tables = np.stack([np.clip(levels ** gamma[c] * gain[c] + offset[c], 0, 1) * 255 for c in range(3)], -1)
    image = cv2.LUT(np.ascontiguousarray(image), tables.astype(np.uint8)[None])
    if rng.random() < 0.15:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.merge([grey] * 3) if rng.random() < 0.5 else image[..., ::-1]
    return np.ascontiguousarray(image)
