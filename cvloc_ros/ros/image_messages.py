"""The messages that the node publishes of every image, as the bytes that leave it: what publishing costs."""

from __future__ import annotations

from rclpy.serialization import serialize_message

from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.localization.types import Localization
from cvloc_ros.ros import frame_status
from cvloc_ros.ros.conversions import to_pose_with_covariance


def serialize(localization: Localization) -> list[bytes]:
    """Return ``~/pose``, ``~/prior`` and ``~/frame_status``, as they are while the tracker follows."""
    stamp, prior = localization.stamp, localization.prior
    pose, covariance = localization.T_map_base, localization.covariance
    record = FrameRecord(
        stamp,
        localization.accepted,
        localization.reason,
        prior=prior,
        estimate=pose,
        covariance=covariance,
        quality=localization.quality,
        fused=pose,
        fused_covariance=covariance,
        state="tracking",
        milliseconds=localization.milliseconds,
    )
    messages = (
        to_pose_with_covariance(pose, covariance, stamp=stamp, frame_id="map"),
        to_pose_with_covariance(prior.T_map_base, prior.covariance, stamp=stamp, frame_id="map"),
        frame_status.encode(record, frame_id="map"),
    )
    return [serialize_message(message) for message in messages]
