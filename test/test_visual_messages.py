"""What people look at, message by message: in the right place, the right way up, and as RViz can show it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rasterio

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from ros_world import DATUM, write_imagery
from visual_world import PRIOR, TRUE, area, frame_of, perfect_localization
from visualization_msgs.msg import Marker, MarkerArray

from cvloc_ros.evaluation.ground_view import sample_patch
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.types import Matches
from cvloc_ros.ros.visuals.cloud import bev_cloud, read_cloud, satellite_cloud
from cvloc_ros.ros.visuals.markers import match_markers, pose_markers
from cvloc_ros.ros.visuals.scene import Scene, draw_textures
from cvloc_ros.ros.visuals.tiles import CREDIT, NAMESPACE, SatelliteTiles
from cvloc_ros.ros.visuals.track import Track


@pytest.fixture(scope="module")
def imagery(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagery") / "map.tif"
    write_imagery(path)
    return path


@pytest.fixture(scope="module")
def satellite_map(imagery):
    return SatelliteMap.open(imagery, DATUM)


@pytest.fixture(scope="module")
def frame(imagery):
    return frame_of(imagery)


@pytest.fixture(scope="module")
def localization():
    return perfect_localization()


class TestTiles:
    """Every trap of RViz's textured markers; see the docstring of `visuals.tiles`."""

    @pytest.fixture
    def tiles(self, satellite_map):
        return SatelliteTiles(satellite_map, frame_id="map")

    def test_mosaic_is_the_satellite_image(self, tiles, satellite_map):
        """Drawn from the messages alone, tiles lie where they belong, north up, without a seam."""
        markers = tiles.move(10.0, -20.0)
        shown = draw_textures(markers, west=-90, north=80, rows=500, cols=500, cell=0.4).astype(int)
        wanted = area(satellite_map, -90, 80, 500, 500, 0.4).astype(int)
        error = np.abs(shown - wanted).max(axis=-1)
        assert np.quantile(error, 0.999) <= 12 and error.mean() < 3
        for turned in (wanted[::-1], wanted[:, ::-1], wanted.transpose(1, 0, 2)):
            assert np.abs(shown - turned).mean() > 20, "the ground is too dull to show the orientation"
        seam = round(90 / 0.4)  # the edge between two tiles runs through the datum
        assert error[:, seam - 2 : seam + 2].mean() < 4

    def test_marker_is_what_rviz_can_show(self, tiles):
        markers = tiles.move(0.0, 0.0)
        assert 4 <= len(markers) <= 16
        for marker in markers:
            assert marker.type == Marker.TRIANGLE_LIST and marker.action == Marker.ADD
            assert marker.texture_resource.startswith("embedded://") and marker.texture.format == "jpeg"
            assert len(marker.points) == len(marker.uv_coordinates) == 6 and not marker.colors
            assert (marker.color.r, marker.color.g, marker.color.b, marker.color.a) == (1, 1, 1, 1)
            assert (marker.scale.x, marker.scale.y, marker.scale.z) == (1, 1, 1)
            assert marker.pose.orientation.w == 1 and marker.header.frame_id == "map"
            assert marker.header.stamp.sec == marker.header.stamp.nanosec == 0
            assert marker.lifetime.sec == marker.lifetime.nanosec == 0 and not marker.frame_locked
            assert all(-0.2 < point.z < 0 for point in marker.points), "below what lies on the ground"
            assert len(marker.texture.data) < 100_000
        names = [marker.texture_resource for marker in markers]
        assert len(set(names)) == len(names) == len({marker.id for marker in markers})

    def test_each_is_sent_once_and_far_ones_are_deleted(self, tmp_path):
        tiles = SatelliteTiles(endless_map(tmp_path), frame_id="map")
        scene, sent = Scene(), Counter()
        for x in np.arange(0.0, 2000.0, 7.0):
            changes = tiles.move(float(x), 0.0)
            sent.update(marker.id for marker in changes if marker.action == Marker.ADD)
            scene.take("satellite_tiles", MarkerArray(markers=changes))
            shown = scene.markers["satellite_tiles"].values()
            middles = [np.mean([[p.x, p.y] for p in marker.points], axis=0) for marker in shown]
            assert min(np.hypot(*(middle - [x, 0.0])) for middle in middles) < 0.75 * tiles.side, (
                "there is ground under the vehicle"
            )
            assert len(shown) < 60
        assert not scene.problems and set(sent.values()) == {1}

    def test_all_again_begins_with_a_deletion_that_has_an_id_of_its_own(self, tiles):
        scene = Scene()
        scene.take("satellite_tiles", MarkerArray(markers=tiles.move(0.0, 0.0)))
        before = dict(scene.markers["satellite_tiles"])
        again = tiles.all()
        assert again[0].action == Marker.DELETEALL and len(again) == len(before) + 1
        scene.take("satellite_tiles", MarkerArray(markers=again))
        assert not scene.problems and scene.markers["satellite_tiles"].keys() == before.keys()
        scene.take("satellite_tiles", MarkerArray(markers=again[1:]))
        assert "sent twice" in scene.problems[0]

    def test_nothing_where_there_is_no_imagery(self, tiles):
        assert tiles.move(5000.0, 5000.0) == []

    def test_imagery_is_credited(self, satellite_map, monkeypatch):
        monkeypatch.setattr(satellite_map, "attribution", "© Stadt Wien – Datenquelle")
        markers = SatelliteTiles(satellite_map, frame_id="map").move(0.0, 0.0)
        credits = [marker for marker in markers if marker.ns == CREDIT]
        assert len(credits) == sum(marker.ns == NAMESPACE for marker in markers) > 0
        assert credits[0].text == "(c) Stadt Wien  Datenquelle" and credits[0].type == Marker.TEXT_VIEW_FACING


def endless_map(folder):
    """Return a strip of coarse imagery, 4 km long."""
    path = folder / "strip.tif"
    transform = rasterio.transform.from_origin(-500, 500, 5.0, 5.0)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 800), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=800, height=200, count=3, dtype="uint8", crs=DATUM.crs.to_wkt(),
        transform=transform,
    ) as raster:  # fmt: skip
        raster.write(pixels)
    return SatelliteMap.open(path, DATUM, cell=0.8)


class TestClouds:
    def test_matched_ground_lies_on_its_image(self, frame, localization, satellite_map):
        """At the true pose, camera and satellite show the same ground in the same place."""
        points, colors = read_cloud(bev_cloud(frame, localization, frame_id="map"))
        assert len(points) > 3000
        ground = TRUE.inverse().apply(points[:, :2])
        assert ground[:, 0].min() > 5 and ground[:, 0].max() < 41 and np.ptp(ground[:, 1]) > 15

        def likeness(T):
            around = satellite_map.patch(T, GroundGrid.centred(256, 0.4))
            satellite = sample_patch(around, ground[None])[0]
            return np.corrcoef(colors[:, 1], satellite[:, 1])[0, 1]

        assert likeness(TRUE) > 0.9
        assert likeness(TRUE @ SE2(0.0, 8.0, 0.0)) < 0.7 and likeness(TRUE @ SE2(0.0, 0.0, 0.4)) < 0.7

    def test_satellite_points_are_the_satellite_image(self, satellite_map):
        cloud = satellite_cloud(satellite_map, 20.0, -30.0, frame_id="map")
        points, colors = read_cloud(cloud)
        assert len(points) == 320 * 320 and np.ptp(points, axis=0)[:2] == pytest.approx(0.4 * 319, abs=1e-3)
        wanted = area(satellite_map, 20 - 64, -30 + 64, 320, 320, 0.4)
        rows = np.round((-30 + 64 - points[:, 1]) / 0.4 - 0.5).astype(int)
        columns = np.round((points[:, 0] - 20 + 64) / 0.4 - 0.5).astype(int)
        assert (wanted[rows, columns] == colors).all()
        assert cloud.point_step * cloud.width == cloud.row_step == len(cloud.data)

    def test_no_matches_no_points(self, frame, localization):
        nothing = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
        unmatched = replace(localization, matches=nothing, accepted=False, reason="degenerate_matches")
        assert bev_cloud(frame, unmatched, frame_id="map").width == 0
        assert all(not marker.points for marker in match_markers(unmatched, frame_id="map"))


class TestMarkers:
    def test_lines_go_from_the_prior_to_the_match(self, localization):
        lines, found = match_markers(localization, frame_id="map")
        places = np.array([[p.x, p.y] for p in lines.points]).reshape(-1, 2, 2)
        assert 100 < len(places) <= 250 and len(lines.colors) == 2 * len(places) == 2 * len(found.colors)
        np.testing.assert_allclose(TRUE.inverse().apply(places[:, 1]), PRIOR.T_map_base.inverse().apply(places[:, 0]))
        heaviest, lightest = lines.colors[-1], lines.colors[0]
        assert heaviest.r + heaviest.g > lightest.r + lightest.g, "yellow weighs more than violet"

    def test_ellipses_have_two_sigma_and_do_not_outlive_their_image(self, localization):
        markers = pose_markers(localization, frame_id="map")
        assert [marker.ns for marker in markers] == ["prior", "prior", "estimate", "estimate", "prior"]
        outline = np.array([[p.x, p.y] for p in markers[3].points]) - [TRUE.x, TRUE.y]
        np.testing.assert_allclose(np.abs(outline).max(axis=0), [2 * 0.3, 2 * 0.5], rtol=0.01)
        assert all(marker.lifetime.sec > 0 for marker in markers)
        box = PRIOR.T_map_base.inverse().apply(np.array([[p.x, p.y] for p in markers[4].points]))
        np.testing.assert_allclose(np.abs(box), [[6.0, 5.0]] * 5)
        green, red = markers[2].color, pose_markers(replace(localization, accepted=False), frame_id="map")[2].color
        assert green.g > green.r and red.r > red.g


def test_track_is_bounded_and_whole():
    track = Track(step=1.0, most=100)
    for x in np.arange(0, 5000, 0.25):
        track.extend(float(x), 0.0, lambda x=x: x)
    items = np.array(track.items())
    assert 45 <= len(items) <= 100 and items[0] == 0 and items[-1] > 4900
    assert np.ptp(np.diff(items)[:40]) == 0, "evenly thinned"
