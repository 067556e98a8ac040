"""What stands along the streets: houses, rows, blocks, shops, halls, greens and fields, lot by lot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.town import blocks, polyline
from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.network import Edge
from cvloc_ros.datasets.town.site import Site


@dataclass(frozen=True)
class Zone:
    """How one side of a street is built up; ranges in metres as (least, most).

    Attributes:
        length, depth: of the building, along and away from the street.
        eave, ridge: heights; ridge is over the eaves, 0 for a flat roof.
        setback: from the corridor's edge to the building.
        gap: between neighbours.
        vacancy: share of the lots left empty.

    """

    length: tuple[float, float]
    depth: tuple[float, float]
    eave: tuple[float, float]
    ridge: tuple[float, float]
    setback: tuple[float, float]
    gap: tuple[float, float]
    vacancy: float


ZONES = {
    "houses": Zone((8, 15), (7, 11), (2.8, 6.0), (1.6, 4.2), (3, 9), (4, 12), 0.1),
    "row": Zone((9, 26), (9, 13), (5.5, 12), (0.0, 3.5), (0.2, 2.5), (0.1, 3), 0.06),
    "blocks": Zone((20, 48), (11, 16), (9, 22), (0.0, 0.0), (3, 11), (7, 20), 0.12),
    "shops": Zone((24, 46), (14, 28), (4.5, 8), (0.0, 0.0), (19, 24), (8, 22), 0.1),
    "halls": Zone((20, 45), (18, 34), (5.5, 10), (0.0, 2.5), (4, 12), (6, 22), 0.15),
    "farm": Zone((12, 26), (9, 13), (3, 5.5), (2.0, 4.5), (6, 18), (25, 70), 0.3),
}
_MIXES = {  # layout: zones and how often; "green" and "fields" have no buildings
    "grid": (("row", 0.32), ("blocks", 0.22), ("shops", 0.13), ("houses", 0.2), ("halls", 0.05), ("green", 0.08)),
    "curved": (("houses", 0.38), ("row", 0.2), ("blocks", 0.16), ("shops", 0.1), ("green", 0.12), ("halls", 0.04)),
    "suburb": (("houses", 0.74), ("row", 0.08), ("blocks", 0.05), ("green", 0.1), ("shops", 0.03)),
    "rural": (("fields", 0.5), ("houses", 0.2), ("farm", 0.22), ("green", 0.08)),
}


def build(site: Site, layout: str) -> None:
    """Fill both sides of every street, then what is left of the blocks."""
    rng = site.rng
    blocks.lay_out_yards(site, layout)
    names, weights = zip(*_MIXES[layout], strict=True)
    for i, edge in enumerate(site.network.edges):
        inside = (np.abs(edge.line) < site.size / 2 + 20).all(axis=1).any()
        if not inside:
            continue
        both = str(rng.choice(names, p=np.array(weights) / sum(weights)))
        for side in (-1, 1):
            zone = both if rng.random() < 0.75 else str(rng.choice(names, p=np.array(weights) / sum(weights)))
            begin, end = site.network.trims[i, 0] + 4, edge.length - site.network.trims[i, 1] - 4
            if zone == "fields":
                _field(site, edge, side, begin, end)
            elif zone != "green":
                _build_side(site, edge, side, (begin, end), zone)
            _furniture(site, edge, side, begin, end, sparse=zone in ("fields", "farm"))
    blocks.fill(site, layout)


def _frame(edge: Edge, side: int, s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the centre line's point at ``s``, its direction, and the unit vector away from it on one side."""
    a, p, b = polyline.at(edge.line, np.array([s - 1, s, s + 1]))
    u = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
    return p, u, side * np.array([-u[1], u[0]])


def _build_side(site: Site, edge: Edge, side: int, span: tuple[float, float], zone_name: str) -> None:
    rng, zone = site.rng, ZONES[zone_name]
    kerb = edge.half_width
    corridor = kerb + site.profiles[edge.profile].width
    setback = rng.uniform(*zone.setback)
    grammar = int(rng.choice(site.grammars))
    roof = int(rng.integers(len(m.ROOFS)))
    s = span[0] + rng.uniform(0, 6)
    while s < span[1] - zone.length[0]:
        length, depth = rng.uniform(*zone.length), rng.uniform(*zone.depth)
        own = setback + (rng.uniform(-0.8, 1.2) if zone_name in ("houses", "farm") else 0.0)
        p, u, n = _frame(edge, side, s + length / 2)
        centre = p + n * (corridor + max(own, 0.2) + depth / 2)
        footprint = polyline.rectangle(centre, u, length / 2, depth / 2)
        if rng.random() < zone.vacancy or not site.claim(footprint, 0.1 if zone_name == "row" else 1.0):
            s += rng.uniform(4, 12)
            continue
        if rng.random() < 0.3:
            roof, grammar = int(rng.integers(len(m.ROOFS))), int(rng.choice(site.grammars))
        eave, ridge = rng.uniform(*zone.eave), rng.uniform(*zone.ridge)
        flat = zone_name == "row" and rng.random() < 0.4
        site.add_building(centre, u, (length, depth), (eave, 0.0 if flat else ridge), (m.ROOFS[roof], grammar))
        front = p + n * kerb, p + n * (corridor + max(own, 0.2))
        if zone_name in ("houses", "farm"):
            _garden(site, front, u, n, length, depth)
        elif zone_name == "shops":
            _car_park(site, p + n * (corridor + 1.0), u, n, length, own - 2.0)
        elif zone_name in ("row", "blocks"):
            site.under.append((int(rng.choice([*m.PAVEMENT, m.PAVER, m.LAWN])), _lot(front, u, n, length + 2, depth)))
        else:
            yard = int(rng.choice([m.CONCRETE, m.PARKING, m.GRAVEL]))
            site.under.append((yard, _lot(front, u, n, length + 8, depth + 6)))
        s += length + rng.uniform(*zone.gap)


def _lot(front: tuple[np.ndarray, np.ndarray], u, n, width: float, depth: float) -> np.ndarray:
    a, b = front[0] - u * width / 2, front[0] + u * width / 2
    reach = n * (float((front[1] - front[0]) @ n) + depth + 2)
    return np.stack([a, b, b + reach, a + reach])


def _garden(site: Site, front, u, n, length: float, depth: float) -> None:
    """Lawn, drive, path, hedge and trees of a house."""
    rng = site.rng
    width = length + rng.uniform(4, 9)
    site.under.append(
        (int(rng.choice([m.LAWN, m.LAWN_DRY, m.LAWN_LUSH, m.ROUGH])), _lot(front, u, n, width, depth + 8))
    )
    kerb, wall = front
    drive_side = float(rng.choice([-1, 1]))
    if rng.random() < 0.75:
        half = rng.uniform(1.3, 2.8)
        a = u * drive_side * (length / 2 - half + rng.uniform(-2, 2.5))
        kind = int(rng.choice([m.CONCRETE, m.PAVER, m.GRAVEL, m.PARKING]))
        beyond = n * rng.uniform(0, 6)
        site.over.append((kind, np.stack([kerb + a - u * half, kerb + a + u * half, wall + a + beyond + u * half,
                                          wall + a + beyond - u * half])))  # fmt: skip
        if rng.random() < 0.7 and (wall - kerb) @ n > 6.5:
            site.slots.append((*(wall + a - n * 2.8), np.arctan2(n[1], n[0]) + rng.choice([0, np.pi])))
    if rng.random() < 0.6:
        a = -u * drive_side * rng.uniform(0, length / 3)
        site.over.append((int(rng.choice([m.CONCRETE, m.PAVER])), polyline.strip(
            np.stack([kerb + a, wall + a]), 0.6, -0.6)))  # fmt: skip
    inner = wall - n * max(float((wall - kerb) @ n) * 0.3, 0.6)
    if rng.random() < 0.4 and (wall - inner) @ n > 0.8:
        kind, height, thick = [(m.HEDGE, 1.4, 0.8), (m.WALL, 1.0, 0.3), (m.FENCE, 1.1, 0.15)][int(rng.integers(3))]
        gap = u * -drive_side
        site.add_barrier(inner + gap * (width / 2), inner - gap * 0.09, height=height * rng.uniform(0.7, 1.4),
                         width=thick, material=kind)  # fmt: skip
    if rng.random() < 0.35:
        edge = u * width / 2
        kind, thick = (m.HEDGE, 0.9) if rng.random() < 0.6 else (m.FENCE, 0.12)
        site.add_barrier(inner + edge, inner + edge + n * (depth + 5), height=rng.uniform(1.1, 2.0), width=thick,
                         material=kind)  # fmt: skip
    for _ in range(int(rng.integers(0, 4))):
        point = kerb + u * rng.uniform(-0.5, 0.5) * width + n * rng.uniform(4, depth + 22)
        if site.is_free(point):
            site.add_tree(point, scale=0.75)
    if rng.random() < 0.3:
        spot = wall - n * 0.8 + u * rng.uniform(-0.4, 0.2) * length
        site.under.append((m.FLOWERBED, polyline.rectangle(spot, u, rng.uniform(1, 3), 0.6)))


def _car_park(site: Site, origin, u, n, length: float, depth: float) -> None:
    """A car park between street and shop: two rows of bays, with an aisle between."""
    rng = site.rng
    half = length / 2
    centre = origin + n * depth / 2
    if not site.claim(polyline.rectangle(centre, u, half - 0.6, depth / 2 - 0.6), 0.0):
        return
    site.under.append((m.PARKING, polyline.rectangle(centre, u, half, depth / 2)))
    site.over.append((m.PARKING, np.stack([origin - n * 4 - u * 3, origin - n * 4 + u * 3, origin + n + u * 3,
                                           origin + n - u * 3])))  # fmt: skip
    for row, heading in ((n * 2.6, -1), (n * (depth - 2.6), 1)):
        for a in np.arange(-half + 0.5, half - 2.4, 2.5):
            if row @ n < 4 and abs(a + 1.25) < 4.5:
                continue  # the way in
            line = np.stack([origin + row + u * a - n * 2.5, origin + row + u * a + n * 2.5])
            site.paint.append((0, polyline.strip(line, 0.06, -0.06)))
            yaw = np.arctan2(heading * n[1], heading * n[0]) + (np.pi if rng.random() < 0.3 else 0)
            site.slots.append((*(origin + row + u * (a + 1.25)), yaw))


def _field(site: Site, edge: Edge, side: int, begin: float, end: float) -> None:
    rng = site.rng
    s = begin
    while s < end - 10:
        length = min(rng.uniform(30, 90), end - s)
        p, u, n = _frame(edge, side, s + length / 2)
        near, depth = edge.half_width + site.profiles[edge.profile].width, rng.uniform(40, 90)
        kind = int(rng.choice([m.CROP, m.SOIL, m.ROUGH, m.FIELD, m.LAWN_DRY]))
        shape = polyline.rectangle(p + n * (near + depth / 2), u, length / 2, depth / 2)
        site.under.append((kind, shape))
        s += length + rng.choice([0.0, 1.5, 4.0])


def _furniture(site: Site, edge: Edge, side: int, begin: float, end: float, *, sparse: bool) -> None:
    """Street trees, lamps, signs and kerbside parking."""
    rng = site.rng
    corridor = site.profiles[edge.profile].width
    step = float(rng.choice([8.0, 11.0, 15.0, 24.0]))
    if rng.random() < (0.25 if sparse else 0.5):
        away = edge.half_width + (1.0 if corridor > 2.2 and rng.random() < 0.7 else corridor + 0.8)
        hue, scale = int(rng.integers(12)), float(rng.uniform(0.6, 0.95))
        for s in np.arange(begin + 3, end - 3, step) + rng.uniform(0, 3):
            p, _, n = _frame(edge, side, s)
            if rng.random() < 0.85:
                site.add_tree(p + n * (away + rng.normal() * 0.15), scale=scale, hue=hue)
    lamps = float(rng.uniform(24, 38))
    if side == 1 or rng.random() < 0.3:
        for s in np.arange(begin + 5, end - 2, lamps):
            p, _, n = _frame(edge, side, s)
            site.posts.append((*(p + n * (edge.half_width + 0.6)), rng.uniform(5, 8.5), 0.08, 0))
    for s in rng.uniform(begin, max(end, begin + 0.1), int(rng.integers(0, 4))):
        p, _, n = _frame(edge, side, s)
        site.posts.append(
            (*(p + n * (edge.half_width + 0.5)), rng.uniform(2.2, 3.0), 0.04, int(rng.choice([1, 1, 2, 3])))
        )
    if edge.parking:
        for s in np.arange(begin + 3.0, end - 6, 6.0):
            p, u, n = _frame(edge, side, s + 3.0)
            facing = 0.0 if (side < 0) != (rng.random() < 0.1) else np.pi
            slot = p + n * (edge.half_width - edge.parking / 2)
            site.slots.append((*slot, np.arctan2(u[1], u[0]) + facing))
