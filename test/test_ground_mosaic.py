"""Ground mosaics: what a drive's camera saw, from above, lies where the truth says, without the frame under test."""

import csv
import sys

import cv2
import numpy as np
import pytest
import rasterio
from painted_town import disagreement, painted_town, write_image

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.ground_mosaic import MosaicBuilder, main, write_mosaic_pairs
from cvloc_ros.datasets.kitti_odometry import KittiOdometry
from cvloc_ros.datasets.pairs import Pairs
from cvloc_ros.evaluation.items import localize_items
from cvloc_ros.evaluation.metrics import PoseErrors
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import SatelliteMap, raster_datum

CAMERA = PinholeCamera.from_focal(620, 188, 360.0, cx=305.0, cy=90.0)
MOUNT = camera_extrinsics(height=1.65, yaw=0.01, pitch=0.02)
FRAMES, STEP = 16, 1.0


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """A straight drive through the painted town in the layout of KITTI odometry, recorded with a nodding camera."""
    world, folder = painted_town(), tmp_path_factory.mktemp("sequence")
    poses = [world.pose @ SE2(STEP * (k - FRAMES // 2)) for k in range(FRAMES)]
    lines, first = [], None
    for k, pose in enumerate(poses):
        nod = np.eye(4)
        nod[:3, :3] = cv2.Rodrigues(np.array([0.0, 0.004 * np.sin(k), 0.0]))[0]
        T_base_camera = nod @ MOUNT
        write_image(folder / f"image_0/{k:06d}.png", world.ground(pose, CAMERA, T_base_camera))
        T = pose.matrix() @ T_base_camera
        first = T if first is None else first
        lines.append(" ".join(f"{v:.9e}" for v in (np.linalg.inv(first) @ T)[:3].ravel()))
    (folder / "image_0/._000000.png").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on foreign disks
    (folder / "poses.txt").write_text("\n".join(lines))
    P = np.column_stack([CAMERA.K, np.zeros(3)])
    (folder / "calib.txt").write_text("P0: " + " ".join(f"{v:.9e}" for v in P.ravel()) + "\n")
    return folder


@pytest.fixture(scope="module")
def pairs(drive, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert (
        write_mosaic_pairs(KittiOdometry(drive), out, left_out=1, priors=2, radius=4.0, yaw_range=3.0, cell=0.1) == 32
    )
    return out


def test_the_mount_is_read_from_the_motion(drive):
    np.testing.assert_allclose(KittiOdometry(drive).T_base_camera, MOUNT, atol=2e-3)


def test_frames_lie_on_their_mosaics(pairs):
    items = Pairs(pairs / "pairs.csv", grid=GroundGrid.centred(800, 0.1))
    for index in range(12, 20, 2):  # where there is paint ahead
        x, y, degrees = disagreement(items[index], far=14.0)
        assert abs(x) <= 0.21 and abs(y) <= 0.11 and abs(degrees) <= 0.51, (index, x, y, degrees)


def test_priors_fill_the_box(pairs):
    for item in Pairs(pairs / "pairs.csv"):
        error = item.prior.T_map_base.inverse() @ item.truth
        assert max(abs(error.x), abs(error.y)) <= 4.0 and abs(np.degrees(error.yaw)) <= 3.0
    first, second = list(Pairs(pairs / "pairs.csv"))[:2]
    assert first.name == second.name and first.prior.T_map_base != second.prior.T_map_base


def test_the_mosaic_is_a_georeferenced_raster(pairs):
    uri = str(pairs / "mosaics/000008.tif")
    item = Pairs(pairs / "pairs.csv")[16]
    here = SatelliteMap.open(uri, raster_datum(uri)).patch(item.prior.T_map_base, item.patch.grid)
    both = here.coverage & item.patch.coverage
    assert 0.02 < both.mean() < 0.5 and (here.coverage ^ item.patch.coverage).mean() < 0.05 * both.mean()
    assert np.abs(here.image[both].astype(int) - item.patch.image[both]).mean() < 3.0


def test_what_is_left_out_leaves_no_trace(drive, pairs):
    """Neither its pixels, nor a hole where they would be."""
    sequence = KittiOdometry(drive)
    read = sequence.image
    sequence.image = lambda k: np.full_like(read(k), (255, 0, 0)) if k in (7, 8, 9) else read(k)
    red = MosaicBuilder(sequence, cell=0.1)
    assert (red.build(range(FRAMES)).rgb[..., 0] > red.build(range(FRAMES)).rgb[..., 1]).any()
    with rasterio.open(pairs / "mosaics/000008.tif") as raster:
        written = raster.read()
    covered = written[3] > 0
    np.testing.assert_array_equal(
        red.build([k for k in range(FRAMES) if k not in (7, 8, 9)]).rgb[covered],
        np.moveaxis(written[:3], 0, -1)[covered],
    )
    for name in ("000000", "000015"):
        with rasterio.open(pairs / f"mosaics/{name}.tif") as raster:
            np.testing.assert_array_equal(raster.read(4) > 0, covered)


def test_wrong_sequences_are_named(drive, tmp_path):
    with pytest.raises(DatasetError, match="expected images at .*image_0"):
        KittiOdometry(tmp_path)
    (tmp_path / "image_0").symlink_to(drive / "image_0")
    with pytest.raises(DatasetError, match=r"expected the calibration at .*calib\.txt"):
        KittiOdometry(tmp_path)
    (tmp_path / "calib.txt").write_text((drive / "calib.txt").read_text())
    (tmp_path / "poses.txt").write_text("\n".join((drive / "poses.txt").read_text().splitlines()[:9]))
    with pytest.raises(DatasetError, match="the true poses in .*16 lines of 12 numbers or more, got 9"):
        KittiOdometry(tmp_path)
    with pytest.raises(DatasetError, match="expected more than 17 frames"):
        write_mosaic_pairs(KittiOdometry(drive), tmp_path / "out", left_out=16)


def test_command(drive, tmp_path, monkeypatch, capsys):
    import typer

    monkeypatch.setattr(sys, "argv", ["ground_mosaic", str(drive), str(tmp_path / "out"), "--priors", "1"])
    with pytest.raises(SystemExit) as done:
        typer.run(main)
    assert done.value.code == 0 and "16 mosaics, 16 pairs" in capsys.readouterr().out
    with (tmp_path / "out/pairs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 16
    monkeypatch.setattr(sys, "argv", ["ground_mosaic", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as done:
        typer.run(main)
    assert done.value.code == 2 and "expected images at" in capsys.readouterr().err


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    path = shared_data / "kitti/odometry_06"
    if not (path / "image_0").is_dir():
        pytest.skip(f"{path} is absent")
    out = tmp_path_factory.mktemp("kitti")
    write_mosaic_pairs(KittiOdometry(path), out, priors=1, radius=5.0, yaw_range=5.0)
    return out / "pairs.csv"


@pytest.mark.shared_data
def test_real_frames_lie_on_the_mosaic_of_the_others(real):
    """By plain correlation of the street within 3 m of the truth's straight ahead, without any network."""
    items = Pairs(real, grid=GroundGrid.centred(512, 0.2))
    near = []
    for item in (items[k] for k in range(2, 45, 6)):
        grid = GroundGrid(60, 60, 0.2, 20.0)
        points = np.concatenate([grid.centres(), np.zeros((60, 60, 1))], -1) - item.frame.T_base_camera[:3, 3]
        pixels, visible = item.frame.camera.project(points @ item.frame.T_base_camera[:3, :3])
        ground = cv2.remap(item.frame.image, *np.moveaxis(pixels.astype(np.float32), -1, 0), cv2.INTER_LINEAR)
        T_patch_base = item.patch.T_map_patch.inverse() @ item.truth
        reach = 15  # cells of 0.2 m
        wider = GroundGrid(60 + 2 * reach, 60 + 2 * reach, 0.2, 20.0 + 0.2 * reach)
        cells = item.patch.grid.to_cells(T_patch_base.apply(wider.centres())).astype(np.float32)
        above = cv2.remap(item.patch.image, cells[..., 1], cells[..., 0], cv2.INTER_LINEAR)
        scores = cv2.matchTemplate(above[..., 0], ground[..., 0], cv2.TM_CCOEFF_NORMED, mask=visible.astype(np.uint8))
        _, _, _, (column, row) = cv2.minMaxLoc(scores)
        near.append(0.2 * np.abs([reach - row, reach - column]))
    assert (np.median(near, axis=0) <= [0.4, 0.2]).all(), near


@pytest.mark.shared_data
@pytest.mark.slow
def test_real_frames_are_localized_from_a_trackers_prior(real):
    """Better than the prior across the street; along it a straight street says little."""
    from cvloc_ros.localization.localizer import load_localizer

    localizer = load_localizer(None, device="cpu")
    items = Pairs(real, grid=localizer.matcher.patch_grid)
    results = list(localize_items(localizer, items))
    found = PoseErrors.between([r.localization.T_map_base for r in results], [r.truth for r in results])
    chance = PoseErrors.between([r.localization.prior.T_map_base for r in results], [r.truth for r in results])
    assert (np.abs(found.lateral) < 1).mean() > (np.abs(chance.lateral) < 1).mean()
