"""What training samples are made of, whatever data set it comes from: a frame, and the map far around its true pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from cvloc_ros.datasets.item import Dataset, Item, box_prior
from cvloc_ros.datasets.protocols import open_protocol, open_training
from cvloc_ros.datasets.town import TownPair, crop_patch, town_pairs
from cvloc_ros.datasets.town.pairs import CLASS_GRID, GRID
from cvloc_ros.datasets.town.seeds import VALIDATION_TOWNS
from cvloc_ros.geometry import SE2, Camera, GroundGrid, PinholeCamera
from cvloc_ros.localization.types import Frame
from cvloc_ros.training.config import SourceConfig

_AROUND = 240.0  # metres of a data set's map: patches can be cut at any prior, 28 m from a truth 28 m from its middle


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame and the map around it.

    Attributes:
        image: RGB uint8 (H, W, 3).
        camera: its intrinsics.
        T_base_camera: 4x4.
        satellite: RGB uint8 on ``grid``.
        coverage: uint8 of 0 or 1 on ``grid``.
        grid: of the satellite image.
        T_grid_vehicle: the true pose in it.
        tilt: (2,) slope of the ground in base_link, forward and left; None where nobody knows.
        classes: (200, 200, 3) uint8 on `CLASS_GRID` in the vehicle's frame: see `ground_classes`; None where nobody
            knows.

    """

    image: np.ndarray
    camera: Camera
    T_base_camera: np.ndarray
    satellite: np.ndarray
    coverage: np.ndarray
    grid: GroundGrid
    T_grid_vehicle: SE2
    tilt: np.ndarray | None = None
    classes: np.ndarray | None = None

    @classmethod
    def of_pair(cls, pair: TownPair) -> Scene:
        """Return the scene of a rendered pair."""
        camera = PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K)
        coverage = np.ones(pair.satellite.shape[:2], np.uint8)
        return cls(
            pair.ground, camera, pair.T_base_camera, pair.satellite, coverage, GRID, SE2(), pair.tilt, pair.classes
        )

    @classmethod
    def of_item(cls, item: Item) -> Scene:
        """Return the scene of a data set's item; its tilt and its classes are unknown."""
        frame, patch = item.frame, item.patch
        truth = patch.T_map_patch.inverse() @ item.truth
        coverage = patch.coverage.astype(np.uint8)
        return cls(frame.image, frame.camera, frame.T_base_camera, patch.image, coverage, patch.grid, truth)


def open_source(source: SourceConfig, *, cell: float) -> Dataset:
    """Open the training frames of a data set, with the map far around them, at ``cell`` metres a pixel.

    Raises:
        DatasetError: a file is missing or wrong.
        ValueError: there is no such protocol.

    """
    return open_training(source.name, source.root, grid=GroundGrid.centred(round(_AROUND / cell), cell))


def validation_items(source: SourceConfig, count: int, *, grid: GroundGrid, box: tuple[float, float]) -> list[Item]:
    """Return items that training never sees, the same ones every time: of a protocol, or of towns.

    Args:
        source: the validation set.
        count: how many, spread evenly over it.
        grid: of the patches.
        box: half-widths of the towns' priors' errors: metres forward and left, radians.

    Raises:
        DatasetError: a file is missing or wrong.
        ValueError: there is no such protocol.

    """
    if source.source == "town":
        rng = np.random.default_rng(VALIDATION_TOWNS)
        return [town_item(pair, rng, grid=grid, box=box) for pair in _towns(source.name, count)]
    items = open_protocol(source.name, source.root, grid=grid)
    indices = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[i] for i in indices.tolist()]


def _towns(style: str, count: int) -> Iterator[TownPair]:
    if style not in ("train", "heldout"):
        raise ValueError(f"validation: expected towns of the style train or heldout, got '{style}'")
    return town_pairs(VALIDATION_TOWNS, count, style=style)


def town_item(pair: TownPair, rng: np.random.Generator, *, grid: GroundGrid, box: tuple[float, float]) -> Item:
    """Return a pair as an item whose map is the true vehicle's frame, its prior drawn in the box."""
    T_patch_vehicle = draw_prior_error(rng, box)
    prior = box_prior(T_patch_vehicle.inverse(), radius=box[0], yaw=box[1])
    return Item(
        name="town",
        frame=Frame(
            0, pair.ground, PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K), pair.T_base_camera
        ),
        prior=prior,
        truth=SE2(),
        patch=pair.patch(prior.T_map_base, grid),
    )


def draw_prior_error(rng: np.random.Generator, box: tuple[float, float]) -> SE2:
    """Draw the vehicle's pose in the patch, uniform in the box of half-widths in metres and radians."""
    half, yaw = box
    x, y = rng.uniform(-half, half, 2)
    return SE2(x, y, rng.uniform(-yaw, yaw))


def crop_classes(classes: np.ndarray, T_vehicle_grid: SE2, grid: GroundGrid) -> np.ndarray:
    """Cut classes (rows, cols, 3) from those of `Scene.classes`."""
    return crop_patch(classes, CLASS_GRID, T_vehicle_grid, grid, interpolation=cv2.INTER_NEAREST)
