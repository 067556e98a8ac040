"""Drivable routes through a road network: right-hand lanes joined by arcs at the junctions."""

from __future__ import annotations

import numpy as np

from cvloc_ros.datasets.town import polyline
from cvloc_ros.datasets.town.network import MIN_RADIUS, RoadNetwork

Leg = tuple[int, bool]  # edge, driven forward


def plan_legs(network: RoadNetwork, rng: np.random.Generator, length: float, half_extent: float) -> list[Leg]:
    """Return connected legs of at least ``length`` metres whose nodes lie within ``half_extent`` of the centre.

    Turns are preferred to going straight, and roads not yet driven to those that were.

    Raises:
        ValueError: the network has no such route.

    """
    inside = (np.abs(network.nodes) <= half_extent).all(axis=1)
    usable = [bool(inside[e.start] and inside[e.end]) for e in network.edges]
    starts = [
        (i, f) for i, e in enumerate(network.edges) if usable[i] for f in ((True,) if e.one_way else (True, False))
    ]
    best = 0.0
    for _ in range(200 if starts else 0):
        legs = [starts[rng.integers(len(starts))]]
        total = network.edges[legs[0][0]].length
        while total < length:
            choices = [c for c in network.exits(*legs[-1]) if usable[c[0]] and _room_to_turn(network, legs[-1], c)]
            if not choices:
                break
            driven = [leg[0] for leg in legs]
            weights = np.array([(1.5 if abs(c[2]) > 0.6 else 1.0) * 0.3 ** driven.count(c[0]) for c in choices])
            choice = choices[rng.choice(len(choices), p=weights / weights.sum())]
            legs.append((choice[0], choice[1]))
            total += network.edges[choice[0]].length
        if total >= length:
            return legs
        best = max(best, total)
    raise ValueError(
        f"expected a route of {length:.0f} m within {half_extent:.0f} m of the town's centre, the longest found is "
        f"{best:.0f} m: generate a larger town or ask for less"
    )


def lane_route(network: RoadNetwork, legs: list[Leg], spacing: float = 0.5) -> np.ndarray:
    """Return the smooth path (N, 2) of a vehicle that drives the legs in their outermost lanes.

    Junctions are crossed on arcs that are tangent to both lanes; the radius is never under `MIN_RADIUS`.
    """
    lanes = [network.edges[i].lane_line(forward, network.edges[i].lanes - 1) for i, forward in legs]
    parts: list[np.ndarray] = []
    start = 0.0
    for line, following in zip(lanes, [*lanes[1:], None], strict=True):
        length = float(polyline.arc_length(line)[-1])
        if following is None:
            parts.append(polyline.piece(line, start, length))
            break
        leave, enter, arc = _fillet(line, following)
        parts.append(polyline.piece(line, start, leave))
        parts.append(arc[1:-1])
        start = enter
    path = polyline.resample(np.concatenate(parts), spacing)
    return _smooth(path, sigma=2.0 / spacing)


def _fillet(before: np.ndarray, after: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return where to leave one lane, where to enter the next (distances along them), and the curve between."""
    s_before, s_after = polyline.arc_length(before), polyline.arc_length(after)
    reach = min(14.0, 0.45 * s_before[-1], 0.45 * s_after[-1])
    p, u = _point_and_direction(before, s_before[-1] - reach)
    q, v = _point_and_direction(after, reach)
    cross = u[0] * v[1] - u[1] * v[0]
    turn = abs(np.arctan2(cross, u @ v))
    if turn < 0.12:
        leave, enter = s_before[-1] - reach, reach
    else:
        a, b = np.linalg.solve(np.stack([u, -v], axis=1), q - p)  # the lanes' corner: p + a u = q + b v
        radius = 8.5 if cross < 0 else 11.0  # to the right tighter than to the left
        tangent = min(radius * np.tan(turn / 2), max(a, 4.0), max(-b, 4.0))
        leave = float(np.clip(s_before[-1] - reach + a - tangent, 0, s_before[-1]))
        enter = float(np.clip(reach + b + tangent, 0, s_after[-1]))
    p, u = _point_and_direction(before, leave)
    q, v = _point_and_direction(after, enter)
    chord = float(np.hypot(*(q - p)))
    turn = abs(np.arctan2(u[0] * v[1] - u[1] * v[0], u @ v))
    handle = chord / 3 if turn < 1e-3 else 4 / 3 * np.tan(turn / 4) * chord / (2 * np.sin(turn / 2))
    t = np.linspace(0, 1, max(int(chord / 0.25), 4))[:, None]
    control = (p, p + handle * u, q - handle * v, q)
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return leave, enter, np.asarray(sum(w * c for w, c in zip(weights, control, strict=True)))


def _room_to_turn(network: RoadNetwork, leg: Leg, following: tuple[int, bool, float]) -> bool:
    edge, after = network.edges[leg[0]], network.edges[following[0]]
    lanes = [e.lane_line(f, e.lanes - 1) for e, f in ((edge, leg[1]), (after, following[1]))]
    leave, enter, arc = _fillet(*lanes)
    bend = np.abs(polyline.curvature(polyline.resample(arc, 0.5))) if len(arc) > 6 else np.zeros(1)
    fits = leave > 0.5 * edge.length and enter < 0.5 * after.length
    return bool(fits and bend.max() < 1 / (1.1 * MIN_RADIUS))


def _point_and_direction(line: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    a, p, b = polyline.at(line, np.array([distance - 1.0, distance, distance + 1.0]))
    return p, (b - a) / max(float(np.hypot(*(b - a))), 1e-9)


def _smooth(path: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian along the path: kinks between polyline pieces become curves, the ends stay."""
    radius = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    before = 2 * path[0] - path[radius:0:-1]
    after = 2 * path[-1] - path[-2 : -radius - 2 : -1]
    padded = np.concatenate([before, path, after])
    return np.stack([np.convolve(padded[:, k], kernel, mode="valid") for k in range(2)], axis=-1)
