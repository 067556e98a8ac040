"""Cars: parked ones, some of which stay for all views, and moving ones, which no two views share."""

from __future__ import annotations

import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.network import RoadNetwork
from cvloc_ros.datasets.town.scenery import CAR, VAN, Prisms, Slots
from cvloc_ros.geometry import SE2


def draw_cars(town_seed: int, network: RoadNetwork, slots: Slots, seed: int, size: float) -> Prisms:
    """Return the cars of one moment. A fifth of the places hold the same car at every moment of a town."""
    resident = np.random.default_rng([town_seed, 11])
    rng = np.random.default_rng([town_seed, seed, 12])
    stays = resident.random(len(slots)) < 0.2
    taken = stays | (rng.random(len(slots)) < rng.uniform(0.05, 0.6))
    yaw = slots.yaw + rng.normal(size=len(slots)) * 0.03
    fixed, varying = (_bodies(r, slots.x, slots.y, yaw) for r in (resident, rng))
    parked = np.where(stays, fixed, varying)[:, taken]

    lengths = np.array([e.length for e in network.edges])
    count = int(rng.poisson(lengths.sum() / rng.uniform(80, 300)))
    moving = []
    for i in rng.choice(len(lengths), count, p=lengths / lengths.sum()):
        edge = network.edges[i]
        line = edge.lane_line(edge.one_way or rng.random() < 0.5, int(rng.integers(edge.lanes)))
        k = int(rng.integers(len(line) - 1))
        if np.abs(line[k]).max() < size / 2:
            d = line[k + 1] - line[k]
            moving.append((*line[k], np.arctan2(d[1], d[0])))
    poses = np.array(moving).reshape(-1, 3).T
    return Prisms(*np.concatenate([parked, _bodies(rng, *poses)], axis=1))


def ahead_of(T_map_base: SE2, rng: np.random.Generator) -> Prisms:
    """Return a vehicle or two just ahead of the camera's vehicle: they hide the road."""
    gap = rng.uniform(7, 22)
    poses = [T_map_base @ SE2(gap, float(rng.normal() * 0.4), float(rng.normal() * 0.03))]
    if rng.random() < 0.5:
        poses.append(T_map_base @ SE2(gap + rng.uniform(-3, 12), float(rng.choice([-3.4, 3.4])), 0.0))
    return Prisms(*_bodies(rng, *np.array([p.vector() for p in poses]).T))


def _bodies(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Return the rows (fields, N) of `Prisms` for cars and vans at poses."""
    n = len(x)
    van = rng.random(n) < 0.13
    length = np.where(van, rng.uniform(4.9, 6.8, n), rng.uniform(3.7, 4.9, n))
    width = np.where(van, rng.uniform(1.95, 2.2, n), rng.uniform(1.7, 1.9, n))
    height = np.where(van, rng.uniform(1.95, 2.9, n), rng.uniform(1.4, 1.75, n))
    colour = np.array(m.CARS)[rng.integers(0, len(m.CARS), n)]
    zero = np.zeros(n)
    kind = np.where(van, VAN, CAR)
    return np.stack([x, y, yaw, length / 2, width / 2, height, zero, kind, colour, zero, rng.random(n)])
