"""From scenes to training samples: where the prior is wrong, what the camera did to the colours."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from cvloc_ros.datasets.item import Item
from cvloc_ros.datasets.town import crop_patch
from cvloc_ros.geometry import SE2, Camera, GroundGrid
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.preprocess import even_contrast, fit_image
from cvloc_ros.training.augment import AugmentConfig, cut_coverage, filter_randomly, mirror, recolour
from cvloc_ros.training.scenes import Scene, crop_classes, draw_prior_error


class Layout(Protocol):
    """What a network wants to see; its own config has all of it."""

    @property
    def image_width(self) -> int:
        """Pixels."""
        ...

    @property
    def image_height(self) -> int:
        """Pixels."""
        ...

    @property
    def image_fit(self) -> str:
        """How it gets that size: "crop" or "stretch", see `fit_image`."""
        ...

    @property
    def local_contrast(self) -> float:
        """Limit of `even_contrast`, of both images."""
        ...

    @property
    def patch(self) -> GroundGrid:
        """The satellite patch."""
        ...

    @property
    def bev_samples(self) -> GroundGrid:
        """Where image features are sampled."""
        ...

    @property
    def heights(self) -> tuple[float, ...]:
        """At which they are sampled, metres over the ground."""
        ...

    @property
    def box_metres(self) -> float:
        """Half-width of the search box, forward and left."""
        ...

    @property
    def box_degrees(self) -> float:
        """Half-width in heading."""
        ...


def search_box(layout: Layout) -> tuple[float, float]:
    """Return the half-widths of the search box: metres, radians."""
    return layout.box_metres, float(np.radians(layout.box_degrees))


def make_sample(
    scene: Scene, rng: np.random.Generator, layout: Layout, augment: AugmentConfig | None
) -> dict[str, np.ndarray]:
    """Turn a scene into a network's inputs and the truth, from a prior that is drawn.

    Args:
        scene: a frame and the map around.
        rng: draws the prior's error, the augmentation and the jitter.
        layout: sizes.
        augment: None leaves the images as they are.

    Returns:
        ``image`` (3, H, W) and ``patch`` (3, S, S) uint8, ``coverage`` (1, S, S) uint8 of 0 or 1, ``pixels`` and
        ``visible`` as `ground_pixels` gives them, ``camera`` (3,) its place in the vehicle, ``tilt`` (2,) and
        ``truth`` (3,) float32, the ground's slope and the pose of the vehicle in the patch; the ground's classes,
        paint and crowns, uint8, half as fine as the patch (3, S/2, S/2) in ``patch_classes`` and on
        ``layout.bev_samples`` in ``bev_classes``; whether tilt and classes are known (float32, 0 or 1; zeros stand
        for what is not) in ``tilt_known`` and ``classes_known``; and ``jitter`` (3, 3) float32, uniform in [-1, 1],
        with which losses put starts beside the truth: all that is random in a step comes with its samples.

    """
    T_patch_vehicle = draw_prior_error(rng, search_box(layout))
    T_grid_patch = scene.T_grid_vehicle @ T_patch_vehicle.inverse()
    patch = crop_patch(scene.satellite, scene.grid, T_grid_patch, layout.patch)
    coverage = crop_patch(scene.coverage, scene.grid, T_grid_patch, layout.patch, interpolation=cv2.INTER_NEAREST)
    image, camera = _fit(scene.image, scene.camera, scene.T_base_camera, layout)
    if augment:
        image, patch = (_disguise(picture, rng, augment) for picture in (image, patch))
        if rng.random() < augment.partial_coverage:
            coverage = cut_coverage(coverage, rng)
        if rng.random() < augment.blank_ground:
            image = np.zeros_like(image)
    patch = patch * coverage[..., None]  # after the colours, before the contrast: as on the vehicle
    sample = _assemble(image, camera, scene.T_base_camera, patch, coverage, T_patch_vehicle, layout)
    sample |= _side_truth(scene, T_patch_vehicle, layout)
    if augment and rng.random() < augment.mirrored:
        sample = mirror(sample)
    return sample | {"jitter": rng.uniform(-1, 1, (3, 3)).astype(np.float32)}


def _disguise(image: np.ndarray, rng: np.random.Generator, augment: AugmentConfig) -> np.ndarray:
    if rng.random() < augment.filtered:
        image = filter_randomly(image, rng)
    return recolour(image, rng) if rng.random() < augment.recoloured else image


def _fit(image: np.ndarray, camera: Camera, T_base_camera: np.ndarray, layout: Layout) -> tuple[np.ndarray, Camera]:
    """Return the image at the layout's size, as the method's matcher makes it, and its camera."""
    size = {"width": layout.image_width, "height": layout.image_height}
    return fit_image(image, camera, T_base_camera, **size, stretch=layout.image_fit == "stretch")


def item_sample(item: Item, layout: Layout) -> dict[str, np.ndarray]:
    """Return the network's inputs and the ``truth`` of an item, from its own prior, as `make_sample` does."""
    frame, patch = item.frame, item.patch
    image, camera = _fit(frame.image, frame.camera, frame.T_base_camera, layout)
    truth = patch.T_map_patch.inverse() @ item.truth
    coverage = patch.coverage.astype(np.uint8)
    return _assemble(image, camera, frame.T_base_camera, patch.image, coverage, truth, layout)


def _assemble(
    image: np.ndarray,
    camera: Camera,
    T_base_camera: np.ndarray,
    patch: np.ndarray,
    coverage: np.ndarray,
    T_patch_vehicle: SE2,
    layout: Layout,
) -> dict[str, np.ndarray]:
    image, patch = (even_contrast(picture, layout.local_contrast) for picture in (image, patch))
    pixels, visible = ground_pixels(camera, T_base_camera, layout.bev_samples, layout.heights)
    return {
        "image": np.ascontiguousarray(image.transpose(2, 0, 1)),
        "patch": np.ascontiguousarray(patch.transpose(2, 0, 1)),
        "coverage": np.ascontiguousarray(coverage[None]),
        "pixels": pixels,
        "visible": visible,
        "camera": T_base_camera[:3, 3].astype(np.float32),
        "truth": T_patch_vehicle.vector().astype(np.float32),
    }


def _side_truth(scene: Scene, T_patch_vehicle: SE2, layout: Layout) -> dict[str, np.ndarray]:
    """Return what only some data sets know, with zeros in its place where this one does not."""
    tilt = np.zeros(2) if scene.tilt is None else scene.tilt
    grids = (
        ("patch_classes", T_patch_vehicle.inverse(), layout.patch.coarser(2)),
        ("bev_classes", SE2(), layout.bev_samples),
    )
    side = {}
    for name, T, grid in grids:
        classes = (
            np.zeros((grid.rows, grid.cols, 3), np.uint8)
            if scene.classes is None
            else crop_classes(scene.classes, T, grid)
        )
        side[name] = np.ascontiguousarray(classes.transpose(2, 0, 1))
    return side | {
        "tilt": tilt.astype(np.float32),
        "tilt_known": np.float32(scene.tilt is not None),
        "classes_known": np.float32(scene.classes is not None),
    }


INPUTS = ("image", "pixels", "visible", "camera", "patch", "coverage")


def to_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the arguments of a network's forward pass from a batch of samples, on the batch's device."""
    inputs = {name: batch[name] for name in INPUTS}
    for name in ("image", "patch"):
        inputs[name] = inputs[name].float().div(255).contiguous(memory_format=torch.channels_last)
    inputs["coverage"] = inputs["coverage"].float()
    return inputs
