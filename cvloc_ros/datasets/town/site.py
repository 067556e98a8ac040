"""A town under construction: what has been placed, what is still free, and the cross-sections beside its roads."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town import polyline
from cvloc_ros.datasets.town.canvas import Canvas
from cvloc_ros.datasets.town.network import RoadNetwork
from cvloc_ros.datasets.town.scenery import BARRIER, BUILDING

FREE, TAKEN, ROAD = 0, 1, 2


@dataclass(frozen=True)
class Profile:
    """The bands beside a road, from the kerb outwards: (width in metres, material)."""

    bands: tuple[tuple[float, int], ...]

    @property
    def width(self) -> float:
        """All bands together, metres."""
        return sum(width for width, _ in self.bands)

    @classmethod
    def draw(cls, rng: np.random.Generator, index: int) -> Profile:
        """Draw the town's cross-section number ``index``: 0 city, 1 verge, 2 either, 3 country road."""
        pavement = int(rng.choice(m.PAVEMENT))
        kerb = (float(rng.uniform(0.15, 0.25)), m.KERB)
        if index == 3:
            return cls(((float(rng.uniform(0.3, 0.9)), m.GRAVEL), (float(rng.uniform(1, 2)), m.ROUGH)))
        if index == 0 or (index == 2 and rng.random() < 0.5):
            return cls((kerb, (float(rng.uniform(1.5, 3.0)), pavement)))
        verge = (float(rng.uniform(0.9, 2.2)), m.VERGE)
        return cls((kerb, verge, (float(rng.uniform(1.3, 2.0)), pavement)))


@dataclass(eq=False)
class Site:
    """Everything placed so far.

    Attributes:
        under, over: (material, polygon) drawn before and after the road corridor.
        paint: (channel, polygon) of paint in car parks.
        prisms, trees, posts, slots: rows of the tables in `scenery`.
        grammars: the facade grammars this town may use.

    """

    rng: np.random.Generator
    network: RoadNetwork
    size: float
    profiles: list[Profile]
    grammars: tuple[int, ...]
    under: list[tuple[int, np.ndarray]] = field(default_factory=list)
    over: list[tuple[int, np.ndarray]] = field(default_factory=list)
    paint: list[tuple[int, np.ndarray]] = field(default_factory=list)
    prisms: list[tuple] = field(default_factory=list)
    trees: list[tuple] = field(default_factory=list)
    posts: list[tuple] = field(default_factory=list)
    slots: list[tuple] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Mark the road corridors as taken."""
        self.occupied = Canvas.blank(self.size, 0.5)
        for edge in self.network.edges:
            reach = edge.half_width + self.profiles[edge.profile].width
            self.occupied.fill(polyline.strip(edge.line, reach, -reach), ROAD)

    def claim(self, polygon: np.ndarray, margin: float) -> bool:
        """Take a convex polygon if it and ``margin`` metres around it are free and in the town."""
        if np.abs(polygon).max() > self.size / 2 - 1:
            return False
        centre = polygon.mean(axis=0)
        arms = polygon - centre
        grown = centre + arms * (1 + margin / np.maximum(np.hypot(arms[:, 0], arms[:, 1]), 0.1))[:, None]
        px = self.occupied.to_pixels(grown)
        low = np.maximum(np.floor(px.min(axis=0)).astype(int), 0)
        high = np.ceil(px.max(axis=0)).astype(int) + 1
        window = self.occupied.data[low[1] : high[1], low[0] : high[0]]
        if window.size == 0:
            return False
        mask = np.zeros(window.shape, np.uint8)
        cv2.fillConvexPoly(mask, np.rint(px - low).astype(np.int32), 1)
        if (window[mask > 0] != FREE).any():
            return False
        self.occupied.fill(polygon, TAKEN)
        return True

    def is_free(self, point: np.ndarray) -> bool:
        """Whether nothing stands at a point (2,) inside the town."""
        return bool(np.abs(point).max() < self.size / 2 - 1 and self.occupied.sample(point) == FREE)

    def add_building(
        self,
        centre: np.ndarray,
        u: np.ndarray,
        footprint: tuple[float, float],
        heights: tuple[float, float],
        look: tuple[int, int],
    ) -> None:
        """Put a building whose ``footprint`` is (length along ``u``, depth), ``heights`` (eave, ridge over it).

        ``look`` is the roof's material and the facade's grammar.
        """
        (length, depth), (eave, ridge) = footprint, heights
        yaw = float(np.arctan2(u[1], u[0]))
        if ridge > 0 and (depth > 1.2 * length or self.rng.random() < 0.2):
            length, depth, yaw = depth, length, yaw + np.pi / 2  # the ridge runs away from the street
        ridge = min(ridge, 0.5 * depth)
        self.prisms.append((*centre, yaw, length / 2, depth / 2, eave, ridge, BUILDING, *look, self.rng.random()))

    def add_tree(self, point: np.ndarray, *, scale: float = 1.0, hue: int | None = None) -> None:
        """Plant a tree; its crown is up to ~5 m in radius at scale 1."""
        rng = self.rng
        height = float(rng.uniform(4.5, 13)) * scale
        conifer = rng.random() < 0.18
        radius = height * float(rng.uniform(0.16, 0.24) if conifer else rng.uniform(0.26, 0.42))
        clear = height * 0.08 if conifer else max(min(2.3, 0.4 * height), 0.22 * height)
        shape = int(rng.integers(8, 12)) if conifer else int(rng.integers(8))
        colour = int(rng.integers(12, 16)) if conifer else int(rng.integers(12)) if hue is None else hue
        self.trees.append((point[0], point[1], radius, height, clear, colour, shape))

    def add_barrier(self, start: np.ndarray, end: np.ndarray, *, height: float, width: float, material: int) -> None:
        """Put a straight hedge, wall or fence between two points."""
        d = end - start
        length = float(np.hypot(*d))
        if length < 1.0:
            return
        centre = (start + end) / 2
        yaw = float(np.arctan2(d[1], d[0]))
        row = (*centre, yaw, length / 2, width / 2, height, 0.0, BARRIER, material, 0, self.rng.random())
        self.prisms.append(row)
