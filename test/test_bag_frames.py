"""A bag as a data set: every item is what the town says, in whatever order it is asked for, or the bag is refused."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import rasterio
from bag_rewriting import rewrite
from painted_town import FINE, assert_pictures_agree, assert_same_pose, painted_town
from rosbags.convert.converter import convert
from rosbags.rosbag2 import StoragePlugin
from test_convert_bags import ROS1
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_frames import BagFrames, poses_at
from cvloc_ros.datasets.bag_topics import BagError
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.item import PATCH_GRID
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.drive import Drive, record
from cvloc_ros.datasets.town.motion import SECOND, follow
from cvloc_ros.evaluation.batches import in_batches
from cvloc_ros.geometry import LocalFrame, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import ImageryError

DATUM = LocalFrame(48.2, 16.3, 181.5)
CAMERA = PinholeCamera(624, 192, np.array([[370.0, 0, 318], [0, 372, 70], [0, 0, 1]]))
MOUNT = camera_extrinsics(height=1.65, x=1.2, y=-0.3, yaw=0.03, pitch=0.05, roll=-0.01)
IMAGE, TRUTH = "/camera/image/compressed", "/ground_truth"


class Painted:
    """What the painted town looks like from the vehicle."""

    def render(self, T_map_base, seconds):
        return painted_town().ground(T_map_base, CAMERA, MOUNT)


@pytest.fixture(scope="module")
def drive() -> Drive:
    """Six images within a second, in a bend."""
    pose = painted_town().pose
    along = np.linspace(0, 20, 21)
    trajectory = follow(pose.apply(np.stack([along, 0.01 * along**2], axis=-1)), duration=1.0, cruise=6.0)
    return record(trajectory, Painted(), DATUM, 3, camera=CAMERA, T_base_camera=MOUNT, image_rate=5.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bag_frames")


@pytest.fixture(scope="module")
def mcap(drive, folder) -> Path:
    write_drive_bag(folder / "mcap", drive, workers=1)
    return folder / "mcap"


@pytest.fixture(scope="module")
def bags(mcap, folder) -> dict[str, Path]:
    """The same drive in every kind of bag."""
    ros1 = folder / "drive.bag"
    convert([mcap], ros1, "", 0, "lz4", "", None, ROS1, (), (), (), ())
    sqlite3 = rewrite(mcap, folder / "sqlite3", storage=StoragePlugin.SQLITE3)
    return {"mcap": mcap, "sqlite3": sqlite3, "ros1": ros1}


@pytest.fixture(scope="module")
def imagery(folder) -> str:
    return write_paint(folder / "map.tif", slice(None))


def write_paint(path: Path, columns: slice) -> str:
    """The painted town from above, or some columns of it, in the drive's map."""
    above = painted_town().above
    cell = 240.0 / above.shape[0]
    pixels = np.ascontiguousarray(above[:, columns])
    west = -120.0 + (columns.start or 0) * cell
    transform = rasterio.Affine(cell, 0, west, 0, -cell, 120.0)
    profile = dict(driver="GTiff", width=pixels.shape[1], height=pixels.shape[0], count=1, dtype="uint8")
    with rasterio.open(path, "w", **profile, crs=DATUM.crs.to_wkt(), transform=transform) as raster:
        raster.write(pixels, 1)
    return str(path)


def assert_same_item(item, other):
    assert (item.name, item.truth, item.frame.stamp) == (other.name, other.truth, other.frame.stamp)
    assert item.prior.T_map_base == other.prior.T_map_base
    np.testing.assert_array_equal(item.frame.image, other.frame.image)
    np.testing.assert_array_equal(item.patch.image, other.patch.image)


class TestItems:
    @pytest.mark.parametrize("kind", ["mcap", "sqlite3", "ros1"])
    def test_are_what_the_town_says(self, bags, kind, drive, imagery):
        shares = []
        frames = BagFrames(bags[kind], imagery, progress=shares.append)
        assert len(frames) == len(drive.image_stamps) == 6 and frames.datum.latitude == DATUM.latitude
        assert shares == sorted(shares) and shares[-1] == 1.0 and frames.notes == []
        for item, stamp in zip(frames, drive.image_stamps.tolist(), strict=True):
            assert item.frame.stamp == stamp and item.name == f"{stamp // SECOND}.{stamp % SECOND:09d}"
            assert_same_pose(item.truth, drive.trajectory.at(stamp).T_map_base)
            np.testing.assert_allclose(item.frame.camera.K, CAMERA.K)
            np.testing.assert_allclose(item.frame.T_base_camera, MOUNT, atol=1e-9)
            assert item.patch.grid == PATCH_GRID and item.patch.T_map_patch == item.prior.T_map_base
            off = (item.prior.T_map_base.inverse() @ item.truth).vector()
            assert (np.abs(off) <= [20, 20, np.radians(10)]).all() and np.hypot(*off[:2]) > 0.5
        with pytest.raises(IndexError):
            frames[6]

    def test_image_and_imagery_agree_at_the_truth(self, mcap, imagery):
        """Mount, truth, datum and patch have the signs that they should have."""
        frames = BagFrames(mcap, imagery, grid=FINE)
        for index in (0, 5):
            assert_pictures_agree(frames[index])

    @pytest.mark.parametrize("kind", ["mcap", "sqlite3", "ros1"])
    def test_any_order_gives_the_same(self, bags, kind, imagery):
        in_order = list(BagFrames(bags[kind], imagery))
        frames = BagFrames(bags[kind], imagery)
        for index in (4, 0, 5, 1, 4, -3, 2):
            assert_same_item(frames[index], in_order[index])

    @pytest.mark.parametrize("kind", ["mcap", "sqlite3", "ros1"])
    def test_a_thread_that_reads_ahead_gets_the_same(self, bags, kind, imagery):
        frames = BagFrames(bags[kind], imagery)
        ahead = [item for batch in in_batches(frames, 4) for item in batch]
        assert len(ahead) == 6
        for index, item in enumerate(ahead):
            assert_same_item(item, frames[index])

    def test_another_seed_is_another_set_of_priors(self, mcap, imagery):
        one, same, other = (BagFrames(mcap, imagery, seed=seed) for seed in (1, 1, 2))
        assert one.digest == same.digest != other.digest
        assert one[3].prior.T_map_base == same[3].prior.T_map_base != other[3].prior.T_map_base
        assert one[3].truth == other[3].truth
        moved = BagFrames(mcap, imagery, seed=1, T_base_camera=camera_extrinsics(height=2.0))
        assert moved.digest != one.digest and moved[0].frame.T_base_camera[2, 3] == 2.0

    def test_images_of_one_instant_of_recording_are_told_apart(self, mcap, imagery, tmp_path):
        """A recorder that is late writes several with one time."""
        late = rewrite(mcap, tmp_path / "bag", retime={IMAGE: lambda stamp: stamp // SECOND * SECOND + SECOND})
        for item, expected in zip(BagFrames(late, imagery), BagFrames(mcap, imagery), strict=True):
            assert_same_item(item, expected)

    def test_truth_is_interpolated_at_the_images_stamp(self, mcap, drive, imagery, tmp_path):
        def later(message):
            message.header.stamp.nanosec += 7_000_000

        frames = BagFrames(rewrite(mcap, tmp_path / "bag", edit={IMAGE: later}), imagery)
        assert len(frames) == 5 and "1 of 6 images are left out: no truth around their stamps." in frames.notes
        for item, stamp in zip(frames, drive.image_stamps.tolist(), strict=False):
            assert_same_pose(item.truth, drive.trajectory.at(stamp + 7_000_000).T_map_base)
            assert np.hypot(*(item.truth.inverse() @ drive.trajectory.at(stamp).T_map_base).vector()[:2]) > 0.01

    def test_the_map_may_have_another_datum(self, mcap, drive, imagery):
        other = LocalFrame(48.201, 16.302)
        item = BagFrames(mcap, imagery, datum=other, grid=FINE)[2]
        expected = DATUM.pose_in(other, drive.trajectory.at(item.frame.stamp).T_map_base)
        assert_same_pose(item.truth, expected)
        assert expected.x < -100 and expected.yaw != drive.trajectory.at(item.frame.stamp).T_map_base.yaw
        assert_pictures_agree(item)

    def test_odometry_and_fixes_are_not_needed(self, mcap, imagery, tmp_path):
        cut = rewrite(mcap, tmp_path / "bag", drop=["/odom", "/gnss/fix"])
        assert_same_item(BagFrames(cut, imagery)[1], BagFrames(mcap, imagery)[1])

    def test_notes_are_on_what_is_used(self, mcap, imagery, tmp_path):
        used = ["the camera's height over the ground is not published", "2 records left out: they are no newer"]
        unused = ["odometry: the wheels'", "fixes: as recorded", "imu: without orientation", "no imu: there is no file"]
        noted = rewrite(mcap, tmp_path / "bag", notes=[unused[0], used[0], *unused[1:], used[1]])
        assert list(Bag.open(noted).notes) == [unused[0], used[0], *unused[1:], used[1]]
        assert BagFrames(noted, imagery).notes == used


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("topic", "message"),
        [
            (TRUTH, r"no ground_truth topic \(nav_msgs/msg/Odometry\).* name it \(ground_truth:=/its/topic\)"),
            (IMAGE, "no image topic"),
            ("/camera/camera_info", "no camera_info topic"),
            ("/tf_static", "from base_link to 'camera_optical'.*--mount"),
        ],
    )
    def test_topics_are_named(self, mcap, imagery, tmp_path, topic, message):
        with pytest.raises(BagError, match=message):
            BagFrames(rewrite(mcap, tmp_path / "bag", drop=[topic]), imagery)

    def test_truth_by_another_name(self, mcap, imagery, tmp_path):
        bag = rewrite(mcap, tmp_path / "bag", rename={TRUTH: "/rtk/odometry"})
        frames = BagFrames(bag, imagery, topics={"ground_truth": "/rtk/odometry"})
        assert_same_item(frames[0], BagFrames(mcap, imagery)[0])

    def test_truth_without_a_datum_needs_one(self, mcap, imagery, tmp_path):
        bag = rewrite(mcap, tmp_path / "bag", drop=["/datum"])
        with pytest.raises(BagError, match="no datum that says where its map is: .*--datum"):
            BagFrames(bag, imagery)
        assert_same_item(BagFrames(bag, imagery, datum=DATUM)[0], BagFrames(mcap, imagery)[0])

    def test_clocks_that_differ(self, mcap, imagery, tmp_path):
        def elsewhen(message):
            message.header.stamp.sec -= 1000

        with pytest.raises(BagError, match="6 images are of .* the truth is of .* stamped by one clock"):
            BagFrames(rewrite(mcap, tmp_path / "bag", edit={TRUTH: elsewhen}), imagery)

    def test_images_that_are_cut_off_are_left_out(self, mcap, imagery, tmp_path):
        number = count()

        def cut(message):
            if next(number) in (1, 4):
                message.data = message.data[:500]

        frames = BagFrames(rewrite(mcap, tmp_path / "bag", edit={IMAGE: cut}), imagery)
        whole = BagFrames(mcap, imagery)
        assert [item.name for item in frames] == [whole[k].name for k in (0, 2, 3, 5)]
        assert "2 of 6 images are left out: cut off." in frames.notes

        def cut_all(message):
            message.data = message.data[:500]

        with pytest.raises(BagError, match=f"expected images on {IMAGE}, but all 6 are cut off"):
            BagFrames(rewrite(mcap, tmp_path / "none", edit={IMAGE: cut_all}), imagery)

    def test_another_cameras_info(self, mcap, imagery, tmp_path):
        def larger(message):
            message.width *= 2

        frames = BagFrames(rewrite(mcap, tmp_path / "bag", edit={"/camera/camera_info": larger}), imagery)
        with pytest.raises(DatasetError, match=rf"{IMAGE}, the image of \d+\.\d+ s: expected .*\(192, 1248, 3\)"):
            frames[0]

    def test_a_bag_that_is_replaced_meanwhile(self, mcap, imagery, tmp_path):
        shutil.copytree(mcap, tmp_path / "mcap")
        frames = BagFrames(tmp_path / "mcap", imagery)
        file = tmp_path / "mcap" / "mcap.mcap"
        file.write_bytes(bytes(file.stat().st_size))
        with pytest.raises(BagError, match="is damaged"):
            frames[0]


class TestImagery:
    def test_of_another_place_nearby(self, mcap, imagery, drive, tmp_path):
        """The drive is on neither of the columns that are kept."""
        x = drive.trajectory.poses[:, 0]
        columns = slice(0, 300) if x.min() > -70 else slice(1300, 1600)
        part = write_paint(tmp_path / "part.tif", columns)
        with pytest.raises(
            ImageryError, match="(?s)was driven .latitude 48.*shows nothing there; it is of latitude 48"
        ):
            BagFrames(mcap, part)

    def test_of_another_country(self, mcap, imagery):
        with pytest.raises(ImageryError, match="km away: check the datum"):
            BagFrames(mcap, imagery, datum=LocalFrame(50.0, 16.3))

    def test_of_a_part_of_the_drive(self, mcap, imagery, drive, tmp_path):
        x = [drive.trajectory.at(int(stamp)).T_map_base.x for stamp in drive.image_stamps]
        edge = (sorted(x)[2] + sorted(x)[3]) / 2
        part = write_paint(tmp_path / "part.tif", slice(round((edge + 120) / 0.15), None))
        frames = BagFrames(mcap, part)
        assert [item.truth.x > edge - 0.5 for item in frames] == [True] * len(frames)
        assert len(frames) == 3
        assert "3 of 6 images are left out: the imagery shows nothing where they were taken." in frames.notes
        assert frames.digest != BagFrames(mcap, imagery).digest

    def test_that_does_not_come(self, mcap, imagery_cache, server):
        server.mood = 500
        with pytest.raises(
            ImageryError, match="lacks 6 of 6 places: tiles of 127.0.0.1:.*HTTP 500.*run the same again"
        ):
            BagFrames(mcap, f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png")

    def test_that_was_not_fetched_before(self, mcap, imagery_cache, server, monkeypatch):
        monkeypatch.setenv("CVLOC_OFFLINE", "1")
        with pytest.raises(ImageryError, match="shows nothing there; .*cvloc prefetch"):
            BagFrames(mcap, f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png")
        assert server.requests == []


class TestPosesAt:
    STAMPS = np.array([10, 11, 13, 16], np.int64) * SECOND // 2
    POSES = np.array([[0, 0, 3.0], [1, 2, -3.0], [2, 2, -2.5], [9, 9, 0]])

    def test_between_and_through_pi(self):
        found, known = poses_at(np.array([5.25, 5.5, 6.0]) * SECOND, self.STAMPS[::-1], self.POSES[::-1])
        assert known.all()
        turn = 2 * np.pi - 6.0
        np.testing.assert_allclose(found[:, :2], [[0.5, 1], [1, 2], [1.5, 2]])
        np.testing.assert_allclose(np.cos(found[:, 2] - [3 + turn / 2, -3, -2.75]), 1)
        assert (np.abs(found[:, 2]) <= np.pi).all()

    def test_not_outside_and_not_in_gaps_but_at_their_ends(self):
        at = np.array([4.99, 5.0, 6.5, 7.0, 8.0, 8.01])
        _, known = poses_at(np.round(at * SECOND).astype(np.int64), self.STAMPS, self.POSES)
        assert known.tolist() == [False, True, True, False, True, False]

    def test_without_any(self):
        _, known = poses_at(self.STAMPS, self.STAMPS[:0], self.POSES[:0])
        assert known.tolist() == [False] * 4


class TestCommand:
    def test_evaluates_and_resumes(self, mcap, imagery, tmp_path):
        command = ["eval", "bag", str(mcap), "--imagery", imagery, "--out", str(tmp_path), "--device", "cpu"]
        result = CliRunner().invoke(app, [*command, "--frames", "2"], env={"COLUMNS": "250"}, catch_exceptions=False)
        assert result.exit_code == 0
        for text in ("2 frames", "chance (the prior)", "blind (image blanked)"):
            assert text in result.output
        assert "beside the literature" not in result.output
        out = tmp_path / "bag"
        assert (out / "report.html").read_text().count("data:image/jpeg") >= 2
        few = (out / "frames.csv").read_text()
        result = CliRunner().invoke(app, [*command, "--frames", "3"], catch_exceptions=False)
        assert result.exit_code == 0
        assert (out / "frames.csv").read_text().startswith(few) and len(few.splitlines()) == 3
        summary = json.loads((out / "summary.json").read_text())
        assert summary["frames"] == 3 and summary["protocol"] == "bag" and summary["imagery"] == imagery

        other = write_paint(tmp_path / "other.tif", slice(None))
        result = CliRunner().invoke(app, [*command[:4], other, *command[5:]])
        assert "imagery: " in str(result.exception) and "choose another --out" in str(result.exception)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["bag"], "cvloc eval bag ROOT"),
            (["bag", "here"], "--imagery city.tif"),
            (["bag", "here", "--protocol", "x"], "got --protocol"),
            (["bag", "here", "--imagery", "m.tif", "--datum", "x"], "49.0125,8.4269"),
            (["kitti", "here", "--imagery", "m.tif"], "kitti takes ROOT, --protocol, --frames and"),
        ],
    )
    def test_wrong_arguments_are_told_the_right_ones(self, arguments, message):
        result = CliRunner().invoke(app, ["eval", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 2 and message in result.output
