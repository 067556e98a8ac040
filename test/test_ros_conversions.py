"""Messages to the package's types and back, the TF tree, and parameters."""

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, NavSatFix
from tf2_msgs.msg import TFMessage

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import camera_of, fix_event, planar_covariance, pose_matrix
from cvloc_ros.datasets.transform_tree import MissingTransform, TransformTree
from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.localization.types import Prior
from cvloc_ros.ros import conversions, frame_status
from cvloc_ros.ros.images import from_compressed_image, from_image


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)


def image_message(data, encoding, *, step, bigendian=0):
    message = Image(height=data.shape[0], width=data.shape[1], encoding=encoding, step=step, is_bigendian=bigendian)
    message.data = data.tobytes()
    return message


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0])],
)
def test_color_images_with_padded_rows(rgb, encoding, order):
    padded = np.zeros((6, 10, len(order)), np.uint8)
    padded[:, :8] = rgb[..., order]
    message = Image(height=6, width=8, encoding=encoding, step=10 * len(order), data=padded.tobytes())
    assert (from_image(message) == rgb).all()


def test_grey_images_become_grey_rgb(rgb):
    grey = rgb[..., 0]
    assert (from_image(image_message(grey, "mono8", step=8)) == grey[..., None]).all()
    wide = grey.astype(np.uint16) * 256 + 7
    assert (from_image(image_message(wide.astype("<u2"), "mono16", step=16)) == grey[..., None]).all()
    assert (from_image(image_message(wide.astype(">u2"), "16UC1", step=16, bigendian=1)) == grey[..., None]).all()


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_have_their_colors_in_the_right_places(pattern):
    channel = {"r": 0, "g": 1, "b": 2}
    color = np.array([200, 120, 40], np.uint8)
    mosaic = np.zeros((16, 16), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = color[channel[letter]]
    image = from_image(image_message(mosaic, f"bayer_{pattern}8", step=16))
    assert (image[4:12, 4:12] == color).all()


def test_yuv_images():
    uyvy = np.tile(np.array([128, 90], np.uint8), (4, 8)).reshape(4, 8, 2)  # grey
    image = from_image(image_message(uyvy, "yuv422", step=16))
    assert image.shape == (4, 8, 3) and np.ptp(image) <= 1


def test_compressed_images(rgb):
    smooth = cv2.resize(rgb, (64, 48), interpolation=cv2.INTER_CUBIC)
    for extension, tolerance in ((".png", 0), (".jpg", 12)):
        data = cv2.imencode(extension, smooth[..., ::-1])[1].tobytes()
        difference = from_compressed_image(CompressedImage(data=data)).astype(int) - smooth
        assert np.abs(difference).mean() <= tolerance


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Image(height=4, width=4, encoding="rgb8", step=12, data=bytes(20)), "cut off"),
        (Image(height=4, width=4, encoding="rgb8", step=4, data=bytes(48)), "step >= 12"),
        (Image(height=4, width=4, encoding="32FC3", step=48, data=bytes(192)), "got encoding '32FC3'"),
        (Image(encoding="rgb8"), "empty"),
    ],
)
def test_useless_images_say_why(message, complaint):
    with pytest.raises(ConversionError, match=complaint):
        from_image(message)


def test_useless_compressed_images_say_why():
    for data in (b"", b"not an image"):
        with pytest.raises(ConversionError, match="do not decode"):
            from_compressed_image(CompressedImage(data=data, format="jpeg"))


def info(**fields):
    return CameraInfo(width=640, height=480, k=[500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0], **fields)


def test_camera_info_with_region_and_binning():
    message = info(d=[0.1, -0.05, 0.0, 0.0, 0.0], distortion_model="plumb_bob")
    assert camera_of(message).distortion == (0.1, -0.05, 0.0, 0.0, 0.0)
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 80, 400, 200
    message.binning_x = message.binning_y = 2
    camera = camera_of(message)
    assert (camera.width, camera.height) == (200, 100)
    assert np.allclose(camera.K, [[250, 0, 109.75], [0, 255, 79.75], [0, 0, 1]])


def test_camera_info_of_rectified_images():
    message = info(d=[0.1, 0.0, 0.0, 0.0, 0.0], distortion_model="plumb_bob")
    message.p = [450.0, 0.0, 310.0, -12.0, 0.0, 450.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    camera = camera_of(message, rectified=True)
    assert camera.K[0, 0] == 450 and not camera.is_distorted


def test_useless_camera_infos_say_why():
    with pytest.raises(ConversionError, match="K = 0"):
        camera_of(CameraInfo(width=640, height=480))
    with pytest.raises(ConversionError, match="got 'mei'"):
        camera_of(info(d=[0.1, 0.0, 0.0, 0.0], distortion_model="mei"))
    with pytest.raises(ConversionError, match="image size"):
        message = info()
        message.width = 0
        camera_of(message)


def test_stamps_are_exact():
    for nanoseconds in (0, 1, 999_999_999, 1_750_000_025_123_456_789):
        assert conversions.to_nanoseconds(conversions.to_stamp(nanoseconds)) == nanoseconds


@pytest.mark.parametrize("yaw", [-3.1, -1.0, 0, 0.5, 2.9])
def test_poses_survive_the_wire(yaw):
    message = conversions.to_pose_with_covariance(SE2(3, -4, yaw), np.diag([1.0, 2.0, 3.0]), stamp=5, frame_id="map")
    message = deserialize_message(serialize_message(message), type(message))
    pose = SE2.from_matrix(pose_matrix(message.pose.pose))
    assert np.allclose(pose.vector(), [3, -4, yaw])


def test_covariance_keeps_its_cross_terms_and_leaves_the_rest_zero():
    covariance = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.5]])
    full = np.array(conversions.to_covariance(covariance)).reshape(6, 6)
    assert np.count_nonzero(full) == 9 and full[0, 5] == 0.1 and full[5, 1] == -0.2
    assert (planar_covariance(full.ravel()) == covariance).all()


def test_useless_covariances():
    with pytest.raises(ConversionError, match="finite"):
        conversions.to_covariance(np.full((3, 3), np.nan))
    indefinite = np.array([[1.0, 5.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ConversionError, match="in all directions"):
        conversions.to_covariance(indefinite)
    full = np.zeros((6, 6))
    full[np.ix_([0, 1, 5], [0, 1, 5])] = indefinite
    assert planar_covariance(full.ravel()) is None
    line = np.outer([1.0, 2.0, 0.3], [1.0, 2.0, 0.3])  # no variance across it, but for rounding
    assert conversions.to_covariance(line)[0] == 1.0 and conversions.to_covariance(np.zeros((3, 3))) == [0.0] * 36
    assert planar_covariance(np.zeros(36)) is None
    assert planar_covariance(np.full(36, -1.0)) is None


def test_fix_in_and_out():
    datum = LocalFrame(48.2, 16.37, 170.0)
    message = conversions.to_fix(SE2(30, -20, 0), np.diag([4.0, 9.0, 1.0]), datum=datum, stamp=7, frame_id="base_link")
    fix = fix_event(deserialize_message(serialize_message(message), NavSatFix))
    assert np.allclose(datum.to_enu(fix.latitude, fix.longitude), [30, -20], atol=1e-3)
    assert (fix.covariance == np.diag([4.0, 9.0])).all() and fix.stamp == 7


def test_fix_of_a_receiver_that_knows_no_altitude():
    message = NavSatFix(latitude=48.0, longitude=16.0, altitude=np.nan)
    message.status.status = 0
    assert fix_event(message).altitude == 0.0, "a datum of it could not be written as JSON"


def test_fix_without_covariance_or_without_fix():
    message = NavSatFix(latitude=1.0, longitude=2.0)
    message.status.status = 0
    assert fix_event(message).covariance is None
    message.latitude = float("nan")
    with pytest.raises(ConversionError, match="finite"):
        fix_event(message)
    message.status.status = -1
    with pytest.raises(ConversionError, match="no fix"):
        fix_event(message)


def test_fix_of_unknown_status_is_vouched_for_by_its_covariance():
    message = NavSatFix(latitude=1.0, longitude=2.0)
    message.status.status = -2  # what a message that nobody has filled in says since Jazzy
    with pytest.raises(ConversionError, match="no covariance vouches for the position"):
        fix_event(message)
    message.position_covariance = np.diag([4.0, 4.0, 9.0]).ravel()
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
    np.testing.assert_allclose(fix_event(message).covariance, np.diag([4.0, 4.0]))
    message.latitude = message.longitude = 0.0
    with pytest.raises(ConversionError, match="expected a place in degrees"):
        fix_event(message)


def edge(parent, child, *, x=0.0, yaw=0.0):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.transform.translation = Vector3(x=x)
    message.transform.rotation = Quaternion(z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))
    return message


def test_transforms_compose_through_chains_and_branches():
    tree = TransformTree()
    for message in (edge("/base_link", "mast", x=1.0, yaw=np.pi / 2), edge("mast", "camera", x=2.0)):
        tree.update(message, static=True)
    tree.update(edge("base_link", "gnss", x=-0.5), static=True)
    assert np.allclose(tree.lookup("base_link", "camera")[:3, 3], [1, 2, 0])
    assert np.allclose(tree.lookup("gnss", "/camera")[:3, 3], [1.5, 2, 0])
    assert np.allclose(tree.lookup("camera", "base_link") @ tree.lookup("base_link", "camera"), np.eye(4))


def test_missing_transform_names_both_ends_and_what_they_hang_from():
    tree = TransformTree()
    tree.update(edge("camera_link", "camera_optical"), static=True)
    tree.update(edge("odom", "base_link"), static=False)
    with pytest.raises(MissingTransform) as error:
        tree.lookup("base_link", "camera_optical")
    text = str(error.value)
    assert "'camera_optical' (which hangs from 'camera_link')" in text
    assert "'base_link' (which hangs from 'odom')" in text
    tree.clear_moving()
    with pytest.raises(MissingTransform, match="known frames: camera_link, camera_optical"):
        tree.lookup("base_link", "camera_optical")


def test_loop_of_transforms_ends():
    tree = TransformTree()
    tree.update(edge("a", "b"), static=True)
    tree.update(edge("b", "a"), static=True)
    with pytest.raises(MissingTransform):
        tree.lookup("base_link", "a")


def test_broken_quaternion_is_refused():
    message = edge("a", "b")
    message.transform.rotation = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(ConversionError, match="unit quaternion"):
        TransformTree().update(message, static=True)


def test_generated_tf2_msgs_survives_the_wire():
    message = TFMessage(transforms=[edge("map", "odom", x=3.5, yaw=1.0)])
    assert deserialize_message(serialize_message(message), TFMessage) == message


def test_frame_status_carries_a_record_exactly():
    covariance = np.random.default_rng(1).normal(size=(3, 3))
    covariance = covariance @ covariance.T
    record = FrameRecord(
        stamp=1_750_000_000_123_456_789,
        accepted=False,
        reason="low_quality",
        prior=Prior(SE2(1 / 3, -2e-7, 0.1), covariance),
        estimate=SE2(12345.678901234, 0.1, -3.0),
        covariance=2 * covariance,
        quality=0.123456789,
        state="tracking",
        milliseconds={"match": 12.5, "total": 20.125},
    )
    back = frame_status.decode(frame_status.encode(record, frame_id="map"))
    assert back.estimate == record.estimate and back.prior.T_map_base == record.prior.T_map_base
    assert (back.covariance == record.covariance).all() and (back.prior.covariance == covariance).all()
    for name in ("stamp", "accepted", "reason", "quality", "state", "milliseconds", "fused"):
        assert getattr(back, name) == getattr(record, name)
    waiting = FrameRecord(1, False, "waiting", state="waiting")
    assert frame_status.decode(frame_status.encode(waiting, frame_id="map")).estimate is None
