"""What the node publishes. Everything carries the stamp of the image or odometry that it comes from, never "now".

Work that only a viewer needs is done only while somebody subscribes, and in threads of its own (`visuals`).
"""

from __future__ import annotations

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import NavSatFix

from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.imagery import ImageryError, SatelliteMap
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.localization.types import Frame, Localization
from cvloc_ros.ros import conversions, frame_status, qos
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.health import Health, blame
from cvloc_ros.ros.publishers import Publishers, is_wanted
from cvloc_ros.ros.tf import Transforms
from cvloc_ros.ros.tf_output import TfOutput
from cvloc_ros.ros.visuals import Visuals


class Outputs:
    """All publishers of the configured node."""

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        *,
        datum: LocalFrame,
        session: LocalizationSession,
        satellite_map: SatelliteMap,
        transforms: Transforms,
        health: Health,
    ) -> None:
        """Advertise everything and publish the datum."""
        self._node, self._config, self._datum = node, config, datum
        self._session, self._health = session, health
        self._tf = TfOutput(node, config, transforms=transforms, health=health)
        self._publishers = Publishers(node, health)
        advertise = self._publishers.advertise
        self._pose = advertise(PoseWithCovarianceStamped, "~/pose")
        self._prior = advertise(PoseWithCovarianceStamped, "~/prior")
        self._odometry = advertise(Odometry, "~/odometry")
        self._fix = advertise(NavSatFix, "~/fix")
        self._frame_status = advertise(DiagnosticArray, "~/frame_status")
        origin = conversions.to_fix(SE2(), np.zeros((2, 2)), datum=datum, stamp=0, frame_id=config.frames.map)
        advertise(NavSatFix, "~/datum", qos.LATCHED).publish(origin)
        self._visuals = Visuals(
            node,
            self._publishers,
            satellite_map=satellite_map,
            open_map=lambda: SatelliteMap.open(config.imagery, datum),
            frame_id=config.frames.map,
            satellite=config.visuals.satellite,
            state=lambda: session.status().state.value,
            on_error=self._drawing_failed,
            on_fine=lambda: health.fine("outputs", "drawing"),
        )

    def close(self) -> None:
        """Withdraw all publishers."""
        self._visuals.close()
        self._publishers.close()

    def reset(self) -> None:
        """Begin a new drive."""
        self._visuals.reset()

    def localization(self, localization: Localization) -> None:
        """Publish the pose, if it was accepted, and where the search began."""
        stamp, frame_id = localization.stamp, self._config.frames.map
        if localization.accepted:
            self._pose.publish(
                conversions.to_pose_with_covariance(
                    localization.T_map_base, localization.covariance, stamp=stamp, frame_id=frame_id
                )
            )
        if is_wanted(self._prior):
            prior = localization.prior
            self._prior.publish(
                conversions.to_pose_with_covariance(prior.T_map_base, prior.covariance, stamp=stamp, frame_id=frame_id)
            )

    def frame_status(self, record: FrameRecord) -> None:
        """Publish everything about one image, also if it was not tried."""
        if is_wanted(self._frame_status):
            self._frame_status.publish(frame_status.encode(record, frame_id=self._config.frames.map))

    def picture(self, frame: Frame, localization: Localization) -> None:
        """Show what was matched, if anybody looks; in a thread of its own."""
        self._visuals.frame(frame, localization)

    def fix(self, position: np.ndarray, stamp: int) -> None:
        """Show a GNSS fix, (2,) metres in the map."""
        self._visuals.fix(position, stamp)

    def odometry(self, message: Odometry, stamp: int) -> None:
        """Publish the fused estimate at an odometry message's stamp: TF, odometry, fix; and show it."""
        known, status = self._session.pose(stamp), self._session.status()
        if known is None or status.T_map_odom is None:
            return
        pose, covariance = known
        frames = self._config.frames
        self._tf.publish(pose, status.T_map_odom, stamp=stamp, odom_frame=message.header.frame_id)
        if is_wanted(self._odometry):
            self._odometry.publish(
                conversions.to_odometry(
                    pose,
                    covariance,
                    stamp=stamp,
                    frame_id=frames.map,
                    child_frame_id=frames.base,
                    twist=message.twist,
                )
            )
        if is_wanted(self._fix):
            self._fix.publish(
                conversions.to_fix(pose, covariance, datum=self._datum, stamp=stamp, frame_id=frames.base)
            )
        self._visuals.pose(pose, covariance, stamp=stamp)

    def _drawing_failed(self, error: Exception) -> None:
        if not self._node.context.ok():  # ROS has been shut down under the last picture
            return
        if isinstance(error, ImageryError):
            self._health.report("imagery", "unreadable", str(error))
        else:
            self._health.report("outputs", "drawing", f"a picture could not be drawn: {blame(error)}")
