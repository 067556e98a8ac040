"""Fisheye lenses and panoramas: what they project, and that the whole pipeline runs on them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from painted_town import see

from cvloc_ros.datasets.town import Appearance, Town, crop_patch
from cvloc_ros.datasets.town.pairs import GRID, draw_pose
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.geometry import (
    SE2,
    EquirectangularCamera,
    FisheyeCamera,
    ForwardView,
    PinholeCamera,
    camera_extrinsics,
)
from cvloc_ros.models.matcher import MatchInput
from cvloc_ros.models.preprocess import fit_image
from cvloc_ros.models.weights import load_matcher

LENS = FisheyeCamera(640, 480, np.array([[190.0, 0, 322], [0, 191, 238], [0, 0, 1]]), (0.02, -0.01, 0.003, -0.0005))
PANORAMA = EquirectangularCamera(1024, 512)


class TestFisheye:
    def test_agrees_with_opencv(self):
        points = np.random.default_rng(0).uniform([-2, -2, 0.3], [2, 2, 3], (200, 3))
        theirs, _ = cv2.fisheye.projectPoints(
            points[:, None], np.zeros(3), np.zeros(3), LENS.K, np.array(LENS.distortion)
        )
        pixels, visible = LENS.project(points)
        np.testing.assert_allclose(pixels, theirs[:, 0], atol=1e-6)
        assert 0.3 < visible.mean() <= 1

    def test_sees_what_is_beside_it_and_a_little_behind(self):
        lens = FisheyeCamera(800, 800, np.array([[200.0, 0, 399.5], [0, 200, 399.5], [0, 0, 1]]))
        points = np.array([[1.0, 0, 0], [1, 0, -0.2], [0, 0, -1], [0, 0, 0]])
        pixels, visible = lens.project(points)
        assert visible.tolist() == [True, True, False, False]
        np.testing.assert_allclose(pixels[0], [399.5 + 200 * np.pi / 2, 399.5])
        assert pixels[1, 0] > pixels[0, 0]

    def test_a_polynomial_that_turns_back_does_not_invent_a_second_picture(self):
        lens = FisheyeCamera(640, 480, LENS.K, (-0.2, 0, 0, 0))  # falls from 74 degrees on
        angle = np.radians([60, 73, 80, 120])
        _, visible = lens.project(np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=-1))
        assert visible.tolist() == [True, True, False, False]

    def test_refuses_what_is_no_lens(self):
        with pytest.raises(ValueError, match="4 coefficients"):
            FisheyeCamera(640, 480, LENS.K, (0.1, 0.0))
        with pytest.raises(ValueError, match="positive focal"):
            FisheyeCamera(640, 480, -LENS.K)


class TestPanorama:
    @pytest.mark.parametrize(
        ("point", "pixel"),
        [
            ((0, 0, 1), (511.5, 255.5)),  # ahead: the middle
            ((1, 0, 0), (767.5, 255.5)),  # right
            ((-1, 0, 0), (255.5, 255.5)),  # left
            ((0, 1, 1), (511.5, 383.5)),  # 45 degrees down
            ((0, -1, 0), (511.5, -0.5)),  # up: the upper edge
        ],
    )
    def test_directions(self, point, pixel):
        pixels, visible = PANORAMA.project(np.array(point, float))
        np.testing.assert_allclose(pixels, pixel, atol=1e-9)
        assert visible

    def test_refuses_a_part_of_a_panorama(self):
        with pytest.raises(ValueError, match="twice as wide as high"):
            EquirectangularCamera(1024, 400)


@pytest.mark.parametrize("camera", [LENS, PANORAMA], ids=["fisheye", "panorama"])
class TestBoth:
    def test_rays_and_projection_are_inverse(self, camera):
        columns, rows = np.meshgrid(np.linspace(40, camera.width - 41, 23), np.linspace(20, camera.height - 21, 19))
        pixels = np.stack([columns, rows], axis=-1)
        rays = camera.rays(pixels)
        np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-12)
        again, visible = camera.project(rays * 7.0)
        np.testing.assert_allclose(again, pixels, atol=1e-6)
        assert visible.all()

    def test_resized_camera_sees_the_resized_image(self, camera):
        half = camera.resized(camera.width // 2, camera.height // 2)
        points = np.random.default_rng(0).uniform([-1, -0.5, 1], [1, 0.5, 1], (20, 3))
        np.testing.assert_allclose((half.project(points)[0] + 0.5) * 2, camera.project(points)[0] + 0.5, atol=1e-9)


def spots(camera, T_base_camera, points) -> np.ndarray:
    """A black image with a white spot wherever one of the points (N, 3) in base_link appears."""
    optical = (points - T_base_camera[:3, 3]) @ T_base_camera[:3, :3]
    pixels, visible = camera.project(optical)
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    for u, v in pixels[visible]:
        cv2.circle(image, (round(16 * u), round(16 * v)), 16 * 2, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return image


@pytest.mark.parametrize(
    ("camera", "mount"),
    [
        (LENS, camera_extrinsics(height=1.4, x=1.0, pitch=0.2, roll=0.1)),
        (LENS.resized(2560, 1920), camera_extrinsics(height=1.4, x=1.0, yaw=-0.3)),
        (PANORAMA, camera_extrinsics(height=2.0, yaw=0.0)),
        (PANORAMA, camera_extrinsics(height=2.0, yaw=3.0)),  # the seam crosses the view
        (EquirectangularCamera(4096, 2048), camera_extrinsics(height=2.0, yaw=1.0)),
    ],
    ids=["fisheye, tilted", "fisheye, large", "panorama", "panorama, from behind", "panorama, large"],
)
def test_the_view_that_the_network_gets_shows_points_where_its_camera_says(camera, mount):
    points = np.array([[10.0, 0.0, 0.0], [12, 4, 0], [12, -4, 0], [25, 6, 1]])
    fitted, view = fit_image(spots(camera, mount, points), camera, mount, width=416, height=128)
    assert fitted.shape == (128, 416, 3) and (view.width, view.height) == (416, 128)
    optical = (points - mount[:3, 3]) @ mount[:3, :3]
    pixels, visible = view.project(optical)
    assert visible.all()
    for u, v in pixels:
        top, left = max(0, round(v) - 8), round(u) - 8
        around = fitted[top : round(v) + 9, left : round(u) + 9, 0].astype(float)
        rows, columns = np.indices(around.shape)
        found = np.array([(columns * around).sum(), (rows * around).sum()]) / around.sum() + [left, top]
        np.testing.assert_allclose(found, [u, v], atol=0.5)
    np.testing.assert_allclose(
        view.project(view.rays(pixels) * 3)[0], pixels, atol=1e-6, err_msg="rays are not in the source's frame"
    )


def test_the_view_is_level_and_ahead():
    """A point far ahead at the camera's height lies on the horizon's row, in the middle column."""
    mount = camera_extrinsics(height=1.5, yaw=0.7, pitch=0.3, roll=0.2)
    _, view = fit_image(np.zeros((480, 640, 3), np.uint8), LENS, mount, width=416, height=128)
    optical = np.linalg.inv(mount) @ [1000.0, 0.0, 1.5, 1.0]
    np.testing.assert_allclose(view.project(optical[:3])[0], [207.5, 0.47 * 128], atol=0.01)


def test_what_the_source_does_not_see_is_not_visible():
    sideways = camera_extrinsics(height=1.5, yaw=np.pi / 2)
    narrow = LENS.cropped(left=160, top=0, width=320, height=480)  # 48 degrees to each side
    view = ForwardView(PinholeCamera.from_focal(416, 128, 250.0), narrow, sideways)
    optical = np.array([[10.0, 1.0, 0.0], [10, 14, 0]]) - sideways[:3, 3]
    assert view.project(optical @ sideways[:3, :3])[1].tolist() == [False, False]  # the second lies beside the view
    image = view.cut(np.full((480, 320, 3), 77, np.uint8))
    assert (image == 77).all()  # the mean colour


def test_all_cameras_find_the_same_place():
    """One scene through three lenses, turned differently on the vehicle, with the shipped weights."""
    town, rng = Town.generate(TEST_TOWNS + 2), np.random.default_rng(2)
    pose = draw_pose(town, rng)
    look = replace(Appearance.draw(rng, style="train", view="ground"), vignette=0.0, noise=0.0)
    above = Appearance.draw(rng, style="train", view="satellite")
    satellite = town.render_satellite(pose, GRID, appearance=above)
    matcher, _ = load_matcher("vote_flow", weights=None, device="cpu")
    T_map_prior = SE2(6.0, -5.0, 0.06).inverse()  # the map is the true vehicle's frame
    patch = crop_patch(satellite, GRID, T_map_prior, matcher.patch_grid)
    place = {"height": 1.6, "x": 1.0}
    lenses = (
        (PinholeCamera.from_focal(832, 256, 500.0), camera_extrinsics(**place)),
        (LENS.resized(1280, 960), camera_extrinsics(**place, pitch=0.2, yaw=0.1)),
        (EquirectangularCamera(2048, 1024), camera_extrinsics(**place, yaw=2.0)),
    )
    found = []
    for camera, mount in lenses:
        image = see(town, pose, camera, mount, appearance=look)
        box = (20.0, 20.0, np.radians(10))
        given = MatchInput(image, camera, mount, patch, np.ones(patch.shape[:2], bool), box=box)
        (match,) = matcher.match_batch([given])
        found.append((T_map_prior @ SE2(*match.pose)).vector())
    pinhole, fisheye, panorama = np.array(found)
    np.testing.assert_allclose(pinhole, 0, atol=1.0, err_msg="the scene is too hard: choose another")
    np.testing.assert_allclose(fisheye, pinhole, atol=0.6)
    np.testing.assert_allclose(panorama, fisheye, atol=0.25)  # the same view is cut out of both
