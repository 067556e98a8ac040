"""The ground's rasters: what it is made of, and where it is painted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town import polyline
from cvloc_ros.datasets.town.canvas import Canvas
from cvloc_ros.datasets.town.network import RoadNetwork
from cvloc_ros.datasets.town.site import Profile, Site

CELL = 0.1  # metres
_COARSE = 0.2  # metres: distances to the road are computed here and interpolated
_UNIT = 0.05  # metres per count of the distance raster
_ZERO = 40  # its count at the kerb: -2 m .. 10.75 m fit a byte
_CLEAR = 255  # "keep what is below" in a profile's table


@dataclass(frozen=True, eq=False)
class Surface:
    """Rasters of one town, north up, `CELL` metres.

    Attributes:
        material: values of `materials`.
        paint: two uint8 coverage rasters: edge paint and centre-line paint.
        beyond: the material beyond the town's edge.

    """

    material: Canvas
    paint: tuple[Canvas, Canvas]
    beyond: int

    def paint_at(self, cell: float) -> tuple[Canvas, Canvas]:
        """Return the paint rasters, averaged so that their cells are not much smaller than ``cell`` metres."""
        level = 2 if cell >= 3 * CELL else 1 if cell >= 1.5 * CELL else 0
        return self._paint_levels[level]

    @cached_property
    def _paint_levels(self) -> list[tuple[Canvas, Canvas]]:
        levels = [self.paint]
        for _ in range(2):
            a, b = (
                Canvas(cv2.resize(c.data, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), c.size)
                for c in levels[-1]
            )
            levels.append((a, b))
        return levels


def draw_surface(site: Site, painted: list[tuple[int, np.ndarray]], corner: float, wear: float) -> Surface:
    """Draw everything flat; ``corner`` is the kerb's radius at junctions, ``wear`` the mean wear of the paint."""
    rng, size = site.rng, site.size
    land = int(rng.choice([m.LAWN, m.ROUGH, m.FIELD, m.LAWN_DRY]))
    material = Canvas.blank(size, CELL, land)
    for value, polygon in site.under:
        material.fill(polygon, value)
    distance = _distance_to_road(site.network, size, corner)
    n = material.data.shape[0]
    counts: np.ndarray = np.clip(distance / _UNIT + _ZERO, 0, 255).astype(np.uint8)
    counts = cv2.resize(counts, (n, n), interpolation=cv2.INTER_LINEAR)
    bands = _corridor(site.network, site.profiles, counts, size)
    np.copyto(material.data, bands, where=bands != _CLEAR)
    road = counts < _ZERO
    asphalt = _asphalt(site, n)
    np.copyto(material.data, asphalt, where=road)
    for value, polygon in site.over:
        material.fill(polygon, value)
    _repairs(site, material)
    channels = (Canvas.blank(size, CELL), Canvas.blank(size, CELL))
    for channel, polygon in painted + site.paint:
        channels[channel].fill(polygon, 255, smooth=True)
    _wear(rng, channels, wear)
    return Surface(material, channels, land)


def _distance_to_road(network: RoadNetwork, size: float, corner: float) -> np.ndarray:
    """Return metres to the kerb, negative on the road; concave corners are rounded to ``corner`` metres."""
    road = Canvas.blank(size, _COARSE)
    for edge in network.edges:
        road.fill(polyline.strip(edge.line, edge.half_width, -edge.half_width), 1)
        reach = polyline.rectangle(edge.line[0], np.array([1.0, 0.0]), 1.0, 1.0)
        for end in (edge.line[0], edge.line[-1]):  # round the joints of roads that meet at an angle
            circle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            reach = end + edge.half_width * np.stack([np.cos(circle), np.sin(circle)], axis=-1)
            road.fill(reach, 1)
    cells = corner / _COARSE
    grown = (cv2.distanceTransform(1 - road.data, cv2.DIST_L2, cv2.DIST_MASK_5) > cells).astype(np.uint8)
    closed = (cv2.distanceTransform(1 - grown, cv2.DIST_L2, cv2.DIST_MASK_5) > cells).astype(np.uint8)
    closed |= road.data
    outside = cv2.distanceTransform(1 - closed, cv2.DIST_L2, cv2.DIST_MASK_5)
    inside = cv2.distanceTransform(closed, cv2.DIST_L2, cv2.DIST_MASK_5)
    return (outside - np.sign(outside) * 0.5 - inside + np.sign(inside) * 0.5) * _COARSE


def _corridor(network: RoadNetwork, profiles: list[Profile], counts: np.ndarray, size: float) -> np.ndarray:
    """Return the materials beside (and, as gutter, at the edge of) the road; `_CLEAR` elsewhere."""
    owner = Canvas.blank(size, 0.4)
    for k in (3, 2, 1, 0):
        for edge in network.edges:
            if edge.profile == k:
                reach = edge.half_width + profiles[k].width + 3
                owner.fill(polyline.strip(edge.line, reach, -reach), k)
    n = counts.shape[0]
    owners = cv2.resize(owner.data, (n, n), interpolation=cv2.INTER_NEAREST)
    table = np.full((len(profiles), 256), _CLEAR, np.uint8)
    beyond = (np.arange(256) - _ZERO + 0.5) * _UNIT
    for k, profile in enumerate(profiles):
        near = 0.0
        for width, material in profile.bands:
            table[k][(beyond >= near) & (beyond < near + width)] = material
            near += width
    out = cv2.LUT(counts, table[0])
    for k in range(1, len(profiles)):
        np.copyto(out, cv2.LUT(counts, table[k]), where=owners == k)
    return out


def _asphalt(site: Site, n: int) -> np.ndarray:
    """Return which asphalt lies where there is road: one kind per street, gutters along some."""
    rng = site.rng
    canvas = Canvas.blank(site.size, 0.4, m.ASPHALT[0])
    town_wide = int(rng.choice(m.ASPHALT))
    for kind in ("rural", "residential", "secondary", "primary"):
        for edge in site.network.edges:
            if edge.kind == kind:
                reach = edge.half_width + 4
                own = town_wide if rng.random() < 0.5 else int(rng.choice(m.ASPHALT))
                canvas.fill(polyline.strip(edge.line, reach, -reach), own)
    return cv2.resize(canvas.data, (n, n), interpolation=cv2.INTER_NEAREST)


def _repairs(site: Site, material: Canvas) -> None:
    """Patches, sealed cracks, manholes and gutters: what both views share of a road's skin."""
    rng = site.rng
    density = float(rng.uniform(0.5, 2.2))
    circle = np.stack([f(np.linspace(0, 2 * np.pi, 12, endpoint=False)) for f in (np.cos, np.sin)], axis=-1)
    for i, edge in enumerate(site.network.edges):
        length, half = edge.length, edge.half_width - 0.3
        if rng.random() < 0.3:
            begin, end = site.network.trims[i]
            line = polyline.piece(edge.line, begin + 2, length - end - 2)
            for side in (-1, 1):
                material.fill(polyline.strip(line, side * edge.half_width, side * (edge.half_width - 0.35)), m.GUTTER)
        if rng.random() < 0.3:  # a stretch that was resurfaced, from kerb to kerb
            s, resurfaced = rng.uniform(0, length), int(rng.choice(m.ASPHALT))
            line = polyline.piece(edge.line, s, s + rng.uniform(10, 60))
            if len(line) > 2:
                material.fill(polyline.strip(line, edge.half_width - 0.05, -edge.half_width + 0.05), resurfaced)
        for s in rng.uniform(0, length, rng.poisson(density * length / 30)):
            line = polyline.piece(edge.line, s, s + rng.choice([1.2, 2.5, 6.0, 14.0]))
            a = rng.uniform(-half, half)
            across = (half, -half) if rng.random() < 0.15 else (min(a + rng.uniform(0.6, 2.2), half), a)
            material.fill(polyline.strip(line, *across), int(rng.choice([m.PATCH_DARK, m.PATCH_LIGHT], p=[0.65, 0.35])))
        for s in rng.uniform(0, length, rng.poisson(density * length / 18)):
            line = polyline.piece(edge.line, s, s + rng.uniform(2, 10))
            wander = rng.uniform(-half, half) + np.cumsum(rng.normal(size=len(line))) * 0.25
            if rng.random() < 0.4:
                line, wander = polyline.strip(polyline.piece(edge.line, s, s + 0.1), half, -half)[[1, 2]], np.zeros(2)
            line = polyline.offset(line, np.clip(wander, -half, half))
            material.fill(polyline.strip(line, 0.06, -0.06), m.SEAL)
        for s in rng.uniform(0, length, rng.poisson(length / 35)):
            p = polyline.offset(polyline.piece(edge.line, s, s + 1.0), rng.uniform(-half, half))[0]
            material.fill(p + 0.33 * circle, m.MANHOLE)


def _wear(rng: np.random.Generator, channels: tuple[Canvas, Canvas], wear: float) -> None:
    """Thin the paint where traffic has worn it; the same for both views."""
    n = channels[0].data.shape[0]
    coarse = rng.normal(size=(n // 12 + 1, n // 12 + 1)).astype(np.float32)
    coarse = np.clip(255 * (1 - wear - 0.25 * wear * coarse), 30, 255).astype(np.uint8)
    keep = cv2.resize(coarse, (n, n), interpolation=cv2.INTER_LINEAR)
    for channel in channels:
        cv2.multiply(channel.data, keep, dst=channel.data, scale=1 / 255)
