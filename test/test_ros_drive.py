"""The main job in small: a drive through an unseen town, played over DDS into the node, which finds its way."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from ros_world import free_domain

from cvloc_ros.datasets.town import Town, write_orthophoto
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.drive import simulate_drive
from cvloc_ros.datasets.town.sensors import SECOND, GnssModel
from cvloc_ros.evaluation.summary import summarize
from cvloc_ros.evaluation.town_drives import judge
from cvloc_ros.evaluation.town_scenarios import Scenario
from cvloc_ros.models.weights import SHIPPED
from cvloc_ros.ros.live_run import LiveRunError, run_live

SEED = 3_000_003  # training never gets here
SECONDS = 14.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    town = Town.generate(SEED, size=400.0)
    write_orthophoto(town, folder / "map.tif")
    write_drive_bag(folder / "drive", simulate_drive(town, SEED, duration=SECONDS, image_rate=4.0))
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def play(*arguments, **options):
    """Play a drive into the node: in real time, but slower where the machine is too busy for that."""
    for rate in (1.0, 0.4, 0.15):
        result = run_live(*arguments, rate=rate, **options)
        if result.dropped < 0.2 * len(result.frames):
            break
    return result


@pytest.mark.skipif(not (SHIPPED / "vote_flow.safetensors").exists(), reason="no shipped weights: cvloc train")
def test_unseen_town_is_driven_and_localized(world, tmp_path):
    heard = {}
    result = play(
        world / "drive",
        str(world / "map.tif"),
        log=tmp_path / "node.log",
        progress=lambda share, now: heard.update(scene=now.scene),
    )
    summary = summarize(result)
    said = f"{summary['rejected']}, {(tmp_path / 'node.log').read_text()}"
    assert summary["frames"] + summary["dropped"] >= 4 * SECONDS - 3
    assert summary["localized"] >= 6, said  # a busy machine drops images; what it localizes must be right
    assert summary["position_error_m"]["median"] < 1.5 and summary["yaw_error_deg"]["median"] < 2.0
    assert summary["tracker"]["position_error_m"]["rmse"] < 0.7 * summary["gnss"]["position_error_m"]["rmse"]
    assert len(result.samples) > 3
    stamps = [frame.stamp for frame in result.frames]
    assert (np.diff(stamps) > 0).all()
    scene = heard["scene"]
    shown = {marker.ns for marker in scene.all_markers()}
    assert {"satellite", "lines", "estimate", "prior", "gnss", "state"} <= shown and "bev" in scene.clouds
    assert scene.path.poses and not scene.problems


@pytest.mark.slow
@pytest.mark.skipif(not (SHIPPED / "vote_flow.safetensors").exists(), reason="no shipped weights: cvloc train")
def test_wrong_initial_pose_and_black_images_are_overcome_without_gnss(tmp_path):
    dark = (12.0, 16.0)
    scenario = Scenario("hard", GnssModel(outage=(0.0, np.inf)), initial_error=(25.0, 20.0), black=dark)
    town = Town.generate(SEED, size=500.0)
    drive = simulate_drive(town, SEED, duration=28.0, image_rate=6.0)
    imagery = write_orthophoto(town, tmp_path / "map.tif")
    images = scenario.images(drive, drive.images())
    write_drive_bag(tmp_path / "drive", scenario.sensors(drive, SEED), images=images)
    pose = scenario.initial_pose(drive, SEED)
    result = play(tmp_path / "drive", str(imagery), initial_pose=pose, log=tmp_path / "node.log")
    said = f"{[(frame.state, frame.reason) for frame in result.frames]}, {(tmp_path / 'node.log').read_text()}"
    start = int(drive.trajectory.stamps[0])
    before = [frame for frame in result.frames if frame.stamp < start + dark[0] * SECOND]
    first = before[0]
    assert np.hypot(first.fused.x - first.truth.x, first.fused.y - first.truth.y) > 20.0, "as it was told"
    judgement = {"seed": SEED, "scenario": "hard", "metres": drive.trajectory.distance}
    assert judge(before, good_from=start, **judgement).recovery < 10.0, said
    whole = judge(result.frames, good_from=start + round(dark[1] * SECOND), **judgement)
    assert whole.recovery < 10.0 and whole.wrong < 2.0 and whole.rmse < 1.5, f"{whole}, {said}"
    in_the_dark = [f for f in result.frames if dark[0] <= (f.stamp - start) / SECOND < dark[1]]
    assert in_the_dark and not any(frame.accepted for frame in in_the_dark), said


def test_run_that_cannot_begin_says_why(world, tmp_path):
    with pytest.raises(LiveRunError, match=r"there is no file '.*nowhere\.tif'"):
        run_live(world / "drive", str(tmp_path / "nowhere.tif"), log=tmp_path / "node.log")
    with pytest.raises(LiveRunError, match="no parameter 'wieghts': did you mean weights"):
        run_live(world / "drive", str(world / "map.tif"), parameters={"wieghts": "x"}, log=tmp_path / "node.log")
