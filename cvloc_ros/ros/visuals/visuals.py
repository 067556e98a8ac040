"""The viewers' topics: what is wanted of each, and the two threads in which it is made.

Neither the thread that localizes nor the executor's draws anything: they hand over what they have, if somebody
subscribes, and go on. One thread makes what belongs to an image (~/bev, ~/matches, ~/markers, ~/debug/overlay) from
the newest one; the other one, once a second, what lies on the map (~/satellite_tiles, ~/satellite_points, ~/path and
the track of fixes). So slow imagery holds up neither localization nor pictures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from cvloc_ros.evaluation.pictures import OVERLAY_GRID, draw_overlay
from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.types import Frame, Localization
from cvloc_ros.ros import conversions
from cvloc_ros.ros.publishers import Publishers, is_wanted
from cvloc_ros.ros.visuals import markers
from cvloc_ros.ros.visuals.cloud import bev_cloud
from cvloc_ros.ros.visuals.satellite import SatelliteView
from cvloc_ros.ros.visuals.track import Track
from cvloc_ros.ros.worker import NewestWorker

_MAP_PERIOD = 1.0  # seconds of real time
_PATH_STEP, _PATH_LENGTH = 1.0, 1000  # metres between poses at first, poses at most: 80 kB a message
_GNSS_STEP, _GNSS_LENGTH = 1.0, 500


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the vehicle is thought to be: metres in the map, and the covariance (3, 3); None if it is only a fix."""

    x: float
    y: float
    covariance: np.ndarray | None
    stamp: int


class Visuals:
    """Publishes what people look at; see the module's docstring."""

    def __init__(
        self,
        node: Node,
        publishers: Publishers,
        *,
        satellite_map: SatelliteMap,
        open_map: Callable[[], SatelliteMap],
        frame_id: str,
        satellite: str,
        state: Callable[[], str],
        on_error: Callable[[Exception], None],
        on_fine: Callable[[], None],
    ) -> None:
        """Advertise and start the threads.

        Args:
            node: reads the parameter ``visuals.period`` from it.
            publishers: where to advertise.
            satellite_map: the localizer's; match pictures show what it has looked at.
            open_map: opens the imagery once more, for tiles and points.
            frame_id: the map's.
            satellite: "both", "tiles", "points" or "none": how the satellite image may be had.
            state: returns the tracker's state.
            on_error: is called with what goes wrong in the threads.
            on_fine: is called when pictures have gone out, and while nobody wants any.

        """
        self._node, self._map, self._frame_id, self._state = node, satellite_map, frame_id, state
        self._on_fine = on_fine
        advertise = publishers.advertise
        self._overlay = advertise(Image, "~/debug/overlay")
        self._bev = advertise(PointCloud2, "~/bev")
        self._matches = advertise(MarkerArray, "~/matches")
        self._markers = advertise(MarkerArray, "~/markers")
        self._path = advertise(Path, "~/path")
        self._satellite = SatelliteView(
            node, publishers, open_map=open_map, frame_id=frame_id, wanted=satellite, publish=self._publish
        )
        self.built: Counter[str] = Counter()
        """How many messages were made, by topic."""
        self._drawn = -np.inf  # when a frame was last handed over, time.monotonic()
        self._place: _Place | None = None
        self._travelled: Track[PoseStamped] = Track(step=_PATH_STEP, most=_PATH_LENGTH)
        self._fixes: Track[Point] = Track(step=_GNSS_STEP, most=_GNSS_LENGTH)

        def nothing() -> None:  # a picture that nobody needs any more
            pass

        self._frames: NewestWorker[tuple[Frame, Localization]] = NewestWorker(
            self._draw_frame, on_drop=nothing, on_error=on_error, name="visuals: frames"
        )
        self._maps: NewestWorker[_Place] = NewestWorker(
            self._draw_map, on_drop=nothing, on_error=on_error, name="visuals: map"
        )
        self._timer = node.create_timer(_MAP_PERIOD, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """End the threads; before the publishers are withdrawn."""
        self._node.destroy_timer(self._timer)
        self._frames.stop()
        self._maps.stop()

    def reset(self) -> None:
        """Begin a new drive: tracks are forgotten, and viewers, who forget their markers, get them again."""
        self._place = None
        self._frames.clear()
        self._maps.clear()
        self._travelled.clear()
        self._fixes.clear()
        self._satellite.reset()

    # The thread that localizes

    def frame(self, frame: Frame, localization: Localization) -> None:
        """Hand over an image and what was found, if anybody looks and the last one is old enough."""
        now = time.monotonic()
        due = now - self._drawn >= self._node.get_parameter("visuals.period").value
        if due and self._is_frame_wanted():
            self._drawn = now
            self._frames.put((frame, localization))

    # The executor's thread

    def pose(self, pose: SE2, covariance: np.ndarray, *, stamp: int) -> None:
        """Take in the fused pose and its covariance (3, 3)."""
        self._place = _Place(pose.x, pose.y, covariance, stamp)
        self._travelled.extend(
            pose.x, pose.y, lambda: conversions.to_pose_stamped(pose, stamp=stamp, frame_id=self._frame_id)
        )

    def fix(self, position: np.ndarray, stamp: int) -> None:
        """Take in a GNSS fix, (2,) metres in the map."""
        x, y = (float(value) for value in position)
        if self._place is None or self._place.covariance is None:
            self._place = _Place(x, y, None, stamp)
        self._fixes.extend(x, y, lambda: markers.gnss_point(x, y))

    def _tick(self) -> None:
        wanted = self._satellite.is_wanted() or is_wanted(self._path) or is_wanted(self._markers)
        if self._place is not None and wanted:
            self._maps.put(self._place)
        elif not wanted and not self._is_frame_wanted():
            self._on_fine()

    def _is_frame_wanted(self) -> bool:
        return any(is_wanted(topic) for topic in (self._overlay, self._bev, self._matches, self._markers))

    # The frames' own thread

    def _draw_frame(self, seen: tuple[Frame, Localization]) -> None:
        frame, localization = seen
        if is_wanted(self._markers):
            self._publish_markers(self._markers, markers.pose_markers(localization, frame_id=self._frame_id))
        if is_wanted(self._matches):
            self._publish_markers(self._matches, markers.match_markers(localization, frame_id=self._frame_id))
        if is_wanted(self._bev):
            self._publish(self._bev, bev_cloud(frame, localization, frame_id=self._frame_id))
        if is_wanted(self._overlay):
            patch = self._map.patch(localization.prior.T_map_base, OVERLAY_GRID)
            picture = draw_overlay(frame, patch, localization, state=self._state(), credit=self._map.attribution)
            message = conversions.to_image(picture, stamp=localization.stamp, frame_id=self._frame_id)
            self._publish(self._overlay, message)
        self._on_fine()

    # The map's own thread

    def _draw_map(self, place: _Place) -> None:
        if is_wanted(self._path):
            header = conversions.header(place.stamp, self._frame_id)
            self._publish(self._path, Path(header=header, poses=self._travelled.items()))
        if is_wanted(self._markers):
            text = markers.state_marker(
                self._state(), place.x, place.y, covariance=place.covariance, frame_id=self._frame_id
            )
            track = markers.gnss_marker(self._fixes.items(), frame_id=self._frame_id)
            self._publish_markers(self._markers, [text, track])
        self._satellite.update(place.x, place.y)
        self._on_fine()

    def _publish_markers(self, topic: Publisher, content: list[Marker]) -> None:
        self._publish(topic, MarkerArray(markers=content))

    def _publish(self, topic: Publisher, message: Any) -> None:
        topic.publish(message)
        self.built[topic.topic_name.rsplit("/", 1)[-1]] += 1
