"""Drives over an orthophoto with hills, and in another season: what the camera sees, and what is refused."""

import cv2
import numpy as np
import pytest
import rasterio
from orthophoto_world import CAMERA, DATUM, MOUNT, ROUTE, write_raster

from cvloc_ros.datasets.height_map import HeightMap
from cvloc_ros.datasets.orthophoto_drive import RouteError, orthophoto_drive, read_route
from cvloc_ros.datasets.orthophoto_view import Ground, OrthophotoRenderer
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.terrain import attitude_on
from cvloc_ros.evaluation.metrics import PoseErrors
from cvloc_ros.evaluation.run import localize_bag
from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import ImageryError, raster_datum

TERRAIN = "aerial/44_2_dgm.tif"


def write_heights(path, heights, *, cell):
    """Write metres (H, W) as a GeoTIFF around the datum."""
    write_raster(path, heights[..., None].repeat(3, -1).astype(np.uint8), cell=cell)
    with rasterio.open(path) as raster:
        profile = raster.profile | {"count": 1, "dtype": "float32", "nodata": -9999.0}
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(heights.astype(np.float32), 1)


class TestTerrain:
    def hill(self, tmp_path, slope=0.06):
        """A plane up to the crest 15 m north of the datum, and down again behind it."""
        north = 0.5 * (300 - np.arange(600))[:, None] * np.ones(600)
        write_heights(tmp_path / "heights.tif", 200 + slope * (15 - np.abs(north - 15)), cell=0.5)
        return HeightMap.read(str(tmp_path / "heights.tif"), DATUM, west=-100, north=100, east=100, south=-100)

    def test_heights_lie_where_the_raster_says(self, tmp_path):
        heights = self.hill(tmp_path)
        found = heights(np.array([[0.0, 0.0], [40.0, 0.0], [0.0, 10.0], [0.0, 40.0]]))
        np.testing.assert_allclose(found, [200, 200, 200.6, 199.4], atol=0.07)  # UTM is turned by a degree

    def test_rays_meet_the_nearest_slope(self, tmp_path):
        heights = self.hill(tmp_path, slope=0.0)
        eye = np.array([3.0, -20.0, 201.65])
        rays = np.array([[0, 1, -0.165], [1, 0, -0.0165], [0, 1, 0.01], [0, 0.5, -0.0825]])
        np.testing.assert_allclose(heights.distances(eye, rays), [10, 100, 0, 10], rtol=5e-3)
        # uphill 6 % the same ray meets the ground sooner: 1.65 / (0.165 + 0.06)
        heights = self.hill(tmp_path)
        eye[2] = heights(eye[:2]) + 1.65
        np.testing.assert_allclose(heights.distances(eye, rays[:1]), 1.65 / 0.225, rtol=1e-2)

    def test_a_crest_hides_what_lies_behind(self, tmp_path):
        pixels = np.full((800, 800, 3), 90, np.uint8)
        pixels[: 400 - int(22 / 0.25)] = (220, 20, 20)  # from 22 m north on, behind the crest at 15 m
        write_raster(tmp_path / "map.tif", pixels, cell=0.25)
        self.hill(tmp_path, slope=0.12)
        route = DATUM.to_wgs84(np.array([[0.0, -12.0], [0.0, 30.0]]))
        red = []
        for terrain in (None, str(tmp_path / "heights.tif")):
            drive = orthophoto_drive(str(tmp_path / "map.tif"), route, terrain=terrain)
            image = drive.renderer.render(SE2(0.0, -5.0, np.pi / 2), 0.0).astype(int)
            red.append((image[..., 0] - image[..., 1] > 25).mean())
        assert red[0] > 0.02 and red[1] < red[0] / 10

    def test_marks_on_a_slope_appear_where_they_project_to(self, tmp_path):
        heights = self.hill(tmp_path)
        pixels = np.full((1200, 1200, 3), 40, np.uint8)
        column_row = write_raster(tmp_path / "map.tif", pixels, cell=0.1)
        mark = np.array([1.0, 4.0])
        (col, row), radius = column_row(mark[None])[0], 4
        cv2.circle(pixels, (round(col * 16), round(row * 16)), radius * 16, (230, 230, 230), -1, cv2.LINE_AA, 4)
        write_raster(tmp_path / "map.tif", pixels, cell=0.1)
        ground = Ground.read(str(tmp_path / "map.tif"), DATUM, np.zeros((1, 2)))
        pose = SE2(0.0, -6.0, np.pi / 2)
        image = OrthophotoRenderer(ground, CAMERA, MOUNT, 3, heights).render(pose, 1.0).astype(float).mean(axis=-1)
        T = np.linalg.inv(attitude_on(heights, pose.x, pose.y, pose.yaw) @ MOUNT)
        (u, v), seen = CAMERA.project(T[:3, :3] @ [*mark, heights(mark)] + T[:3, 3])
        assert seen
        bright = image[round(v) - 12 : round(v) + 13, round(u) - 25 : round(u) + 26]
        bright = np.clip(bright - 0.6 * bright.max(), 0, None)
        r, c = np.mgrid[: bright.shape[0], : bright.shape[1]]
        found = np.array([(c * bright).sum(), (r * bright).sum()]) / bright.sum() + [round(u) - 25, round(v) - 12]
        np.testing.assert_allclose(found, [u, v], atol=1.0)

    def test_what_cannot_be_driven_is_refused(self, tmp_path):
        write_raster(tmp_path / "map.tif", np.full((800, 800, 3), 90, np.uint8), cell=0.25)
        self.hill(tmp_path, slope=0.6)
        route = DATUM.to_wgs84(np.array([[0.0, -12.0], [0.0, 30.0]]))
        with pytest.raises(RouteError, match="never steeper than 30 %.* 60 %.*no bridges"):
            orthophoto_drive(str(tmp_path / "map.tif"), route, terrain=str(tmp_path / "heights.tif"))
        with pytest.raises(ImageryError, match="there is no file"):
            orthophoto_drive(str(tmp_path / "map.tif"), route, terrain=str(tmp_path / "none.tif"))


@pytest.mark.shared_data
def test_another_season_keeps_the_place_and_changes_the_colours(vienna):
    route = raster_datum(vienna).to_enu(*read_route(ROUTE)[:5].T)
    ground = Ground.read(vienna, raster_datum(vienna), route)
    other = ground.in_another_season(0)
    np.testing.assert_array_equal(other.rgb, ground.in_another_season(0).rgb)
    change = np.abs(other.rgb.astype(int) - ground.rgb).mean()
    edges = [cv2.Canny(cv2.cvtColor(g.rgb, cv2.COLOR_RGB2GRAY), 60, 120) > 0 for g in (ground, other)]
    assert change > 20 and (edges[0] & edges[1]).sum() > 0.3 * edges[0].sum()


@pytest.mark.shared_data
@pytest.mark.slow
def test_vienna_on_its_terrain_in_another_season(vienna, shared_data, tmp_path):
    """Hills that the matcher takes for flat, and colours that differ from the map's: each frame from its fix."""
    drive = orthophoto_drive(
        vienna, read_route(ROUTE)[:19], duration=12.0, terrain=str(shared_data / TERRAIN), other_season=True
    )
    write_drive_bag(tmp_path / "bag", drive)
    frames = localize_bag(tmp_path / "bag", vienna, device="cpu").frames
    lateral = np.abs([PoseErrors.between([f.estimate], [f.truth]).lateral[0] for f in frames if f.estimate and f.truth])
    assert len(lateral) > 90 and np.median(lateral) < 2.0  # a guess in the search box is 10 m off
