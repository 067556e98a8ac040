"""The road network: nodes, edges with their lanes, and routes that a vehicle can drive (right-hand traffic)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cvloc_ros.datasets.town import polyline

MIN_RADIUS = 6.0  # metres: what a passenger car turns comfortably at a junction


@dataclass(frozen=True, eq=False)
class Edge:
    """A road between two nodes.

    Attributes:
        start, end: node indices.
        line: (N, 2) centre line from start to end, about 2 m between points.
        kind: "primary", "secondary", "residential" or "rural".
        lanes: lanes per direction of travel.
        lane_width: metres.
        parking: width in metres of the parking strip on each side, or 0.
        one_way: traffic only from start to end; ``lanes`` are then centred on the line.
        profile: which cross-section (kerb, verge, pavement) of the town lies beside the road.

    """

    start: int
    end: int
    line: np.ndarray
    kind: str
    lanes: int
    lane_width: float
    parking: float
    one_way: bool
    profile: int

    @property
    def half_width(self) -> float:
        """From the centre line to the kerb, metres."""
        lanes = self.lanes if self.one_way else 2 * self.lanes
        return lanes * self.lane_width / 2 + self.parking

    @cached_property
    def length(self) -> float:
        """Metres."""
        return float(polyline.arc_length(self.line)[-1])

    def lane_offset(self, lane: int) -> float:
        """Return how far right of the centre line, in the direction of travel, lane ``lane`` (0: innermost) runs."""
        shift = -self.lanes / 2 if self.one_way else 0.0
        return (lane + 0.5 + shift) * self.lane_width

    def lane_line(self, forward: bool, lane: int) -> np.ndarray:
        """Return a lane's centre line (N, 2) in the direction of travel."""
        return self._lane_lines[forward, lane]

    @cached_property
    def _lane_lines(self) -> dict[tuple[bool, int], np.ndarray]:
        ways = ((True, self.line), (False, self.line[::-1]))
        return {(f, k): polyline.offset(line, -self.lane_offset(k)) for f, line in ways for k in range(self.lanes)}


@dataclass(frozen=True, eq=False)
class RoadNetwork:
    """Nodes (M, 2) in the town's frame, and the edges between them."""

    nodes: np.ndarray
    edges: list[Edge]

    @cached_property
    def at_node(self) -> list[list[tuple[int, bool]]]:
        """For each node the (edge, leaves forward) that touch it."""
        touching: list[list[tuple[int, bool]]] = [[] for _ in self.nodes]
        for i, edge in enumerate(self.edges):
            touching[edge.start].append((i, True))
            touching[edge.end].append((i, False))
        return touching

    @cached_property
    def trims(self) -> np.ndarray:
        """(edges, 2): metres from start and end at which an edge leaves its junction; 0 where there is none."""
        trims = np.zeros((len(self.edges), 2))
        for touching in self.at_node:
            if len(touching) < 2:
                continue
            leaving = [self._direction(i, forward, near=8.0) for i, forward in touching]
            for (i, forward), d in zip(touching, leaving, strict=True):
                reach = 0.0
                for (j, _), e in zip(touching, leaving, strict=True):
                    cos, sin = float(d @ e), abs(float(d[0] * e[1] - d[1] * e[0]))
                    if i == j or (cos < -0.9 and len(touching) == 2):
                        continue
                    if sin > 0.35:
                        corner = (self.edges[j].half_width + self.edges[i].half_width * cos) / sin
                        reach = max(reach, corner + 0.5)
                trims[i, 0 if forward else 1] = np.clip(reach, 0, 0.4 * self.edges[i].length)
        return trims

    def _direction(self, edge: int, forward: bool, near: float) -> np.ndarray:
        line = self.edges[edge].line if forward else self.edges[edge].line[::-1]
        d = polyline.at(line, np.array(near)) - line[0]
        return d / max(float(np.hypot(*d)), 1e-9)

    def exits(self, edge: int, forward: bool) -> list[tuple[int, bool, float]]:
        """Return the (edge, forward, turn in radians) that traffic leaving an edge may take; no U-turns."""
        node = self.edges[edge].end if forward else self.edges[edge].start
        arriving = -self._direction(edge, not forward, near=12.0)
        choices = []
        for j, j_forward in self.at_node[node]:
            if j == edge or (self.edges[j].one_way and not j_forward):
                continue
            d = self._direction(j, j_forward, near=12.0)
            turn = float(np.arctan2(arriving[0] * d[1] - arriving[1] * d[0], arriving @ d))
            if abs(turn) < np.radians(120):
                choices.append((j, j_forward, turn))
        return choices
