"""Messages without ROS: transforms compose, images decode, a CameraInfo is the camera of its images."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.image_decoding import ConversionError, RawLayout
from cvloc_ros.datasets.message_reading import camera_of
from cvloc_ros.datasets.transform_tree import MissingTransform, TransformTree
from cvloc_ros.geometry import EquirectangularCamera, FisheyeCamera, PinholeCamera, camera_extrinsics

CAMERA = PinholeCamera(160, 48, np.array([[90.0, 0, 80.5], [0, 91, 23], [0, 0, 1]]), (-0.1, 0.02, 0.001, 0.0, 0.0))


def huge_png() -> np.ndarray:
    """A whole PNG whose header claims 40000 x 40000 pixels."""
    data = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    data[16:24] = struct.pack(">II", 40000, 40000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return np.frombuffer(bytes(data), np.uint8)


class TestTransformTree:
    def tree(self, links):
        tree = TransformTree()
        for parent, child, pose in links:
            tree.update(build.transform(0, pose, parent=parent, child=child), static=True)
        return tree

    def test_chains_compose_in_order(self):
        a, b, c = (camera_extrinsics(height=h, x=1, y=2, yaw=yaw, roll=0.3) for h, yaw in ((1, 0.4), (-2, 2), (3, -1)))
        links = [("base", "mast", a), ("mast", "head", b), ("mast", "arm", c)]
        tree = self.tree(links)
        np.testing.assert_allclose(tree.lookup("base", "head"), a @ b, atol=1e-9)
        np.testing.assert_allclose(tree.lookup("head", "arm"), np.linalg.inv(b) @ c, atol=1e-9)
        with pytest.raises(MissingTransform, match="connects 'elsewhere' and 'base'; known frames: arm"):
            tree.lookup("base", "elsewhere")
        assert tree.frames == ["arm", "base", "head", "mast"]

    def test_a_loop_ends(self):
        links = [("a", "b", np.eye(4)), ("b", "a", np.eye(4))]
        with pytest.raises(MissingTransform):
            self.tree(links).lookup("a", "c")


class TestImages:
    COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)

    @pytest.mark.parametrize(
        "encoding, pixels",
        [
            ("rgb8", COLOURS),
            ("bgr8", COLOURS[..., ::-1]),
            ("rgba8", np.concatenate([COLOURS, COLOURS[..., :1]], -1)),
            ("bgra8", np.concatenate([COLOURS[..., ::-1], COLOURS[..., :1]], -1)),
            ("8UC3", COLOURS[..., ::-1]),
        ],
    )
    def test_raw_colours_with_padded_rows(self, encoding, pixels):
        rows = pixels.reshape(5, -1)
        data = np.pad(rows, ((0, 0), (0, 3))).ravel()
        layout = RawLayout(5, 7, rows.shape[1] + 3, encoding)
        np.testing.assert_array_equal(ImageEvent(0, "c", data, layout).image(), self.COLOURS)

    @pytest.mark.parametrize("order, is_bigendian", [("<u2", False), (">u2", True)])
    def test_sixteen_bits_are_read_by_their_upper_byte(self, order, is_bigendian):
        layouts = {
            "rgb16": self.COLOURS,
            "bgra16": np.concatenate([self.COLOURS[..., ::-1], self.COLOURS[..., :1]], -1),
        }
        for encoding, pixels in layouts.items():
            wide = (pixels.astype(np.uint16) * 256 + 9).astype(order).view(np.uint8).reshape(5, -1)
            data = np.pad(wide, ((0, 0), (0, 4))).ravel()
            image = ImageEvent(0, "c", data, RawLayout(5, 7, wide.shape[1] + 4, encoding, is_bigendian)).image()
            np.testing.assert_array_equal(image, self.COLOURS)
        mosaic = np.full((4, 6), 200, np.uint8)
        wide = (mosaic.astype(np.uint16) * 256).astype(order).view(np.uint8).ravel()
        image = ImageEvent(0, "c", wide, RawLayout(4, 6, 12, "bayer_grbg16", is_bigendian)).image()
        assert (image == 200).all()

    def test_grey_and_png(self):
        grey = self.COLOURS[..., 0]
        image = ImageEvent(0, "c", grey.ravel(), RawLayout(5, 7, 7, "mono8")).image()
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, -1))
        wide = (grey.astype(np.uint16) * 256 + 9).astype(">u2").view(np.uint8).ravel()
        image = ImageEvent(0, "c", wide, RawLayout(5, 7, 14, "mono16", is_bigendian=True)).image()
        np.testing.assert_array_equal(image[..., 1], grey)
        png = cv2.imencode(".png", np.ascontiguousarray(self.COLOURS[..., ::-1]))[1]
        np.testing.assert_array_equal(ImageEvent(0, "c", png.ravel()).image(), self.COLOURS)

    @pytest.mark.parametrize(
        "event, message",
        [
            (ImageEvent(0, "c", np.zeros(99, np.uint8)), "got 99 bytes that do not decode"),
            (ImageEvent(0, "c", np.zeros(0, np.uint8)), "got 0 bytes"),
            (ImageEvent(0, "c", cv2.imencode(".jpg", COLOURS)[1].ravel()[:-9]), "the message is cut off"),
            (ImageEvent(0, "c", huge_png()), "bytes that OpenCV refuses .*too large"),
            (ImageEvent(0, "c", np.zeros(99, np.uint8), RawLayout(5, 7, 21, "rgb8")), "cut off"),
            (ImageEvent(0, "c", np.zeros(70, np.uint8), RawLayout(5, 7, 14, "yuyv")), "7 x 5 pixels of yuyv are no"),
            (ImageEvent(0, "c", np.zeros(105, np.uint8), RawLayout(5, 7, 21, "32FC1")), "got encoding '32FC1'"),
        ],
    )
    def test_what_is_no_image(self, event, message):
        with pytest.raises(ValueError, match=message):
            event.image()

    def test_camera_info_with_region_and_binning(self):
        info = build.camera_info(0, CAMERA, frame_id="c")
        info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 8, 100, 40
        info.binning_x = info.binning_y = 2
        camera = camera_of(info, rectified=False)
        expected = CAMERA.cropped(left=10, top=8, width=100, height=40).resized(50, 20)
        np.testing.assert_allclose(camera.K, expected.K)
        assert (camera.width, camera.height) == (50, 20)
        info.distortion_model = "mei"
        with pytest.raises(ValueError, match="got 'mei'"):
            camera_of(info, rectified=False)

    @pytest.mark.parametrize("rectified", [False, True])
    def test_camera_info_of_a_panorama(self, rectified):
        """Whatever K, P and D are: a panorama has none. The name of its topic may hold "rect"."""
        info = build.camera_info(0, CAMERA, frame_id="c")
        info.distortion_model, info.width, info.height = "equirectangular", 2048, 1024
        info.d, info.k, info.p = np.zeros(0), np.zeros(9), np.zeros(12)
        assert camera_of(info, rectified=rectified) == EquirectangularCamera(2048, 1024)
        info.binning_x = info.binning_y = 2
        info.roi.width, info.roi.height = 2048, 1024
        assert camera_of(info, rectified=rectified) == EquirectangularCamera(1024, 512)
        info.roi.width = 1000
        with pytest.raises(ConversionError, match="a whole panorama of 2048 x 1024 .*got a region of interest of 1000"):
            camera_of(info)
        info.width, info.roi.width = 1000, 0
        with pytest.raises(ConversionError, match="twice as wide as high, got 1000 x 1024"):
            camera_of(info)

    def test_an_unknown_model_is_no_pinhole_without_coefficients_either(self):
        info = build.camera_info(0, PinholeCamera.from_focal(160, 120, 60.0), frame_id="c")
        assert not info.d.any()
        for model in ("", "plumb_bob", "rational_polynomial"):
            info.distortion_model = model
            assert isinstance(camera_of(info), PinholeCamera)
        info.distortion_model = "mei"
        with pytest.raises(ConversionError, match="equidistant or equirectangular, got 'mei': rectify the images"):
            camera_of(info)
        assert isinstance(camera_of(info, rectified=True), PinholeCamera)

    @pytest.mark.parametrize("distortion", [(0.1, -0.02, 0.003, -0.0004), (0.0,) * 4])
    def test_camera_info_of_a_fisheye_lens(self, distortion):
        """Also one without distortion: it is equidistant, no pinhole."""
        lens = FisheyeCamera(160, 120, np.array([[60.0, 0, 80.5], [0, 61, 63], [0, 0, 1]]), distortion)
        info = build.camera_info(0, lens, frame_id="c")
        info.binning_x = info.binning_y = 2
        camera, point = camera_of(info), np.array([2.0, 0.3, 1.0])
        assert isinstance(camera, FisheyeCamera)
        np.testing.assert_allclose(camera.project(point)[0], lens.resized(80, 60).project(point)[0], atol=1e-9)
        assert camera_of(info, rectified=True).focal == 30  # P, and a pinhole
