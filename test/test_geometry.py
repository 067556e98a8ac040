"""Geometry: the conventions that everything else stands on."""

import numpy as np
import pytest
from pyproj import Geod, Transformer

from cvloc_ros.geometry import (
    SE2,
    GroundGrid,
    LocalFrame,
    PinholeCamera,
    camera_extrinsics,
    meters_per_pixel,
    wrap_angle,
)

PLUMB_BOB = (-0.28, 0.07, 0.001, -0.0005, 0.002)
KARLSRUHE = LocalFrame(49.015, 8.43, 110.0)


def camera(distortion=()):
    return PinholeCamera(640, 200, np.array([[400.0, 0, 310], [0, 405, 95], [0, 0, 1]]), distortion)


class TestSE2:
    def test_composes_as_matrices_do(self):
        a, b = SE2(1, 2, 0.5), SE2(-3, 0.4, 2.9)
        np.testing.assert_allclose((a @ b).matrix(), a.matrix() @ b.matrix(), atol=1e-12)
        np.testing.assert_allclose((a @ b @ b.inverse()).vector(), a.vector(), atol=1e-12)
        np.testing.assert_allclose((a.inverse() @ a).vector(), 0, atol=1e-12)

    def test_applies_counter_clockwise(self):
        np.testing.assert_allclose(SE2(10, 20, np.pi / 2).apply([[1, 0], [0, 1]]), [[10, 21], [9, 20]], atol=1e-12)

    def test_matrix_round_trip(self):
        pose = SE2(1, -2, -3.1)
        np.testing.assert_allclose(SE2.from_matrix(pose.matrix()).vector(), pose.vector(), atol=1e-12)

    def test_wraps(self):
        np.testing.assert_allclose(wrap_angle(np.array([np.pi, -np.pi, 3 * np.pi, 0.1])), [-np.pi, -np.pi, -np.pi, 0.1])
        assert abs((SE2(yaw=3) @ SE2(yaw=3)).yaw - (6 - 2 * np.pi)) < 1e-12


class TestGroundGrid:
    def test_row_0_is_forward_and_column_0_left(self):
        grid = GroundGrid(rows=4, cols=6, cell=0.5, x_max=10.0)
        np.testing.assert_allclose(grid.to_metres([0, 0]), [9.75, 1.25])
        np.testing.assert_allclose(grid.to_metres([3, 5]), [8.25, -1.25])
        assert grid.centres().shape == (4, 6, 2)
        np.testing.assert_allclose(grid.centres()[3, 5], [8.25, -1.25])

    def test_round_trip(self):
        grid = GroundGrid(rows=7, cols=9, cell=0.4, x_max=12.3)
        cells = np.random.default_rng(0).uniform(-5, 20, (50, 2))
        np.testing.assert_allclose(grid.to_cells(grid.to_metres(cells)), cells, atol=1e-9)

    def test_centred_grid_has_the_vehicle_in_its_middle(self):
        np.testing.assert_allclose(GroundGrid.centred(400, 0.4).to_cells([0, 0]), [199.5, 199.5])

    def test_coarser_keeps_the_extent(self):
        fine = GroundGrid.centred(8, 0.4)
        coarse = fine.coarser(4)
        assert (coarse.rows, coarse.cell, coarse.x_max, coarse.y_max) == (2, 1.6, fine.x_max, fine.y_max)
        np.testing.assert_allclose(coarse.centres()[0, 0], fine.centres()[:4, :4].mean(axis=(0, 1)))
        with pytest.raises(ValueError, match="cannot be grouped"):
            fine.coarser(3)

    def test_refuses_an_empty_grid(self):
        with pytest.raises(ValueError, match="at least one cell"):
            GroundGrid(0, 4, 0.4, 10)


class TestPinholeCamera:
    @pytest.mark.parametrize("distortion", [(), PLUMB_BOB])
    def test_rays_and_projection_are_inverse(self, distortion):
        pixels = np.stack(np.meshgrid(np.linspace(0, 639, 9), np.linspace(0, 199, 5)), -1)
        rays = camera(distortion).rays(pixels)
        assert (rays[..., 2] == 1).all()
        seen, visible = camera(distortion).project(rays * 7.0)
        np.testing.assert_allclose(seen, pixels, atol=1e-3)
        assert visible.all()

    def test_distortion_bends_outward_rays(self):
        straight, bent = camera().project(np.array([0.7, 0.2, 1]))[0], camera(PLUMB_BOB).project([0.7, 0.2, 1])[0]
        assert np.linalg.norm(bent - [310, 95]) < np.linalg.norm(straight - [310, 95]) - 5  # barrel: k1 < 0

    def test_what_is_behind_or_beside_is_not_seen(self):
        points = np.array([[0, 0, -5], [5, 0, 1], [0, 3, 1], [0.1, 0.1, 1]], float)
        assert camera().project(points)[1].tolist() == [False, False, False, True]
        # Far to the side the polynomial folds back into the image; the mask must not believe it.
        assert not camera((-0.3, 0.1, 0, 0)).project(np.array([[9.0, 0, 1]]))[1].any()
        assert not camera(PLUMB_BOB).project(np.array([[9.0, 0, 1]]))[1].any()

    def test_a_lens_whose_polynomial_turns_back_before_the_corners_still_sees(self):
        wide = PinholeCamera(
            1280, 720, np.array([[400.0, 0, 640], [0, 400, 360], [0, 0, 1]]), (-0.3, 0.09, 0, 0, -0.012)
        )
        points = np.array([[0, 0, 1], [0.2, 0.3, 1], [1.0, 0.1, 1], [5, 1, 1]])
        assert wide.project(points)[1].tolist() == [True, True, True, False]

    @pytest.mark.parametrize("distortion", [(), PLUMB_BOB])
    def test_resized_camera_sees_the_resized_image(self, distortion):
        full, half = camera(distortion), camera(distortion).resized(320, 100)
        points = np.random.default_rng(0).uniform([-0.5, -0.15, 1], [0.5, 0.15, 1], (20, 3))
        # Pixel centres: (u + 0.5) scales, not u.
        np.testing.assert_allclose(
            (half.project(points)[0] + 0.5) * 2, full.project(points)[0] + 0.5, rtol=0, atol=1e-9
        )
        np.testing.assert_allclose(full.resized(320, 100).resized(640, 200).K, full.K, atol=1e-9)

    def test_cropped_camera_sees_the_cropped_image(self):
        crop = camera(PLUMB_BOB).cropped(left=30, top=-5, width=100, height=80)
        point = np.array([-0.5, -0.1, 1.0])
        np.testing.assert_allclose(crop.project(point)[0], camera(PLUMB_BOB).project(point)[0] - [30, -5])
        assert (crop.width, crop.height, crop.distortion) == (100, 80, PLUMB_BOB)

    def test_from_focal_looks_through_the_middle(self):
        np.testing.assert_allclose(PinholeCamera.from_focal(416, 128, 300).project([0, 0, 1])[0], [207.5, 63.5])

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ((640, 200, np.eye(4)), "3x3"),
            ((640, 200, -np.eye(3)), "positive focal"),
            ((0, 200, np.eye(3)), "positive image size"),
            ((640, 200, np.eye(3), (0.1, 0.2)), "distortion coefficients"),
        ],
    )
    def test_refuses_what_is_no_camera(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            PinholeCamera(*arguments)


class TestExtrinsics:
    def optical(self, point, **mount):
        """Return a vehicle-frame point in the optical frame (x right, y down, z forward)."""
        return (np.linalg.inv(camera_extrinsics(**mount)) @ [*point, 1])[:3]

    def test_a_level_camera(self):
        np.testing.assert_allclose(self.optical([10, 0, 1.5], height=1.5), [0, 0, 10], atol=1e-12)
        np.testing.assert_allclose(self.optical([10, 2, 0], height=1.5, x=1, y=0.5), [-1.5, 1.5, 9], atol=1e-12)

    def test_positive_angles_turn_left_down_and_right(self):
        left = self.optical([10, 10 * np.tan(0.3), 1.5], height=1.5, yaw=0.3)
        np.testing.assert_allclose(left[:2], 0, atol=1e-9)
        down = self.optical([10, 0, 1.5 - 10 * np.tan(0.2)], height=1.5, pitch=0.2)
        np.testing.assert_allclose(down[:2], 0, atol=1e-9)
        rolled = self.optical([10, -1, 1.5], height=1.5, roll=0.1)  # tilted to the right: the right side is higher
        assert rolled[0] > 0 and rolled[1] < 0

    def test_is_rigid(self):
        R = camera_extrinsics(height=1, yaw=1, pitch=-0.4, roll=2)[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) == pytest.approx(1)


class TestLocalFrame:
    def test_metres_are_geodesic_metres_from_the_datum(self):
        geod = Geod(ellps="WGS84")
        for azimuth in (0, 37, 90, 200):
            for distance in (10.0, 1000.0, 10_000.0):
                lon, lat, _ = geod.fwd(KARLSRUHE.longitude, KARLSRUHE.latitude, azimuth, distance)
                expected = distance * np.array([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))])
                np.testing.assert_allclose(KARLSRUHE.to_enu(lat, lon), expected, atol=1e-3)

    def test_agrees_with_the_tangent_plane(self):
        to_ecef = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
        lat0, lon0, h0 = np.radians(KARLSRUHE.latitude), np.radians(KARLSRUHE.longitude), KARLSRUHE.altitude
        lat, lon = KARLSRUHE.to_wgs84(np.array([300.0, -400.0]))
        d = np.subtract(to_ecef.transform(lon, lat, h0), to_ecef.transform(KARLSRUHE.longitude, KARLSRUHE.latitude, h0))
        east = [-np.sin(lon0), np.cos(lon0), 0]
        north = [-np.sin(lat0) * np.cos(lon0), -np.sin(lat0) * np.sin(lon0), np.cos(lat0)]
        # At 110 m of height the tangent plane is longer than the ellipsoid by 110 / 6.4e6.
        np.testing.assert_allclose([d @ east, d @ north], [300, -400], atol=0.02)

    def test_round_trip(self):
        points = np.random.default_rng(0).uniform(-5000, 5000, (30, 2))
        place = KARLSRUHE.to_wgs84(points)
        np.testing.assert_allclose(KARLSRUHE.to_enu(place[:, 0], place[:, 1]), points, atol=1e-6)

    def test_takes_numpys_numbers(self):
        frame = LocalFrame(*np.array([KARLSRUHE.latitude, KARLSRUHE.longitude]))
        np.testing.assert_allclose(frame.to_enu(KARLSRUHE.latitude, KARLSRUHE.longitude), 0, atol=1e-6)

    @pytest.mark.parametrize("datum", [(91, 0), (0, 181), (float("nan"), 0)])
    def test_refuses_a_datum_that_is_not_on_earth(self, datum):
        with pytest.raises(ValueError, match="expected a datum"):
            LocalFrame(*datum)


def test_meters_per_pixel():
    # The literature's constant for KITTI is 0.195822; the formula gives 0.195828 at latitude 49.015.
    assert meters_per_pixel(49.015, 18, 2) == pytest.approx(0.195822, rel=1e-4)
    assert meters_per_pixel(42.29, 18, 2) == pytest.approx(0.22086, rel=1e-4)
    assert 512 * meters_per_pixel(49.015, 18, 2) == pytest.approx(100.26, abs=0.01)
    assert meters_per_pixel(0, 0) == pytest.approx(2 * np.pi * 6378137 / 256)
