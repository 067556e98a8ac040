"""Bags: what was recorded is read back, topics are found or named, and what is missing is said."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_rewriting import STORE, rewrite
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_topics import BagError
from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.town.bag_writer import TOPICS, write_drive_bag
from cvloc_ros.datasets.town.drive import record
from cvloc_ros.datasets.town.motion import follow
from cvloc_ros.geometry import LocalFrame, PinholeCamera, camera_extrinsics

CAMERA = PinholeCamera(160, 48, np.array([[90.0, 0, 80.5], [0, 91, 23], [0, 0, 1]]), (-0.1, 0.02, 0.001, 0.0, 0.0))
MOUNT = camera_extrinsics(height=1.65, x=1.2, y=-0.1, yaw=0.02, pitch=0.06, roll=-0.01)
ODOMETRY, FIX = "nav_msgs/msg/Odometry", "sensor_msgs/msg/NavSatFix"


class Clouds:
    """Renders a smooth image that changes with time."""

    def render(self, T_map_base, seconds):
        u, v = np.meshgrid(np.linspace(0, 6, CAMERA.width), np.linspace(0, 3, CAMERA.height))
        return np.uint8(127 + 100 * np.stack([np.sin(u + seconds), np.cos(v + u), np.sin(v - seconds)], -1))


@pytest.fixture(scope="module")
def drive():
    route = np.array([[0, 0], [30, 0], [60, 20], [100, 30]], float)
    frame = LocalFrame(48.2, 16.3, 181.5)
    trajectory = follow(route, duration=2.0, cruise=9.0)
    return record(trajectory, Clouds(), frame, 3, camera=CAMERA, T_base_camera=MOUNT)


@pytest.fixture(scope="module")
def recorded(drive, tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "drive"
    write_drive_bag(path, drive, workers=1)
    return path


def of_type(events, kind):
    return [event for event in events if isinstance(event, kind)]


class TestRoundTrip:
    @pytest.mark.parametrize("custom", ['{notes: "wheels slip\\n\\nno imu"}', "{vehicle: car}", "[notes]", "null"])
    def test_what_the_bags_writer_says_of_it(self, recorded, custom, tmp_path):
        """Custom data of the metadata may be anything."""
        shutil.copytree(recorded, tmp_path / "bag")
        file = tmp_path / "bag/metadata.yaml"
        text = file.read_text()
        assert text.count("custom_data: null") == 1
        file.write_text(text.replace("custom_data: null", f"custom_data: {custom}"))
        expected = ("wheels slip", "no imu") if "slip" in custom else ()
        assert Bag.open(tmp_path / "bag").notes == expected

    def test_cameras_frames_and_datum(self, drive, recorded):
        bag = Bag.open(recorded)
        np.testing.assert_allclose(bag.camera.K, CAMERA.K)
        assert (bag.camera.width, bag.camera.height, bag.camera.distortion) == (160, 48, CAMERA.distortion)
        np.testing.assert_allclose(bag.T_base_camera, MOUNT, atol=1e-9)
        np.testing.assert_allclose(bag.gnss_lever_arm, [0.3, 0.2])
        assert bag.datum == drive.datum
        assert (bag.start, bag.end) == (drive.trajectory.stamps[0], drive.trajectory.stamps[-1])
        assert bag.notes == () and bag.base_frame == "base_link"

    def test_events(self, drive, recorded):
        bag = Bag.open(recorded)
        events = list(bag)
        assert [e.stamp for e in events] == sorted(e.stamp for e in events)
        for read, written in zip(of_type(events, OdometryEvent), drive.odometry, strict=True):
            assert read.stamp == written.stamp
            np.testing.assert_allclose(read.T_odom_base.vector(), written.T_odom_base.vector(), atol=1e-6)
            np.testing.assert_allclose(read.covariance, written.covariance)
            np.testing.assert_allclose(read.twist, written.twist)
            np.testing.assert_allclose(read.twist_covariance, written.twist_covariance)
        for read, written in zip(of_type(events, FixEvent), drive.fixes, strict=True):
            assert (read.stamp, read.frame_id) == (written.stamp, "gnss")
            assert (read.latitude, read.longitude) == (written.latitude, written.longitude)
            np.testing.assert_allclose(read.covariance, written.covariance)
        truth = of_type(events, TruthEvent)
        assert {int(stamp) for stamp in drive.image_stamps} <= {event.stamp for event in truth}
        for event in truth:
            expected = drive.trajectory.at(event.stamp)
            np.testing.assert_allclose(event.T_map_base.vector(), expected.T_map_base.vector(), atol=1e-6)
        images = of_type(events, ImageEvent)
        assert [event.stamp for event in images] == drive.image_stamps.tolist()
        for event in images:
            seconds = (event.stamp - bag.start) / 1e9
            frame = bag.frame(event)
            assert cv2.PSNR(frame.image, Clouds().render(None, seconds)) > 30
            assert frame.camera is bag.camera and frame.stamp == event.stamp

    def test_can_be_read_twice(self, recorded):
        bag = Bag.open(recorded)
        assert len(list(bag)) == len(list(bag)) > 50

    def test_latched_topics_are_recorded_as_such(self, recorded):
        with AnyReader([recorded]) as reader:
            durability = {c.topic: c.ext.offered_qos_profiles[0].durability for c in reader.connections}
        assert set(durability) == set(TOPICS)
        latched = {topic for topic, kind in durability.items() if kind == QosDurability.TRANSIENT_LOCAL}
        assert latched == {"/tf_static", "/datum"}

    def test_a_bare_file_and_sqlite3(self, recorded, tmp_path):
        assert len(list(Bag.open(recorded / "drive.mcap"))) == len(list(Bag.open(recorded)))
        sqlite = rewrite(recorded, tmp_path / "sqlite", storage=StoragePlugin.SQLITE3)
        assert len(list(Bag.open(sqlite))) == len(list(Bag.open(recorded)))


class TestTopics:
    def test_names_from_elsewhere_are_guessed(self, recorded, tmp_path):
        names = {
            "/camera/image/compressed": "/front/image_rect_color/compressed",
            "/camera/camera_info": "/front/camera_info",
            "/odom": "/wheels/state",
        }
        bag = Bag.open(rewrite(recorded, tmp_path / "bag", rename=names))
        assert bag.topics["odom"] == "/wheels/state"
        assert bag.camera.distortion == ()  # a rectified image: P counts, not K and D

    @pytest.mark.parametrize(
        "requested, message",
        [
            ({"image": "/nope"}, r"(?s)'/nope', but the bag has no such messages.*/camera/image/compressed"),
            ({"image": "/odom"}, "expected sensor_msgs/msg/Image or .*, got nav_msgs/msg/Odometry"),
            ({"picture": "/odom"}, "expected topics for image, .*, got one for picture"),
            ({"odom": ""}, "no odom topic"),
        ],
    )
    def test_wrong_requests(self, recorded, requested, message):
        with pytest.raises(BagError, match=message):
            Bag.open(recorded, topics=requested)

    def test_what_is_required_is_the_callers(self, recorded, tmp_path):
        cut = rewrite(recorded, tmp_path / "bag", drop=["/odom"])
        bag = Bag.open(cut, required=("image", "ground_truth"))
        assert bag.base_frame == "base_link" and "odom" not in bag.topics
        with pytest.raises(BagError, match="no odom topic"):
            Bag.open(cut)

    def test_some_roles_with_when_they_were_recorded(self, drive, recorded):
        read = list(Bag.open(recorded).recorded("image"))
        assert [(received, event.stamp) for received, event in read] == [(s, s) for s in drive.image_stamps.tolist()]
        assert all(isinstance(event, ImageEvent) for _, event in read)

    def test_a_role_can_be_left_out(self, recorded):
        bag = Bag.open(recorded, topics={"ground_truth": ""})
        assert not of_type(bag, TruthEvent) and of_type(bag, OdometryEvent)


class TestWhatIsMissing:
    def test_topics_are_named(self, recorded, tmp_path):
        cut = rewrite(recorded, tmp_path / "bag", drop=["/camera/image/compressed", "/odom"])
        with pytest.raises(BagError, match=r"no image topic .*no odom topic(.|\n)*/gnss/fix"):
            Bag.open(cut)

    def test_no_transform_of_the_camera(self, recorded, tmp_path):
        with pytest.raises(BagError, match="from base_link to 'camera_optical'.* are of nothing.*--mount"):
            Bag.open(rewrite(recorded, tmp_path / "bag", drop=["/tf_static"]))

    def test_a_mount_may_be_stated(self, recorded, tmp_path):
        cut = rewrite(recorded, tmp_path / "bag", drop=["/tf_static"])
        bag = Bag.open(cut, T_base_camera=MOUNT)
        frame = next(bag.frame(event) for event in bag if isinstance(event, ImageEvent))
        np.testing.assert_array_equal(frame.T_base_camera, MOUNT)
        elsewhere = camera_extrinsics(height=2.0)
        np.testing.assert_array_equal(Bag.open(recorded, T_base_camera=elsewhere).T_base_camera, elsewhere)

    def test_fixed_joints_may_be_published_on_tf(self, recorded, tmp_path):
        """Some robots send everything on /tf; the first transform counts, and the vehicle's own motion does not."""
        moved = iter(np.arange(1000.0))

        def drifting(message):
            for transform in message.transforms:
                transform.transform.translation.z += next(moved)

        with AnyReader([recorded]) as reader:
            static = next(
                STORE.deserialize_cdr(data, c.msgtype) for c, _, data in reader.messages() if c.topic == "/tf_static"
            )

        def with_joints(message):
            message.transforms.extend(static.transforms)
            drifting(message)

        bag = Bag.open(rewrite(recorded, tmp_path / "bag", drop=["/tf_static"], edit={"/tf": with_joints}))
        expected = MOUNT.copy()
        expected[2, 3] += 1  # the first message: odom -> base_link got 0, the camera 1, the antenna 3
        np.testing.assert_allclose(bag.T_base_camera, expected, atol=1e-9)
        np.testing.assert_allclose(bag.gnss_lever_arm, [0.3, 0.2])
        assert "'camera_optical': its first transform on /tf is taken for the whole drive" in bag.notes[0]

    def test_no_transform_of_the_antenna_is_noted(self, recorded, tmp_path):
        bag = Bag.open(rewrite(recorded, tmp_path / "bag", edit={"/tf_static": lambda m: m.transforms.pop()}))
        assert bag.gnss_lever_arm.tolist() == [0, 0]
        assert "no transform base_link -> 'gnss'" in bag.notes[0]

    def test_transforms_go_through_frames_in_between(self, recorded, tmp_path):
        def split(message):
            """base_link -> camera becomes mast -> base_link (inverted) and mast -> camera."""
            camera = message.transforms[0]
            camera.header.frame_id = "/mast"  # old recordings carry slashes
            camera.transform.translation.x += 1.0
            back = message.transforms[1]
            gnss = STORE.deserialize_cdr(STORE.serialize_cdr(back, back.__msgtype__), back.__msgtype__)
            back.header.frame_id, back.child_frame_id = "mast", "base_link"
            back.transform.translation.x, back.transform.translation.y, back.transform.translation.z = 1.0, 0.0, 0.0
            message.transforms.append(gnss)

        bag = Bag.open(rewrite(recorded, tmp_path / "bag", edit={"/tf_static": split}))
        np.testing.assert_allclose(bag.T_base_camera, MOUNT, atol=1e-9)
        np.testing.assert_allclose(bag.gnss_lever_arm, [0.3, 0.2])

    def test_without_a_datum_the_first_fix_is_it(self, recorded, tmp_path):
        first = iter([-1])

        def no_fix_at_first(message):
            message.status.status = next(first, 0)

        cut = rewrite(recorded, tmp_path / "bag", drop=["/datum"], edit={"/gnss/fix": no_fix_at_first})
        with pytest.raises(BagError, match="no datum that says where its map is"):
            Bag.open(cut)
        stated = LocalFrame(48.3, 16.4)
        assert Bag.open(cut, datum=stated).datum == stated
        assert Bag.open(recorded, datum=stated).datum == LocalFrame(48.2, 16.3, 181.5)
        bag = Bag.open(cut, topics={"ground_truth": ""}, datum=stated)
        fixes = of_type(bag, FixEvent)
        assert len(fixes) == len(of_type(Bag.open(recorded), FixEvent)) - 1
        assert (bag.datum.latitude, bag.datum.longitude) == (fixes[0].latitude, fixes[0].longitude)

    def test_unknown_covariances_are_none(self, recorded, tmp_path):
        def zero(message):
            message.pose.covariance = np.zeros(36)

        def unknown(message):
            message.position_covariance_type = 0

        bag = Bag.open(rewrite(recorded, tmp_path / "bag", edit={"/odom": zero, "/gnss/fix": unknown}))
        assert all(event.covariance is None for event in of_type(bag, (OdometryEvent, FixEvent)))

    def test_an_uncalibrated_camera(self, recorded, tmp_path):
        def uncalibrated(message):
            message.k = np.zeros(9)

        with pytest.raises(BagError, match="/camera/camera_info: expected a calibrated camera"):
            Bag.open(rewrite(recorded, tmp_path / "bag", edit={"/camera/camera_info": uncalibrated}))


class TestDamage:
    def test_no_bag_at_all(self, tmp_path):
        with pytest.raises(BagError, match="there is no"):
            Bag.open(tmp_path / "absent")
        with pytest.raises(BagError, match="no metadata.yaml"):
            Bag.open(tmp_path)

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
    def test_cut_off(self, recorded, tmp_path, share):
        shutil.copytree(recorded, tmp_path / "drive")
        file = tmp_path / "drive" / "drive.mcap"
        os.truncate(file, int(file.stat().st_size * share))
        with pytest.raises(BagError, match="is damaged or no bag.*repair"):
            Bag.open(tmp_path / "drive")

    def test_a_bad_message_is_left_out_and_counted(self, recorded, tmp_path):
        count = iter(range(1000))

        def wrong(message):
            if (i := next(count)) in (5, 9):
                message.pose.pose.orientation.w += 1.0 + i

        bag = Bag.open(rewrite(recorded, tmp_path / "bag", edit={"/odom": wrong}))
        for _ in range(2):
            assert len(of_type(bag, OdometryEvent)) == len(of_type(Bag.open(recorded), OdometryEvent)) - 2
            (note,) = bag.notes
            assert note.startswith("/odom: 2 unusable messages left out: expected a unit quaternion")

    def test_a_message_that_does_not_parse(self, recorded, tmp_path):
        with AnyReader([recorded]) as reader, Writer(tmp_path / "bag", version=9) as writer:
            topics = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=STORE) for c in reader.connections}
            for i, (connection, stamp, data) in enumerate(reader.messages()):
                cut = connection.topic == "/odom" and i > 20
                writer.write(topics[connection.topic], stamp, data[:40] if cut else data)
        bag = Bag.open(tmp_path / "bag")
        assert len(of_type(bag, ImageEvent)) == len(of_type(Bag.open(recorded), ImageEvent))
        assert bag.unusable["/odom", "it does not parse"] > 10

    def test_empty(self, tmp_path):
        with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            writer.add_connection("/odom", ODOMETRY, typestore=STORE)
        with pytest.raises(BagError, match="is empty"):
            Bag.open(tmp_path / "bag")


@pytest.mark.shared_data
def test_a_real_bag_without_images_says_so(shared_data):
    path: Path = shared_data / "bags" / "evo_nav2_turtlebot.mcap"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with pytest.raises(BagError, match=r"no image topic(.|\n)*/amcl_pose  geometry_msgs/msg/PoseWithCovarianceStamped"):
        Bag.open(path)
