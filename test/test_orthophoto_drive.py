"""Drives over an orthophoto: the ground is where the geometry says, and the pipeline runs on real imagery."""

import sys

import cv2
import numpy as np
import pytest
import torch
from orthophoto_world import CAMERA, DATUM, MOUNT, ROUTE, write_raster

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.orthophoto_drive import RouteError, orthophoto_drive, read_route
from cvloc_ros.datasets.orthophoto_view import Ground, OrthophotoRenderer
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.evaluation.run import localize_bag, run_bag
from cvloc_ros.evaluation.summary import summarize
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import SatelliteMap, raster_datum
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.types import Localization, Matches
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.weights import save_weights

DISTORTED = PinholeCamera(320, 180, np.array([[190.0, 0, 162], [0, 191, 86], [0, 0, 1]]), (-0.2, 0.05, 1e-3, -1e-3))


class TestGeometry:
    @pytest.mark.parametrize("camera", [CAMERA, DISTORTED])
    def test_marks_on_the_ground_appear_where_they_project_to(self, camera, tmp_path):
        pose = SE2(7.0, -4.0, 0.6)
        ahead = np.array([[7.5, 0.3], [8.0, -2.5], [8.5, 2.8], [12.0, -1.0], [14.0, 4.0], [20.0, -3.0]])
        marks = pose.apply(ahead)
        pixels = np.full((1200, 1200, 3), 40, np.uint8)
        column_row = write_raster(tmp_path / "map.tif", pixels, cell=0.1)
        for col, row in column_row(marks):
            cv2.circle(pixels, (round(col * 16), round(row * 16)), 3 * 16, (230, 230, 230), -1, cv2.LINE_AA, 4)
        write_raster(tmp_path / "map.tif", pixels, cell=0.1)

        ground = Ground.read(str(tmp_path / "map.tif"), DATUM, np.zeros((1, 2)))
        image = OrthophotoRenderer(ground, camera, MOUNT, seed=3).render(pose, 1.0).astype(float).mean(axis=-1)
        around = np.linspace(0, 2 * np.pi, 64)
        for x, y in ahead:
            rim = [x + 0.3 * np.cos(around), y + 0.3 * np.sin(around), np.zeros(64), np.ones(64)]
            outline, visible = camera.project((np.linalg.inv(MOUNT) @ rim)[:3].T)
            assert visible.all()
            area = cv2.moments(outline.astype(np.float32))
            u, v = area["m10"] / area["m00"], area["m01"] / area["m00"]
            reach = round(1.4 * 0.3 * camera.K[0, 0] / (x - 1.2)) + 2
            rows = slice(max(0, round(v) - reach), round(v) + reach + 1)
            cols = slice(max(0, round(u) - reach), round(u) + reach + 1)
            brightness = image[rows, cols] - np.quantile(image[rows, cols], 0.3)
            brightness[brightness < 0.4 * brightness.max()] = 0
            r, c = np.mgrid[rows, cols][:, : brightness.shape[0], : brightness.shape[1]]
            found = np.array([(c * brightness).sum(), (r * brightness).sum()]) / brightness.sum()
            np.testing.assert_allclose(found, [u, v], atol=0.5)

    def test_what_is_above_the_horizon_is_sky(self, tmp_path):
        write_raster(tmp_path / "map.tif", np.full((600, 600, 3), (150, 40, 40), np.uint8), cell=0.2)
        ground = Ground.read(str(tmp_path / "map.tif"), DATUM, np.zeros((1, 2)))
        level = camera_extrinsics(height=1.65, pitch=0.0)
        image = OrthophotoRenderer(ground, CAMERA, level, seed=0).render(SE2(), 0.0).astype(int)
        red = image[..., 0] - image[..., 2]
        assert (red[:93] < 0).mean() > 0.99 and (red[99:] > 0).mean() > 0.99  # the horizon is at row 95.5

    def test_both_views_agree(self, tmp_path):
        rng = np.random.default_rng(0)
        texture = sum(
            cv2.resize(rng.normal(size=(n, n)), (800, 800), interpolation=cv2.INTER_CUBIC) for n in (25, 80, 200)
        )
        pixels = np.uint8(np.clip(128 + 40 * texture, 0, 255))[..., None].repeat(3, -1)
        write_raster(tmp_path / "map.tif", pixels, cell=0.2)
        pose = SE2(5.0, 3.0, -2.0)
        ground = Ground.read(str(tmp_path / "map.tif"), DATUM, np.zeros((1, 2)))
        image = OrthophotoRenderer(ground, CAMERA, MOUNT, seed=1).render(pose, 0.0)
        shift, correlation = displacement(image, CAMERA, MOUNT, SatelliteMap.open(tmp_path / "map.tif", DATUM), pose)
        assert np.abs(shift).max() <= 0.2 and correlation > 0.8


def displacement(image, camera, T_base_camera, satellite_map, pose, *, near=6.0, far=22.0):
    """Return by how much (m, forward and left) an image's ground lies beside the map's, and their correlation there."""
    grid = GroundGrid(round((far - near) / 0.2), 80, 0.2, far)
    points = np.concatenate([grid.centres(), np.zeros((grid.rows, grid.cols, 1))], -1)
    T_camera_base = np.linalg.inv(T_base_camera)
    pixels, visible = camera.project(points @ T_camera_base[:3, :3].T + T_camera_base[:3, 3])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    u, v = np.moveaxis(pixels.astype(np.float32), -1, 0)
    bev = cv2.remap(cv2.GaussianBlur(grey, (0, 0), 0.7), u, v, cv2.INTER_LINEAR).astype(np.float32)
    best, shift = -1.0, None
    for x in np.arange(-1.0, 1.01, 0.2):
        for y in np.arange(-1.0, 1.01, 0.2):
            patch = satellite_map.patch(pose @ SE2(x, y, 0.0), grid).image
            other = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
            correlation = np.corrcoef(bev[visible], other[visible])[0, 1]
            if correlation > best:
                best, shift = correlation, np.array([x, y])
    return shift, best


class TestRoute:
    @pytest.mark.parametrize("header", ["latitude,longitude\n", "", "# from the editor\n\n"])
    def test_lines_are_read(self, tmp_path, header):
        (tmp_path / "route.csv").write_text(header + "48.1, 16.2\n\n48.2,16.3\n")
        np.testing.assert_array_equal(read_route(tmp_path / "route.csv"), [[48.1, 16.2], [48.2, 16.3]])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("48.1,16.2\nnorth,16\n", "line 2: expected 'latitude,longitude'.*got 'north,16'"),
            ("48.1,16.2\n48.1\n", "line 2.*got '48.1'"),
            ("48.1,16.2\n148.1,16.2\n", "line 2"),
            ("latitude,longitude\n48.1,16.2\n", "at least two waypoints.*got 1"),
            ("", "got 0"),
        ],
    )
    def test_wrong_lines_are_named(self, tmp_path, text, message):
        (tmp_path / "route.csv").write_text(text)
        with pytest.raises(RouteError, match=message):
            read_route(tmp_path / "route.csv")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(RouteError, match="there is no file"):
            read_route(tmp_path / "route.csv")

    def test_a_route_that_leaves_the_imagery_is_refused(self, tmp_path):
        write_raster(tmp_path / "map.tif", np.zeros((400, 400, 3), np.uint8), cell=0.5)
        inside, outside = DATUM.to_wgs84(np.array([[0.0, 0.0], [140.0, 0.0]]))
        with pytest.raises(RouteError, match="1 of 2 waypoints are not, the first is number 2"):
            orthophoto_drive(str(tmp_path / "map.tif"), np.array([inside, outside]))
        with pytest.raises(RouteError, match="kilometres"):
            orthophoto_drive(str(tmp_path / "map.tif"), np.array([inside, inside[::-1]]))


def test_command_writes_a_bag(tmp_path, monkeypatch, capsys):
    import typer

    from cvloc_ros.datasets.orthophoto_drive import main

    write_raster(tmp_path / "map.tif", np.full((400, 400, 3), 90, np.uint8), cell=0.5)
    route = DATUM.to_wgs84(np.array([[-20.0, 0.0], [20.0, 0.0]]))
    (tmp_path / "route.csv").write_text("".join(f"{a},{b}\n" for a, b in route))
    arguments = [str(tmp_path / name) for name in ("map.tif", "route.csv", "bag")]
    options = ["--duration", "1", "--width", "128", "--height", "64", "--mount-height", "2"]
    monkeypatch.setattr(sys, "argv", ["orthophoto_drive", *arguments, *options])
    with pytest.raises(SystemExit) as done:
        typer.run(main)
    assert done.value.code == 0 and "11 images" in capsys.readouterr().out
    bag = Bag.open(tmp_path / "bag")
    assert (bag.camera.width, bag.T_base_camera[2, 3]) == (128, 2.0)
    with pytest.raises(SystemExit) as done:  # it is there already
        typer.run(main)
    assert done.value.code == 2 and "remove it" in capsys.readouterr().err


@pytest.mark.shared_data
def test_vienna_lies_where_its_map_says(vienna):
    drive = orthophoto_drive(vienna, read_route(ROUTE))
    satellite_map = SatelliteMap.open(vienna, raster_datum(vienna))
    assert 380 < drive.trajectory.distance < 450
    assert np.ptp(drive.trajectory.poses[:, 2]) > np.radians(80)  # it turns
    for seconds in (5, 20, 33, 40, 45):
        pose = drive.trajectory.at(int(drive.trajectory.stamps[0]) + seconds * 10**9).T_map_base
        image = drive.renderer.render(pose, float(seconds))
        shift, correlation = displacement(image, drive.camera, drive.T_base_camera, satellite_map, pose)
        assert np.abs(shift).max() <= 0.2 and correlation > 0.8, (seconds, shift, correlation)


class Correlator:
    """A localizer without a network: plain correlation of the ground in the image with the map, heading and all."""

    def __init__(self, satellite_map):
        self.satellite_map = satellite_map
        self.grid, self.patch_grid = GroundGrid(40, 46, 0.8, 38.4), GroundGrid.centred(140, 0.8)

    def localize(self, frame, prior):
        (pixels,), (visible,) = ground_pixels(frame.camera, frame.T_base_camera, self.grid)
        size = np.float32([frame.camera.width, frame.camera.height])
        u, v = np.moveaxis((pixels + 1) / 2 * size - np.float32(0.5), -1, 0)
        ground = cv2.cvtColor(cv2.remap(frame.image, u, v, cv2.INTER_LINEAR), cv2.COLOR_RGB2GRAY)
        best, found = -1.0, prior.T_map_base
        for turn in np.radians(np.arange(-8, 9, 2)):
            patch = self.satellite_map.patch(prior.T_map_base @ SE2(0, 0, turn), self.patch_grid)
            grey = cv2.cvtColor(patch.image, cv2.COLOR_RGB2GRAY)
            score = cv2.matchTemplate(grey, ground, cv2.TM_CCOEFF_NORMED, mask=np.uint8(visible) * 255)
            row, col = np.unravel_index(np.nanargmax(np.where(np.isfinite(score), score, -1)), score.shape)
            if score[row, col] > best:
                best = score[row, col]
                shift = self.patch_grid.to_metres([row, col]) - self.grid.to_metres([0, 0])
                found = patch.T_map_patch @ SE2(*shift, 0)
        matches = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
        accepted = bool(best > 0.6)
        reason = "" if accepted else "low_quality"
        covariance = np.diag([0.4, 0.4, np.radians(1.5)]) ** 2
        return Localization(
            frame.stamp,
            prior,
            found,
            covariance,
            float(best),
            accepted,
            reason,
            matches,
            None,
            {"match": 1.0},
            search_box=(20.0, 20.0, np.radians(9.0)),
        )


@pytest.mark.shared_data
@pytest.mark.slow
def test_vienna_is_found_by_plain_correlation(vienna, tmp_path):
    """Bag, truth, camera, imagery and map frame agree: without learning, the drive is localized to half a metre."""
    write_drive_bag(tmp_path / "bag", orthophoto_drive(vienna, read_route(ROUTE), duration=12.0), workers=1)
    bag = Bag.open(tmp_path / "bag")
    result = run_bag(bag, Correlator(SatelliteMap.open(vienna, bag.datum)), datum=bag.datum)
    summary = summarize(result)
    assert summary["localized"] > 0.6 * summary["frames"]
    assert summary["position_error_m"]["median"] < 0.6 and summary["yaw_error_deg"]["median"] < 1.5
    assert summary["tracker"]["position_error_m"]["rmse"] < 1.0 < summary["gnss"]["position_error_m"]["rmse"] / 3


@pytest.mark.shared_data
def test_vienna_goes_through_the_pipeline(vienna, tmp_path):
    """Whatever the weights: images, imagery, odometry and GNSS of the bag become records and outputs."""
    torch.manual_seed(0)
    even = Calibration.constant((1.0, 1.0, 0.02), 0.5)
    weights = tmp_path / "random.safetensors"
    save_weights(VoteFlow(), weights, {"calibration": even.to_card()})
    write_drive_bag(tmp_path / "bag", orthophoto_drive(vienna, read_route(ROUTE), duration=4.0), workers=1)
    result = localize_bag(tmp_path / "bag", vienna, weights=str(weights), device="cpu")
    summary = summarize(result)
    assert summary["frames"] == 41
    assert summary["gnss"]["position_error_m"]["mean"] > 3


@pytest.mark.shared_data
@pytest.mark.slow
def test_vienna_is_localized(vienna, tmp_path):
    write_drive_bag(tmp_path / "bag", orthophoto_drive(vienna, read_route(ROUTE), duration=18.0))
    summary = summarize(localize_bag(tmp_path / "bag", vienna, device="cpu"))
    assert summary["position_error_m"]["median"] < 0.6  # a guess in the search box is 15 m off
    assert summary["tracker"]["position_error_m"]["rmse"] < summary["gnss"]["position_error_m"]["rmse"] / 5
