"""The inside of the blocks, behind what stands along the streets: yards, paths, back buildings and trees."""

from __future__ import annotations

import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town import polyline
from cvloc_ros.datasets.town.site import Site

_YARDS = (m.LAWN, m.LAWN_DRY, m.LAWN_LUSH, m.ROUGH, m.SOIL, m.GRAVEL, m.CONCRETE, m.PARKING, m.FLOWERBED)
_YARD_ODDS = (0.22, 0.16, 0.18, 0.18, 0.05, 0.06, 0.05, 0.06, 0.04)


def lay_out_yards(site: Site, layout: str) -> None:
    """Divide the blocks into plots of different ground, crossed by paths; what is built later covers them."""
    rng = site.rng
    hectares = (site.size / 100) ** 2
    points = _anywhere(site, hectares * (4 if layout == "rural" else 16))
    for point, u in zip(points, street_directions(site, points), strict=True):
        half = rng.uniform(4, 15, 2)
        site.under.append((int(rng.choice(_YARDS, p=_YARD_ODDS)), polyline.rectangle(point, u, *half)))
    points = _anywhere(site, hectares * (0.6 if layout == "rural" else 2.0))
    for point, u in zip(points, street_directions(site, points), strict=True):
        reach = rng.uniform(10, 40)
        line = polyline.resample(np.stack([point - u * reach, point + u * reach]), 3.0)
        s = np.linspace(0, 2 * np.pi, len(line))
        line = polyline.offset(line, rng.uniform(0, 3) * np.sin(s * rng.uniform(0.3, 1.5)))
        half_width = rng.uniform(0.6, 1.3)
        kind = int(rng.choice([m.GRAVEL, m.PAVER, m.CONCRETE, m.PARKING]))
        site.under.append((kind, polyline.strip(line, half_width, -half_width)))


def fill(site: Site, layout: str) -> None:
    """Put sheds, back buildings and trees on what is still free."""
    rng = site.rng
    hectares = (site.size / 100) ** 2
    points = _anywhere(site, hectares * (3 if layout == "rural" else 13))
    for point, u in zip(points, street_directions(site, points), strict=True):
        big = rng.random() < {"grid": 0.45, "curved": 0.2, "suburb": 0.05, "rural": 0.05}[layout]
        length, depth = (rng.uniform(12, 26), rng.uniform(9, 16)) if big else (rng.uniform(3, 7), rng.uniform(2.5, 5))
        if site.claim(polyline.rectangle(point, u, length / 2, depth / 2), 1.5):
            eave = rng.uniform(3, 9) if big else rng.uniform(2.1, 2.8)
            look = (int(rng.choice(m.ROOFS)), int(rng.choice(site.grammars)))
            site.add_building(point, u, (length, depth), (eave, float(rng.choice([0.0, 1.2]))), look)
    for centre in _anywhere(site, hectares * (1.2 if layout == "rural" else 0.7)):
        spread = rng.uniform(4, 16)
        for point in centre + rng.normal(size=(int(rng.integers(4, 22)), 2)) * spread:
            if site.is_free(point):
                site.add_tree(point)
    for point in _anywhere(site, hectares * 8):
        if site.is_free(point):
            site.add_tree(point)


def street_directions(site: Site, points: np.ndarray) -> np.ndarray:
    """Return the unit direction (N, 2) of the street nearest to each point (N, 2)."""
    lines = np.concatenate([edge.line[::4] for edge in site.network.edges])
    along = np.concatenate([polyline.tangents(edge.line)[::4] for edge in site.network.edges])
    square = (lines**2).sum(axis=1) - 2 * points @ lines.T
    return along[square.argmin(axis=1)]


def _anywhere(site: Site, count: float) -> np.ndarray:
    half = site.size / 2
    return site.rng.uniform(-half, half, (int(count), 2))
