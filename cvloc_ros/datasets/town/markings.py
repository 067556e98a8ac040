"""Road paint: lane lines, stop lines, crossings, arrows and parking bays, as polygons in the town's frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.town import polyline
from cvloc_ros.datasets.town.network import Edge, RoadNetwork

EDGE, CENTRE = 0, 1  # paint channels: the centre's may have its own colour

# Arrow outlines, metres: x along travel (tip forward), y to the left.
_STRAIGHT = np.array([(-2.5, -0.08), (0.6, -0.08), (0.6, -0.35), (2.5, 0), (0.6, 0.35), (0.6, 0.08), (-2.5, 0.08)])
_LEFT = np.array(
    [(-2.5, -0.08), (0.5, -0.08), (0.8, 0.45), (0.55, 0.45), (1.2, 1.1), (1.7, 0.45), (1.2, 0.45), (0.8, 0.08)]
    + [(-2.5, 0.08)]
)


@dataclass(frozen=True)
class MarkingStyle:
    """How a town paints its roads, drawn once per town.

    Attributes:
        width: of lines, metres.
        dash, gap: of dashed lines, metres.
        double: whether primary roads have a double solid centre line.
        residential: whether residential streets have a centre line at all.
        edge_lines: whether primary and rural roads have edge lines.
        zebra: share of the junction arms with a zebra crossing.
        bars: width of a zebra's bars, metres; 0 for two lines across.
        stop: width of stop lines, metres; 0 for a row of give-way teeth.
        wear: mean wear of the paint, 0 fresh .. 1 gone.

    """

    width: float
    dash: float
    gap: float
    double: bool
    residential: bool
    edge_lines: bool
    zebra: float
    bars: float
    stop: float
    wear: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> MarkingStyle:
        """Draw a style."""
        dash, gap = ((3, 3), (3, 6), (2, 4), (4, 8), (3, 9), (1.5, 1.5), (6, 3))[int(rng.integers(7))]
        return cls(
            width=float(rng.uniform(0.11, 0.2)),
            dash=float(dash),
            gap=float(gap),
            double=bool(rng.random() < 0.5),
            residential=bool(rng.random() < 0.55),
            edge_lines=bool(rng.random() < 0.6),
            zebra=float(rng.uniform(0.15, 0.75)),
            bars=float(rng.choice([0.4, 0.5, 0.6, 0.0], p=[0.3, 0.35, 0.2, 0.15])),
            stop=float(rng.choice([0.3, 0.45, 0.6, 0.0], p=[0.3, 0.3, 0.2, 0.2])),
            wear=float(rng.uniform(0.0, 0.45)),
        )


def paint(network: RoadNetwork, style: MarkingStyle, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Return (channel, polygon) of all paint of a network, apart from car parks."""
    painted: list[tuple[int, np.ndarray]] = []
    for i, edge in enumerate(network.edges):
        begin, end = network.trims[i]
        arms = [(begin, True), (end, False)]
        setbacks = [begin, end]
        for k, (trim, at_start) in enumerate(arms):
            if trim == 0 or edge.length - begin - end < 25:
                continue
            line = edge.line[::-1] if at_start else edge.line  # both arms are drawn as if driving into the junction
            setbacks[k] = _arm(painted, edge, line, trim, at_start, style, rng)
        _along(painted, edge, setbacks, style, rng)
    return painted


def _arm(painted: list, edge: Edge, line: np.ndarray, trim: float, at_start: bool, style: MarkingStyle, rng) -> float:
    """Paint crossing, stop line and arrows of the arm at the line's end; return where lane lines begin."""
    length, half = edge.length, edge.half_width - edge.parking
    s = trim + 1.0
    busy = edge.kind in ("primary", "secondary")
    if rng.random() < style.zebra * (1.0 if busy else 0.6) and edge.kind != "rural":
        depth = float(rng.uniform(2.6, 4.2))
        _crossing(painted, polyline.piece(line, length - s - depth, length - s), edge.half_width, style)
        s += depth + 1.0
    incoming = not (edge.one_way and at_start)
    if incoming and (busy or rng.random() < 0.7):
        left, right = (half, -half) if edge.one_way else (-0.1, -half)
        if style.stop:
            bar = polyline.piece(line, length - s - style.stop, length - s)
            painted.append((EDGE, polyline.strip(bar, left, right)))
        else:
            teeth = np.arange(right + 0.2, left - 0.3, 0.75)
            row = polyline.piece(line, length - s - 0.6, length - s)
            for a in teeth:
                ends = polyline.offset(row, a), polyline.offset(row, a + 0.5), polyline.offset(row, a + 0.25)
                painted.append((EDGE, np.stack([ends[0][-1], ends[1][-1], ends[2][0]])))
        s += max(style.stop, 0.6)
        if edge.kind == "primary" and edge.lanes == 2 and length > 60:
            for lane, shape in ((0, _LEFT), (1, _STRAIGHT)):
                mid = polyline.piece(line, length - s - 9, length - s - 3)
                p, q = polyline.offset(mid, -edge.lane_offset(lane))[[0, -1]]
                u = (q - p) / np.hypot(*(q - p))
                R = np.array([[u[0], -u[1]], [u[1], u[0]]])
                painted.append((EDGE, (p + q) / 2 + shape @ R.T))
    return s


def _crossing(painted: list, line: np.ndarray, half: float, style: MarkingStyle) -> None:
    if style.bars == 0:
        depth = float(polyline.arc_length(line)[-1])
        for s in (0.0, depth - 0.3):
            painted.append((EDGE, polyline.strip(polyline.piece(line, s, s + 0.3), half - 0.2, -half + 0.2)))
        return
    for a in np.arange(-half + 0.3, half - style.bars, 2 * style.bars):
        painted.append((EDGE, polyline.strip(line, a + style.bars, a)))


def _along(painted: list, edge: Edge, setbacks: list[float], style: MarkingStyle, rng: np.random.Generator) -> None:
    begin, end = setbacks[0], edge.length - setbacks[1]
    if end - begin < 8:
        return
    w = style.width
    half = edge.half_width - edge.parking

    def solid(offset: float, channel: int) -> None:
        painted.append((channel, polyline.strip(polyline.piece(edge.line, begin, end), offset + w / 2, offset - w / 2)))

    def dashed(offset: float, channel: int, dash: float, gap: float) -> None:
        for s in np.arange(begin + rng.uniform(0, gap), end - dash / 2, dash + gap):
            line = polyline.piece(edge.line, s, min(s + dash, end))
            painted.append((channel, polyline.strip(line, offset + w / 2, offset - w / 2)))

    if not edge.one_way and (edge.kind != "residential" or style.residential):
        if edge.kind == "primary" and style.double:
            solid(w, CENTRE)
            solid(-w, CENTRE)
        elif edge.kind == "primary" and rng.random() < 0.4:
            solid(0.0, CENTRE)
        else:
            dashed(0.0, CENTRE, style.dash, style.gap)
    for lane in range(1, edge.lanes):
        divider = edge.lane_offset(lane) - edge.lane_width / 2
        for side in (-1,) if edge.one_way else (-1, 1):
            dashed(side * divider, EDGE, style.dash, style.gap)
    if style.edge_lines and edge.kind in ("primary", "rural") and not edge.parking:
        solid(half - 0.25, EDGE)
        solid(-half + 0.25, EDGE)
    if edge.parking:
        _bays(painted, edge, begin + 6, end - 6, half, w, rng)
    if rng.random() < 0.2 and end - begin > 40 and edge.kind != "rural":
        s = float(rng.uniform(begin + 12, end - 12))
        _crossing(painted, polyline.piece(edge.line, s, s + 3.2), edge.half_width, style)


def _bays(painted: list, edge: Edge, begin: float, end: float, half: float, width: float, rng) -> None:
    """Paint the parking strips' outline, or only their ticks, or nothing."""
    look = rng.choice(["outline", "ticks", "none"], p=[0.4, 0.35, 0.25])
    if look == "none" or end - begin < 12:
        return
    for side in (-1, 1):
        if look == "outline":
            line = polyline.piece(edge.line, begin, end)
            painted.append((EDGE, polyline.strip(line, side * half + width / 2, side * half - width / 2)))
        for s in np.arange(begin, end, 6.0):
            line = polyline.piece(edge.line, s, s + width)
            painted.append((EDGE, polyline.strip(line, side * half, side * (half + edge.parking))))
