"""A viewer without a window: keeps what RViz would show, by RViz's rules, so that it can be checked and drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from nav_msgs.msg import Path
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from cvloc_ros.datasets.image_decoding import decode_file
from cvloc_ros.ros import qos
from cvloc_ros.ros.conversions import to_nanoseconds
from cvloc_ros.ros.images import from_image

TOPICS: dict[str, tuple[type, Any]] = {
    "satellite_tiles": (MarkerArray, qos.LATCHED),
    "satellite_points": (PointCloud2, qos.LATCHED),
    "bev": (PointCloud2, qos.OUTPUT),
    "matches": (MarkerArray, qos.OUTPUT),
    "markers": (MarkerArray, qos.OUTPUT),
    "path": (Path, qos.OUTPUT),
    "debug/overlay": (Image, qos.OUTPUT),
}
"""What can be looked at, under the node's name."""


class Scene:
    """What a viewer has been told so far.

    Attributes:
        markers: by topic, namespace and id, as they are after all additions and deletions.
        clouds: the newest of each topic.
        path: the newest.
        overlay: the newest match picture, RGB uint8 (H, W, 3).
        overlay_stamp: of its image, nanoseconds.
        problems: what RViz would complain of, or show wrong.

    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.markers: dict[str, dict[tuple[str, int], Marker]] = {}
        self.clouds: dict[str, PointCloud2] = {}
        self.path: Path | None = None
        self.overlay: np.ndarray | None = None
        self.overlay_stamp = 0
        self.problems: list[str] = []

    def subscribe(self, node: Node, *, name: str = "/cvloc", topics: tuple[str, ...] = tuple(TOPICS)) -> None:
        """Follow the topics of a node of some name."""
        for topic in topics:
            message_type, profile = TOPICS[topic]
            node.create_subscription(message_type, f"{name}/{topic}", self._receiver(topic), profile)

    def all_markers(self) -> list[Marker]:
        """Return all markers of all topics."""
        return [marker for markers in self.markers.values() for marker in markers.values()]

    def image_stamp(self) -> int | None:
        """Return the stamp of the image that all is of, nanoseconds; None while parts are missing or of another one."""
        parts = [self.markers.get("markers", {}).get(("estimate", 0)), self.clouds.get("bev")]
        parts.append(self.markers.get("matches", {}).get(("lines", 0)))
        stamps = {self.overlay_stamp, *(to_nanoseconds(part.header.stamp) if part else None for part in parts)}
        return self.overlay_stamp if stamps == {self.overlay_stamp} else None

    def copy(self) -> Scene:
        """Return the scene as it is now."""
        other = copy.copy(self)
        other.markers = {topic: dict(markers) for topic, markers in self.markers.items()}
        other.clouds, other.problems = dict(self.clouds), list(self.problems)
        return other

    def take(self, topic: str, message: Any) -> None:
        """Take in a message of a topic."""
        if isinstance(message, MarkerArray):
            self._apply(topic, message)
        elif isinstance(message, PointCloud2):
            self.clouds[topic] = message
        elif isinstance(message, Path):
            self.path = message
        else:
            self.overlay, self.overlay_stamp = from_image(message), to_nanoseconds(message.header.stamp)

    def _receiver(self, topic: str) -> Callable[[Any], None]:
        return lambda message: self.take(topic, message)

    def _apply(self, topic: str, array: MarkerArray) -> None:
        shown = self.markers.setdefault(topic, {})
        keys = [(marker.ns, marker.id) for marker in array.markers]
        if len(set(keys)) < len(keys):
            self.problems.append(f"{topic}: an array has two markers with the same namespace and id")
        for key, marker in zip(keys, array.markers, strict=True):
            if marker.action == Marker.DELETEALL:
                shown.clear()  # older releases do not look at the namespace
            elif marker.action == Marker.DELETE:
                if shown.pop(key, None) is None:
                    self.problems.append(f"{topic}: {key} is deleted but was not there")
            else:
                if marker.texture_resource and key in shown:
                    self.problems.append(f"{topic}: the textured {key} is sent twice and becomes darker")
                shown[key] = marker


def draw_textures(markers: list[Marker], *, west: float, north: float, rows: int, cols: int, cell: float) -> np.ndarray:
    """Draw textured triangles from above as RViz does.

    Args:
        markers: those without a texture are left out.
        west: of the picture's upper left corner, metres.
        north: of the picture's upper left corner, metres.
        rows: of the picture.
        cols: of the picture.
        cell: metres a pixel.

    Returns:
        RGB uint8 (rows, cols, 3), black where nothing is, and where triangles face down.

    """
    canvas = np.zeros((rows, cols, 3), np.uint8)
    for marker in markers:
        if not marker.texture_resource.startswith("embedded://") or marker.type != Marker.TRIANGLE_LIST:
            continue
        texture = decode_file(np.frombuffer(marker.texture.data, np.uint8))
        tint = np.array([marker.color.r, marker.color.g, marker.color.b])
        places = np.array([[point.x, point.y] for point in marker.points])
        # A texture coordinate of 0 is the outer border of the first pixel, whose centre OpenCV calls 0.
        size = np.array([texture.shape[1], texture.shape[0]])
        texels = np.array([[uv.u, uv.v] for uv in marker.uv_coordinates]) * size - 0.5
        pixels = (places - [west, north]) / [cell, -cell] - 0.5
        for i in range(0, len(places), 3):
            a, b, c = places[i : i + 3]
            facing_up = np.linalg.det([b - a, c - a]) > 0
            M = cv2.getAffineTransform(texels[i : i + 3].astype(np.float32), pixels[i : i + 3].astype(np.float32))
            drawn = cv2.warpAffine(texture, M, (cols, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            inside = np.zeros((rows, cols), np.uint8)
            cv2.fillConvexPoly(inside, np.round(pixels[i : i + 3] * 16).astype(np.int32), 1, shift=4)
            canvas[inside > 0] = (drawn * tint * facing_up)[inside > 0].astype(np.uint8)
    return canvas
