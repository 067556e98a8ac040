"""A bag played in a loop into a node in a namespace, with the vehicle's own topic names: all that comes out of it."""

import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_world import NodeProcess, environment, free_domain
from sensor_msgs.msg import NavSatFix
from tf2_msgs.msg import TFMessage

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.events import TruthEvent
from cvloc_ros.datasets.town import Town, write_orthophoto
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.drive import simulate_drive
from cvloc_ros.evaluation.records import pose_track
from cvloc_ros.models.weights import SHIPPED
from cvloc_ros.ros import frame_status, qos
from cvloc_ros.ros.conversions import to_nanoseconds

SEED = 3_000_003  # training never gets here
SECONDS, IMAGE_RATE = 14.0, 3.0
TOPICS = {
    "~/pose": PoseWithCovarianceStamped,
    "~/odometry": Odometry,
    "~/path": Path,
    "~/fix": NavSatFix,
    "~/datum": NavSatFix,
    "~/frame_status": DiagnosticArray,
    "/diagnostics": DiagnosticArray,
    "/tf": TFMessage,
}
pytestmark = pytest.mark.skipif(not (SHIPPED / "vote_flow.safetensors").exists(), reason="no weights: cvloc train")


class Listener:
    """Keeps what the node says, by topic."""

    def __init__(self, domain, namespace):
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard = {topic: [] for topic in TOPICS}
        for topic, message_type in TOPICS.items():
            profile = qos.LATCHED if topic == "~/datum" else qos.MOVING_TF
            name = topic.replace("~", f"{namespace}/cvloc")
            self.node.create_subscription(message_type, name, self.heard[topic].append, profile)

    def spin(self, until, *, seconds):
        for _ in range(round(seconds / 0.02)):
            if until():
                return
            self.executor.spin_once(timeout_sec=0.02)
        raise AssertionError(f"did not happen; heard { ({topic: len(said) for topic, said in self.heard.items()}) }")

    def statuses(self):
        return {s.name: s for array in self.heard["/diagnostics"] for s in array.status}

    def frames(self):
        """Return the records of the images, one list a pass through the bag."""
        records = [frame_status.decode(message) for message in self.heard["~/frame_status"]]
        records = [record for record in records if record.reason != "reset"]
        stamps = np.array([record.stamp for record in records])
        starts = np.flatnonzero(np.diff(stamps) < -1_000_000_000) + 1
        return [records[a:b] for a, b in zip([0, *starts], [*starts, len(records)], strict=True)]

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """Two passes through a bag: what was heard, the node's log, and the bag."""
    folder = tmp_path_factory.mktemp("loop")
    town = Town.generate(SEED, size=400.0)
    write_orthophoto(town, folder / "map.tif")
    write_drive_bag(folder / "drive", simulate_drive(town, SEED, duration=SECONDS, image_rate=IMAGE_RATE))
    bag = Bag.open(folder / "drive")
    domain = free_domain()
    parameters = {
        "imagery": folder / "map.tif",
        "datum": f"[{bag.datum.latitude!r}, {bag.datum.longitude!r}, {bag.datum.altitude!r}]",
        "use_sim_time": "true",
        "camera.transport": "compressed",
        "tracker.confirmations": 3,  # a short drive on a busy machine has few images
        "tracker.confirmation_distance": 8.0,
    }
    remaps = {"image": "/camera/image", "camera_info": "/camera/camera_info", "odom": "/odom", "fix": "/gnss/fix"}
    assert bag.topics["image"] == "/camera/image/compressed"
    arguments = ["-r", "__ns:=/robot"]
    arguments += [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    arguments += [part for name, topic in remaps.items() for part in ("-r", f"{name}:={topic}")]
    node, listener = NodeProcess(domain, folder, "--ros-args", *arguments), Listener(domain, "/robot")
    listener.spin(lambda: "robot/cvloc: node" in listener.statuses(), seconds=90)
    command = [sys.executable, "-m", "cvloc_ros.cli.main", "play", bag.source, "--loop"]
    waits = [part for topic in ("/camera/image/compressed", "/odom") for part in ("--wait-for", topic)]
    player = subprocess.Popen([*command, *waits], env=environment(domain, folder), stdout=subprocess.DEVNULL)
    try:
        listener.spin(lambda: len(listener.frames()) > 2, seconds=120)
    finally:
        player.send_signal(signal.SIGINT)
        player.wait(timeout=20)
        listener.close()
        node.stop()
    return listener, node.text(), bag


def test_two_loops_localize_as_well_as_one(drive):
    listener, log, _ = drive
    first, second, *_ = (sum(record.accepted for record in frames) for frames in listener.frames())
    assert first >= 3 and second >= 3, f"a busy machine drops images, but not that many; {log}"
    assert second >= 0.6 * first - 1, "nothing of the first pass may stand in the second one's way"
    assert log.count("time jumped back") == 2, "once for every jump"


def test_poses_are_of_images_and_right(drive):
    listener, _, bag = drive
    truth = pose_track([(e.stamp, e.T_map_base) for e in bag if isinstance(e, TruthEvent)], extrapolation=0.1)
    accepted = {record.stamp: record for frames in listener.frames() for record in frames if record.accepted}
    errors = []
    for message in listener.heard["~/pose"]:
        stamp, position = to_nanoseconds(message.header.stamp), message.pose.pose.position
        assert message.header.frame_id == "map" and stamp in accepted
        errors.append(np.hypot(position.x - truth.at(stamp).x, position.y - truth.at(stamp).y))
        covariance = np.array(message.pose.covariance).reshape(6, 6)
        assert (np.linalg.eigvalsh(covariance[np.ix_([0, 1, 5], [0, 1, 5])]) > 0).all()
        assert covariance[2, 2] == covariance[3, 3] == covariance[4, 4] == 0.0
    assert np.median(errors) < 1.5


def test_everything_beside_the_pose(drive):
    listener, _, bag = drive
    odometry, fix = listener.heard["~/odometry"][-1], listener.heard["~/fix"][-1]
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("map", "base_link")
    assert odometry.twist.twist.linear.x > 0.1
    stamp = to_nanoseconds(fix.header.stamp)
    near = min(listener.heard["~/odometry"], key=lambda m: abs(to_nanoseconds(m.header.stamp) - stamp))
    east, north = bag.datum.to_enu(fix.latitude, fix.longitude)
    assert np.hypot(east - near.pose.pose.position.x, north - near.pose.pose.position.y) < 2.0
    assert any(path.poses for path in listener.heard["~/path"])
    datum = listener.heard["~/datum"][0]
    assert (datum.latitude, datum.longitude) == (bag.datum.latitude, bag.datum.longitude)
    edges = {(t.header.frame_id, t.child_frame_id) for m in listener.heard["/tf"] for t in m.transforms}
    assert edges == {("odom", "base_link"), ("map", "odom")}


def test_what_the_node_says_of_itself(drive):
    listener, log, _ = drive
    said = [s for array in listener.heard["/diagnostics"] for s in array.status if s.name.endswith(": localization")]
    wanted = {"search_box", "coverage", "prior_sigma", "sigma", "quality", "ms.wait", "ms.queue"}
    # the last one may be of the moment after a jump
    assert any(wanted <= {entry.key for entry in status.values} for status in said)
    records = [record for frames in listener.frames() for record in frames if "total" in record.milliseconds]
    for record in records:
        spent = record.milliseconds
        assert spent["total"] >= spent["queue"] + spent["wait"] + spent["match"], "latency counts from arrival"
    assert "initializing -> tracking" in log and "Traceback" not in log


def test_documented_values_are_those_that_are_published(drive):
    from cvloc_ros.ros.diagnostics_table import TABLE

    for name, status in drive[0].statuses().items():
        known = TABLE[name.removeprefix("robot/cvloc: ")].values
        families = tuple(key.removesuffix("*") for key in known if key.endswith("*"))
        for entry in status.values:
            assert entry.key in known or entry.key.startswith(families or ("\0",)), f"{name}: {entry.key}"
