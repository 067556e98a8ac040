"""Oxford's reader: a fixture in the exact layout gives back the town's truth; the real models and lists read right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painted_town import FINE, assert_pictures_agree, assert_same_pose, painted_town, write_image, write_text
from pyproj import Geod, Proj, Transformer

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.oxford import (
    CONTROL_PIXELS,
    CONTROL_UTM,
    TESTS,
    Oxford,
    map_datum,
    map_pixels,
    read_calibration,
    utm_to_map,
)
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics, meters_per_pixel

TO_UTM = Transformer.from_crs("EPSG:4326", "EPSG:32630", always_xy=True)
SIDE = 2800  # pixels of the fixture's map: the upper left corner of the real one
ROLL, PITCH, YAW = -0.0125, 0.04, 0.005  # of the inertial sensor, as the SDK has it
CAMERA = PinholeCamera(1200, 800, np.array([[964.828979, 0, 603.788025], [0, 964.828979, 484.40799], [0, 0, 1]]))


def sdk_rotation() -> np.ndarray:
    """Of the inertial sensor in the camera's frame (x forward, y right, z down): Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (ROLL, PITCH, YAW))
    Rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    Ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    Rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return Rz @ Ry @ Rx


def mount() -> np.ndarray:
    """The camera on the vehicle: the inertial sensor is 1.7132 m behind it, 0.1181 m to the right and pitched up."""
    R = sdk_rotation()
    flip = np.diag([1.0, -1.0, -1.0])
    T = np.eye(4)
    T[:3, :3] = flip @ R.T @ flip @ camera_extrinsics(height=0)[:3, :3]
    T[:3, 3] = flip @ R.T @ [1.7132, -0.1181, -1.1948]
    T[2, 3] = 1.65
    return T


def write_calibration(root: Path) -> None:
    write_text(
        root / "models/stereo_narrow_left.txt",
        "964.828979 964.828979 643.788025 484.407990\n0.0 -0.0 1.0 0.0\n1.0 0.0 -0.0 0.0\n0.0 1.0 0.0 0.0\n0 0 0 1\n",
    )
    write_text(root / "extrinsics/ins.txt", f"-1.7132 0.1181 1.1948 {ROLL} {PITCH} {YAW}\n")


@pytest.fixture(scope="module")
def datum() -> LocalFrame:
    """Of the town: 120 m east and south of the first control point."""
    x, y = CONTROL_UTM[0] + [120, -120]
    longitude, latitude = TO_UTM.transform(x, y, direction="INVERSE")
    return LocalFrame(latitude, longitude)


@pytest.fixture(scope="module")
def poses() -> list[SE2]:
    pose = painted_town().pose
    return [pose, pose @ SE2(-2.0, 1.0, 0.4), pose @ SE2(-5.0, -2.0, -0.2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, poses, datum) -> Path:
    root, world = tmp_path_factory.mktemp("Oxford"), painted_town()
    write_calibration(root)
    # the pixels of the map -> UTM, by the inverse of the literature's affine fit -> the town
    A = np.linalg.lstsq(np.column_stack([CONTROL_UTM, np.ones(5)]), CONTROL_PIXELS, rcond=None)[0]
    nodes = np.array([[0.0, 0.0], [SIDE - 1, 0.0], [0.0, SIDE - 1]])
    utm = (nodes - A[2]) @ np.linalg.inv(A[:2])
    longitude, latitude = TO_UTM.transform(utm[:, 0], utm[:, 1], direction="INVERSE")
    corner, right, down = datum.to_enu(latitude, longitude)
    across = np.arange(SIDE) / (SIDE - 1)
    east, north = (corner[k] + across * (right - corner)[k] + across[:, None] * (down - corner)[k] for k in (0, 1))
    write_image(root / "satellite_map_new.png", world.paint(east, north))
    for test, pose in zip(TESTS, poses, strict=True):
        latitude, longitude = datum.to_wgs84(np.array([pose.x, pose.y]))
        easting, northing = TO_UTM.transform(longitude, latitude)
        name = f"2015-08-14-14-54-57/ground/{easting}_{northing}.png"
        write_text(root / f"{test}_j.txt", f"{name} {name.replace('ground', 'satellite')} {easting} {northing}\n")
        write_image(root / name, world.ground(pose, CAMERA, mount()))
    # clockwise from west
    headings = np.array([(np.pi - pose.yaw + np.pi) % (2 * np.pi) - np.pi for pose in poses])
    np.save(root / "test_yaw.npy", headings)
    np.save(root / "train_yaw.npy", headings[:1])
    (root / "training.txt").write_bytes((root / "test1_j.txt").read_bytes())
    return root


@pytest.mark.parametrize(("test", "index"), [("test1", 0), ("test2", 1), ("test3", 2), ("training", 0)])
def test_the_truth_comes_back(root, poses, datum, test, index):
    frames = Oxford(root, test)
    assert len(frames) == 1
    assert [frames.digest == Oxford(root, name).digest for name in TESTS] == [k == index for k in range(3)]
    item, pose = frames[0], poses[index]
    # the town's datum and axes in the map frame, by geodesics
    middle = map_datum()
    azimuth, back, distance = Geod(ellps="WGS84").inv(
        middle.longitude, middle.latitude, datum.longitude, datum.latitude
    )
    bearing = np.radians(90 - azimuth)
    meridians = np.radians((back + 180 - azimuth + 180) % 360 - 180)  # they converge by 0.012 degrees
    T_map_town = SE2(distance * np.cos(bearing), distance * np.sin(bearing), meridians)
    assert_same_pose(item.truth, T_map_town @ pose)
    np.testing.assert_allclose(item.frame.T_base_camera, mount(), atol=1e-9)
    np.testing.assert_allclose(item.frame.camera.K, CAMERA.K)


@pytest.mark.parametrize("test", TESTS)
def test_pictures_agree_at_the_truth(root, test):
    assert_pictures_agree(Oxford(root, test, grid=FINE)[0])


def test_a_coarse_patch_is_the_average_of_the_fine_map(root):
    fine, coarse = (Oxford(root, "test1", grid=grid)[0].patch for grid in (FINE, FINE.coarser(4)))
    averaged = fine.image[..., 0].reshape(300, 4, 300, 4).mean(axis=(1, 3))
    assert coarse.covered == pytest.approx(fine.covered, abs=0.01)
    assert np.corrcoef(averaged.ravel(), coarse.image[..., 0].ravel())[0, 1] > 0.97


def test_the_prior_is_the_middle_of_a_tile_of_the_lattice(root):
    for test in TESTS:
        item = Oxford(root, test)[0]
        M = map_pixels(map_datum())
        middle, true = (M[:, :2] @ [pose.x, pose.y] + M[:, 2] for pose in (item.prior.T_map_base, item.truth))
        np.testing.assert_allclose((middle + 0.5) % 400, 0, atol=1e-3)
        assert (np.abs(true - middle) <= 201).all()
        assert item.prior.T_map_base.yaw == item.truth.yaw


def test_training_priors_are_drawn(root):
    first, again, other = (Oxford(root, "training", seed=seed)[0].prior.T_map_base for seed in (0, 0, 1))
    assert first == again != other


def test_the_map_is_true_north_up():
    """The fit turns by the zone's convergence, and its pixels are Web Mercator's: longer from west to east."""
    datum = map_datum()
    M = map_pixels(datum)
    to_map = np.linalg.inv(M[:, :2])
    assert np.degrees(np.arctan2(to_map[1, 0], to_map[0, 0])) == pytest.approx(0, abs=0.05)
    np.testing.assert_allclose([to_map[0, 0], -to_map[1, 1]], meters_per_pixel(datum.latitude, 20), rtol=3e-3)
    assert to_map[0, 0] / -to_map[1, 1] == pytest.approx(1.0026, abs=3e-4)
    off = np.linalg.norm(utm_to_map(CONTROL_UTM, datum) @ M[:, :2].T + M[:, 2] - CONTROL_PIXELS, axis=1)
    assert np.sqrt((off**2).mean()) == pytest.approx(1.3, abs=0.3)
    convergence = Proj("EPSG:32630").get_factors(datum.longitude, datum.latitude).meridian_convergence
    assert convergence == pytest.approx(1.37, abs=0.02)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("satellite_map_new.png", None, "the stitched satellite map at .*CrossViewMetricLocalization"),
        ("satellite_map_new.png", "no picture", "expected the stitched satellite map at"),
        ("test_yaw.npy", None, "the headings at"),
        ("test_yaw.npy", "", "expected the headings in"),
        ("test2_j.txt", "a b 1 2\na b 1 2\n", "expected 4 headings as the lists have lines"),
        ("models/stereo_narrow_left.txt", "1 2 3 4\n", "5 lines of 4 numbers"),
        ("models/stereo_narrow_left.txt", 5 * "0 0 0 0\n", "stereo_narrow_left.txt describes no camera: .*focal"),
        ("extrinsics/ins.txt", None, "the inertial sensor's place at .*robotcar-dataset-sdk"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(root, path, content, message):
    path = root / path
    right = path.read_bytes()
    try:
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            Oxford(root, "test1")[0]
    finally:
        path.write_bytes(right)


def test_an_unknown_split_is_refused(root):
    with pytest.raises(ValueError, match="test1, test2, test3"):
        Oxford(root, "test4")


@pytest.mark.shared_data
class TestRealFiles:
    @pytest.fixture
    def oxford(self, shared_data, tmp_path) -> Path:
        if not (shared_data / "oxford/splits").is_dir():
            pytest.skip(f"{shared_data / 'oxford/splits'} is absent")
        for path in (shared_data / "oxford/splits").iterdir():
            (tmp_path / path.name).symlink_to(path)
        for name in ("models", "extrinsics"):
            (tmp_path / name).symlink_to(shared_data / "oxford" / name)
        return tmp_path

    def test_camera(self, oxford):
        camera, T_base_camera = read_calibration(oxford)
        np.testing.assert_allclose(camera.K, CAMERA.K)
        np.testing.assert_allclose(T_base_camera, mount(), atol=1e-6)
        # it looks ahead and 2.3 degrees down, from a sensor that the lidars and the radar are parallel to
        ahead = T_base_camera[:3, 2]
        assert np.degrees(np.arctan2(ahead[1], ahead[0])) == pytest.approx(0, abs=0.5)
        assert np.degrees(np.arcsin(-ahead[2])) == pytest.approx(2.3, abs=0.1)

    @pytest.mark.parametrize(("test", "count"), [("test1", 1673), ("test2", 1708), ("test3", 1708)])
    def test_headings_are_those_of_the_streets_driven_on_the_left(self, oxford, test, count):
        """Neighbouring positions lie along the heading; traffic the other way passes on the right."""
        frames = Oxford(oxford, test)
        poses = [frames.pose(k) for k in range(len(frames))]
        assert len(frames) == count
        points = np.array([[pose.x, pose.y] for pose in poses])
        ahead, opposite = [], []
        for pose, yaw in zip(poses, np.array([pose.yaw for pose in poses]), strict=True):
            others = pose.inverse().apply(points)
            turned = np.array([other.yaw for other in poses]) - yaw
            near = (np.hypot(*others.T) < 12) & (np.hypot(*others.T) > 2)
            same = others[near & (np.cos(turned) > 0.9995)]
            ahead += np.degrees(np.arctan(same[:, 1] / same[:, 0])).tolist()
            opposite += others[near & (np.cos(turned) < -0.95) & (np.abs(others[:, 0]) < 5), 1].tolist()
        assert abs(np.median(ahead)) < 0.5
        assert len(opposite) > 100 and np.mean(np.array(opposite) < 0) > 0.98
        with pytest.raises(DatasetError, match="a frame of the centre camera at"):
            frames[0]
