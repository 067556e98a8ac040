"""Road layouts: where the streets of a town run, and what kind of street each is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.town import polyline
from cvloc_ros.datasets.town.network import Edge, RoadNetwork


@dataclass(frozen=True)
class Plan:
    """What a town is like as a whole, drawn once per town.

    Attributes:
        layout: "grid", "curved", "suburb" or "rural".
        spacing: metres between streets, (least, most).
        warp: amplitude in metres of the smooth deformation that curves the streets.
        removed: share of the streets' pieces that are left out.

    """

    layout: str
    spacing: tuple[float, float]
    warp: float
    removed: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Plan:
        """Draw a plan."""
        layout = str(rng.choice(["grid", "curved", "suburb", "rural"], p=[0.31, 0.31, 0.29, 0.09]))
        spacing = {"grid": (55, 105), "curved": (60, 110), "suburb": (48, 85), "rural": (85, 150)}[layout]
        warp = {"grid": 0.0, "curved": rng.uniform(8, 20), "suburb": rng.uniform(4, 14), "rural": rng.uniform(5, 18)}
        return cls(layout, spacing, float(warp[layout]), float(rng.uniform(0.08, 0.3)))


def generate_network(rng: np.random.Generator, plan: Plan, size: float) -> RoadNetwork:
    """Draw a connected road network that covers a square of ``size`` metres and runs beyond its edges."""
    reach = 0.75 * size + 60
    xs, ys = (_positions(rng, plan, reach) for _ in range(2))
    rows, cols = len(ys), len(xs)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    grid = grid + rng.uniform(-1, 1, grid.shape) * (1.5 if plan.layout == "grid" else 7.0)
    angle = rng.uniform(0, np.pi / 2)
    warp = _Warp(rng, plan.warp, angle)

    horizontal = _street_kinds(rng, plan, rows)
    vertical = _street_kinds(rng, plan, cols)
    links = [((r, c), (r, c + 1), horizontal[r]) for r in range(rows) for c in range(cols - 1)]
    links += [((r, c), (r + 1, c), vertical[c]) for r in range(rows - 1) for c in range(cols)]
    links = _thin_out(rng, links, plan.removed)

    limit = size / 2 + 30
    edges: list[Edge] = []
    index: dict[tuple[int, int], int] = {}
    nodes: list[np.ndarray] = []
    styles = {kind: _cross_section(rng, kind) for kind in ("primary", "secondary", "residential", "rural")}
    for a, b, kind in links:
        line = np.linspace(grid[a], grid[b], 60)
        bow = 0.0 if plan.layout == "grid" else rng.uniform(-1, 1) * 0.09 * float(np.hypot(*(grid[b] - grid[a])))
        line = warp(polyline.offset(line, bow * np.sin(np.linspace(0, np.pi, 60)) ** 2))
        line = polyline.resample(line, 2.0)
        own = _cross_section(rng, kind) if rng.random() < 0.25 else styles[kind]
        if (np.abs(line) > limit).any(axis=1).all():
            continue
        for key, point in ((a, line[0]), (b, line[-1])):
            if key not in index:
                index[key] = len(nodes)
                nodes.append(point)
        edges.append(Edge(index[a], index[b], line, kind, **own))
    return RoadNetwork(np.array(nodes), edges)


def _positions(rng: np.random.Generator, plan: Plan, reach: float) -> np.ndarray:
    gaps = rng.uniform(*plan.spacing, int(2 * reach / plan.spacing[0]) + 2)
    positions = -reach - rng.uniform(0, plan.spacing[0]) + np.concatenate([[0], np.cumsum(gaps)])
    return positions[positions < reach + plan.spacing[1]]


class _Warp:
    """Rotation and a smooth displacement: sums of long waves, so that streets stay streets."""

    def __init__(self, rng: np.random.Generator, amplitude: float, angle: float) -> None:
        self.R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        wavelength = rng.uniform(170, 330, 4)
        heading = rng.uniform(0, 2 * np.pi, 4)
        self.k = 2 * np.pi / wavelength[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        self.phase = rng.uniform(0, 2 * np.pi, 4)
        self.shift = rng.normal(size=(4, 2)) * amplitude / 2

    def __call__(self, points: np.ndarray) -> np.ndarray:
        turned = points @ self.R.T
        return turned + np.sin(turned @ self.k.T + self.phase) @ self.shift


def _street_kinds(rng: np.random.Generator, plan: Plan, count: int) -> list[str]:
    base = "rural" if plan.layout == "rural" else "residential"
    kinds = [base if rng.random() < 0.7 else "secondary" for _ in range(count)]
    kinds[int(rng.integers(count // 3, max(count // 3 + 1, 2 * count // 3)))] = "primary"
    return kinds


def _cross_section(rng: np.random.Generator, kind: str) -> dict:
    lanes = int(rng.choice([1, 2], p=[0.6, 0.4])) if kind == "primary" else 1
    width = {"primary": (3.2, 3.7), "secondary": (3.0, 3.5), "residential": (2.6, 3.2), "rural": (2.6, 3.3)}[kind]
    parks = {"primary": 0.1, "secondary": 0.35, "residential": 0.5, "rural": 0.0}[kind]
    return {
        "lanes": lanes,
        "lane_width": float(rng.uniform(*width)),
        "parking": float(rng.uniform(2.0, 2.4)) if rng.random() < parks else 0.0,
        "one_way": bool(kind == "residential" and rng.random() < 0.12),
        "profile": int(rng.integers(3)) if kind != "rural" else 3,
    }


def _thin_out(rng: np.random.Generator, links: list, share: float) -> list:
    """Leave out a share of the links, without dead ends and without cutting the network in two."""
    degree: dict = {}
    for a, b, _ in links:
        degree[a], degree[b] = degree.get(a, 0) + 1, degree.get(b, 0) + 1
    kept = list(links)
    for k in rng.permutation(len(links))[: int(share * len(links) * 1.3)]:
        a, b, kind = links[int(k)]
        if kind == "primary" or degree[a] <= 3 or degree[b] <= 3:
            continue
        kept.remove(links[int(k)])
        degree[a] -= 1
        degree[b] -= 1
    return kept
