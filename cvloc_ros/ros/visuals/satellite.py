"""The satellite image for viewers: what each of them has, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.ros import qos
from cvloc_ros.ros.publishers import Publishers, is_wanted
from cvloc_ros.ros.visuals.cloud import satellite_cloud
from cvloc_ros.ros.visuals.tiles import SatelliteTiles

_POINTS_STEP = 25.0  # metres of travel after which the points are those around the new place


class SatelliteView:
    """~/satellite_tiles and ~/satellite_points, for who subscribes.

    It reads the imagery on its own, when it is first needed: what lies further away than the localizer looks must not
    take the place of what the localizer needs, nor make it wait.
    """

    def __init__(
        self,
        node: Node,
        publishers: Publishers,
        *,
        open_map: Callable[[], SatelliteMap],
        frame_id: str,
        wanted: str,
        publish: Callable[[Publisher, Any], None],
    ) -> None:
        """Advertise what is ``wanted``: "both", "tiles", "points" or "none"; messages go through ``publish``."""
        self._node, self._open_map, self._frame_id, self._publish = node, open_map, frame_id, publish
        self._tiles_topic = self._points_topic = None
        if wanted in ("both", "tiles"):
            self._tiles_topic = publishers.advertise(MarkerArray, "~/satellite_tiles", qos.LATCHED)
        if wanted in ("both", "points"):
            self._points_topic = publishers.advertise(PointCloud2, "~/satellite_points", qos.LATCHED)
        self._viewers: set[tuple[int, ...]] = set()
        self._resets, self._resets_served = 0, -1
        self._centre: tuple[float, float, int] | None = None  # of the points, and at which reset they were sent

    def is_wanted(self) -> bool:
        """Whether anybody subscribes."""
        return any(topic is not None and is_wanted(topic) for topic in (self._tiles_topic, self._points_topic))

    def reset(self) -> None:
        """Send everything again: viewers forget what they have when time jumps back."""
        self._resets += 1

    def update(self, x: float, y: float) -> None:
        """Bring the viewers up to date, with the vehicle at (x, y) in the map.

        Raises:
            ImageryError: the imagery could not be read; the next call tries again.

        """
        if self._tiles_topic is not None and is_wanted(self._tiles_topic):
            self._update_tiles(self._tiles_topic, x, y)
        if self._points_topic is not None and is_wanted(self._points_topic):
            self._update_points(self._points_topic, x, y)

    @cached_property
    def _map(self) -> SatelliteMap:
        return self._open_map()

    @cached_property
    def _tiles(self) -> SatelliteTiles:
        return SatelliteTiles(self._map, frame_id=self._frame_id)

    def _update_tiles(self, topic: Publisher, x: float, y: float) -> None:
        # Who comes late has only the last message, not all tiles; counting would miss one who takes another's place.
        subscribers = self._node.get_subscriptions_info_by_topic(topic.topic_name)
        viewers = {tuple(subscriber.endpoint_gid) for subscriber in subscribers}
        resets = self._resets
        again = resets != self._resets_served or bool(viewers - self._viewers)
        self._resets_served = -1  # should anything fail before the end, all is sent again
        changes = self._tiles.move(x, y)
        if again:
            changes = self._tiles.all()
        if changes:
            self._publish(topic, MarkerArray(markers=changes))
        self._resets_served, self._viewers = resets, viewers

    def _update_points(self, topic: Publisher, x: float, y: float) -> None:
        resets = self._resets
        if self._centre is not None:
            last_x, last_y, served = self._centre
            if served == resets and np.hypot(x - last_x, y - last_y) < _POINTS_STEP:
                return
        self._publish(topic, satellite_cloud(self._map, x, y, frame_id=self._frame_id))
        self._centre = (x, y, resets)
