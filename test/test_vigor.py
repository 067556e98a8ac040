"""VIGOR's reader: a fixture in the exact layout gives back the town's truth, from panoramas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painted_town import (
    FINE,
    assert_pictures_agree,
    assert_same_pose,
    find_pose,
    in_frame,
    painted_town,
    write_image,
    write_text,
)

from cvloc_ros.datasets.aerial_image import AerialImage
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.vigor import CITIES, SIZE, Vigor
from cvloc_ros.geometry import SE2, EquirectangularCamera, LocalFrame, camera_extrinsics

DATUM = LocalFrame(40.72, -74.0)
CAMERA = EquirectangularCamera(2048, 1024)
OFFSET = (4.5, -7.0)  # metres east and north, from the satellite picture's middle to the camera
NAME = "s4AtJ8xJ0a,40.720,-74.000,.jpg"


@pytest.fixture(scope="module")
def pose() -> SE2:
    """Of the camera in the town's frame; it faces north, as panoramas do."""
    return find_pose(painted_town(), yaw=np.pi / 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory, pose) -> Path:
    root, world = tmp_path_factory.mktemp("VIGOR"), painted_town()
    middle = np.array([pose.x, pose.y]) - OFFSET
    (s_lat, s_lon), (lat, lon) = DATUM.to_wgs84(np.array([middle, [pose.x, pose.y]]))
    satellite = f"satellite_{s_lat:.9f}_{s_lon:.9f}.png"
    write_image(root / "NewYork/satellite" / satellite, world.static_map(DATUM, middle, zoom=20, scale=1, size=640))
    write_image(root / "NewYork/panorama" / NAME, world.ground(pose, CAMERA, camera_extrinsics(height=2.0)))
    # spherical Mercator pixels from the picture's middle: column 320 - dc, row 320 + dr
    pixels = 256 * 2**20 / (2 * np.pi)
    dc = -np.radians(lon - s_lon) * pixels
    dr = -(np.arcsinh(np.tan(np.radians(lat))) - np.arcsinh(np.tan(np.radians(s_lat)))) * pixels
    others = "satellite_a.png 1.0 2.0 satellite_b.png 3.0 4.0 satellite_c.png 5.0 6.0"
    line = f"{NAME} {satellite} {dr} {dc} {others}\n"
    for city in CITIES:
        for name in ("same_area_balanced_train", "same_area_balanced_test", "pano_label_balanced"):
            write_text(root / "splits__corrected" / city / f"{name}__corrected.txt", line)
    return root


def expected(pose: SE2) -> SE2:
    return in_frame(pose, DATUM, np.array([pose.x, pose.y]) - OFFSET)


def test_the_truth_comes_back(root, pose):
    frames = Vigor(root, "same")
    item = frames[0]
    assert frames.digest == Vigor(root, "same").digest
    assert_same_pose(item.truth, expected(pose))
    assert item.name == f"NewYork/{NAME}"
    assert (item.prior.T_map_base.x, item.prior.T_map_base.y) == (0, 0)  # the picture's middle
    assert item.prior.T_map_base.yaw == pytest.approx(item.truth.yaw)
    assert np.degrees(np.sqrt(item.prior.covariance[2, 2])) <= 1
    assert np.sqrt(3 * item.prior.covariance[0, 0]) == pytest.approx(SIZE / 4 * 0.113248, rel=2e-3)


@pytest.mark.parametrize("aligned", [True, False])
def test_pictures_agree_at_the_truth(root, aligned):
    """Where the heading is drawn, the vehicle looks elsewhere: compare towards north all the same."""
    item = Vigor(root, "same", aligned=aligned, grid=FINE)[0]
    turned = SE2(0, 0, np.pi / 2 - item.truth.yaw)
    mount = np.linalg.inv(turned.matrix()) @ item.frame.T_base_camera
    facing_north = type(item.frame)(0, item.frame.image, item.frame.camera, mount)
    assert_pictures_agree(type(item)(item.name, facing_north, item.prior, item.truth @ turned, item.patch), far=14.0)


def test_unknown_headings_are_drawn_the_same_each_time(root, pose):
    first, again, other = (Vigor(root, "same", aligned=False, seed=seed)[0] for seed in (0, 0, 1))
    assert first.truth == again.truth and first.prior.T_map_base == again.prior.T_map_base
    assert abs(first.truth.yaw - other.truth.yaw) > 1e-3
    assert np.hypot(first.truth.x - expected(pose).x, first.truth.y - expected(pose).y) < 0.05
    assert np.degrees(np.sqrt(first.prior.covariance[2, 2])) > 100
    # north, as the vehicle sees it, is the panorama's middle column
    north = SE2(0, 0, -first.truth.yaw).apply(np.array([0.0, 10.0]))
    optical = np.linalg.inv(first.frame.T_base_camera) @ [*north, first.frame.T_base_camera[2, 3], 1.0]
    np.testing.assert_allclose(CAMERA.project(optical[:3])[0], [1023.5, 511.5], atol=1e-6)


@pytest.mark.parametrize(
    ("area", "part", "cities"),
    [
        ("same", "train", ("NewYork", "Seattle", "SanFrancisco", "Chicago")),
        ("same", "test", ("NewYork", "Seattle", "SanFrancisco", "Chicago")),
        ("cross", "train", ("NewYork", "Seattle")),
        ("cross", "test", ("SanFrancisco", "Chicago")),
    ],
)
def test_splits(root, area, part, cities):
    assert [name.split("/")[0] for name in Vigor(root, area, part).names] == list(cities)


def test_lists_renamed_for_other_code_are_found(root, tmp_path):
    for city in CITIES:
        right = root / "splits__corrected" / city / "same_area_balanced_test__corrected.txt"
        write_text(tmp_path / "splits__corrected" / city / "same_area_balanced_test.txt", right.read_text())
    assert len(Vigor(tmp_path, "same")) == 4


def test_a_label_of_the_literature(root, tmp_path):
    """23.0 -29.0 is column 349, row 343: to the right of the middle and below it."""
    for city in CITIES:
        line = f"{NAME} {next((root / 'NewYork/satellite').iterdir()).name} 23.0 -29.0\n"
        write_text(tmp_path / "splits__corrected" / city / "same_area_balanced_test__corrected.txt", line)
    (tmp_path / "NewYork").symlink_to(root / "NewYork")
    truth = Vigor(tmp_path, "same")[0].truth
    np.testing.assert_allclose([truth.x, truth.y], [29 * 0.113248, -23 * 0.113248], rtol=4e-3)


@pytest.mark.parametrize(
    ("latitude", "constant"), [(40.75, 0.113248), (47.6, 0.100817), (37.77, 0.118141), (41.88, 0.111262)]
)
def test_pixels_are_as_long_from_west_to_east_as_the_literature_says(latitude, constant):
    picture = AerialImage.web_mercator(np.zeros((640, 640, 3), np.uint8), LocalFrame(latitude, -100), zoom=20)
    east, south = picture.to_map([320, 319]) - picture.to_map([319, 319]), picture.to_map([319, 320])
    assert east[0] == pytest.approx(constant, rel=1.5e-3) and abs(east[1]) < 1e-6
    assert abs(south[1]) == pytest.approx(constant / 2, rel=6e-3)  # row 320 is half a pixel below the middle


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (f"NewYork/panorama/{NAME}", None, "a panorama at .*Jeff-Zilence"),
        ("splits__corrected/Seattle/same_area_balanced_test__corrected.txt", None, "labels of Seattle at .*SliceMatch"),
        ("splits__corrected/Seattle/same_area_balanced_test__corrected.txt", "a b 1\n", "4 or 7 or 10 or 13 fields"),
        (
            "splits__corrected/NewYork/same_area_balanced_test__corrected.txt",
            f"{NAME} sat.png 1 2\n",
            "a satellite pict",
        ),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(root, path, content, message):
    path = root / path
    right = path.read_bytes()
    try:
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            Vigor(root, "same")[0]
    finally:
        path.write_bytes(right)


def test_an_unknown_area_is_refused(root):
    with pytest.raises(ValueError, match="same or cross"):
        Vigor(root, "both")
