"""Images before a network sees them: of one size, and in even contrast."""

import json

import cv2
import numpy as np
import pytest
import torch

from cvloc_ros.geometry import PinholeCamera, camera_extrinsics
from cvloc_ros.models.contrast import even_contrast_on_device
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.preprocess import even_contrast, fit_image
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.weights import load_network, save_weights


def test_a_ground_point_keeps_its_pixel():
    camera = PinholeCamera(1242, 375, np.array([[721.5, 0, 609.6], [0, 721.5, 172.9], [0, 0, 1.0]]))
    T = camera_extrinsics(height=1.65, pitch=0.01)
    point = np.linalg.inv(T) @ [15.0, 2.0, 0.0, 1.0]
    (u, v), _ = camera.project(point[:3])
    image = np.zeros((375, 1242, 3), np.uint8)
    image[round(v) - 4 : round(v) + 5, round(u) - 4 : round(u) + 5] = 255
    fitted, fitted_camera = fit_image(image, camera, T, width=416, height=128)
    (u2, v2), visible = fitted_camera.project(point[:3])
    rows, cols = np.nonzero(fitted[..., 0] > 100)
    assert visible and fitted.shape == (128, 416, 3)
    assert (cols.mean(), rows.mean()) == pytest.approx((u2, v2), abs=0.5)


@pytest.mark.parametrize("focal", [150.0, 2500.0])
def test_wide_and_narrow_lenses_are_scaled_into_the_trained_range(focal):
    camera = PinholeCamera.from_focal(1280, 720, focal)
    image = np.full((720, 1280, 3), 90, np.uint8)
    fitted, fitted_camera = fit_image(image, camera, camera_extrinsics(height=1.5), width=416, height=128)
    assert 189 <= fitted_camera.K[0, 0] <= 331
    assert fitted.shape == (128, 416, 3)


def test_an_image_of_the_right_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (128, 416, 3), dtype=np.uint8)
    camera = PinholeCamera.from_focal(416, 128, 240.0)
    fitted, fitted_camera = fit_image(image, camera, camera_extrinsics(height=1.6), width=416, height=128)
    np.testing.assert_array_equal(fitted, image)
    np.testing.assert_allclose(fitted_camera.K, camera.K)


def test_in_even_contrast_a_place_looks_alike_at_noon_and_at_dusk():
    noise = np.random.default_rng(0).normal(size=(128, 416, 3))
    scene = np.stack([cv2.GaussianBlur(noise[..., c], (0, 0), 4) for c in range(3)], -1)
    noon = np.clip(scene / np.abs(scene).max() * 110 + 128, 0, 255)
    shade = np.linspace(0.15, 0.6, 416)[None, :, None]  # darker to one side, and bluish
    dusk = noon * shade * [0.8, 0.9, 1.1] + 10

    def unlike(limit):
        a, b = (even_contrast(np.round(image).astype(np.uint8), limit).astype(float) for image in (noon, dusk))
        a, b = ((image - image.mean()) / image.std() for image in (a, b))
        return np.abs(a - b).mean()

    assert unlike(3.0) < 0.65 * unlike(0)


@pytest.mark.parametrize("size", [(256, 256), (20, 500), (1, 1)])
def test_even_contrast_keeps_what_is_even(size):
    flat = np.full((*size, 3), [10, 120, 250], np.uint8)
    assert even_contrast(flat, 0) is flat
    even = even_contrast(flat, 3.0)
    assert even.shape == flat.shape and even.dtype == np.uint8
    assert (even == even[0, 0]).all()


@pytest.mark.parametrize("size", [(128, 416), (288, 288), (130, 416), (20, 500), (1, 500)])
@pytest.mark.parametrize("limit", [0.0, 1.0, 3.0])
def test_tensors_are_evened_out_like_images(size, limit):
    noise = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    faint = np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in noise])
    for images in (noise, faint):
        evened = even_contrast_on_device(torch.from_numpy(images), limit)
        assert evened.dtype == torch.float32
        apart = np.abs(evened.numpy() - [even_contrast(image, limit) for image in images])
        assert apart.max() <= 1 and (apart > 0).mean() < 1e-3  # a sum that is rounded may fall to either side


def test_a_card_from_before_leaves_images_as_they_are(tmp_path):
    path = tmp_path / "vote.safetensors"
    save_weights(VoteFlow(), path, {})
    assert load_network(path).config.local_contrast == 3.0
    card = json.loads(path.with_suffix(".json").read_text())
    del card["architecture"]["local_contrast"]
    path.with_suffix(".json").write_text(json.dumps(card))
    assert load_network(path).config.local_contrast == 0


@pytest.mark.parametrize("config", [VoteFlowConfig, DenseFlowConfig])
def test_a_limit_below_nothing_is_refused(config):
    """OpenCV would take it for no limit."""
    with pytest.raises(ValueError, match="expected a local_contrast of 0 or more, got -1"):
        config(local_contrast=-1.0)


def test_faint_contrast_grows_up_to_the_limit():
    faint = np.random.default_rng(0).normal(120, 4, (256, 256, 3)).round().astype(np.uint8)
    for limit in (2.0, 3.0, 6.0):
        assert limit - 0.5 < even_contrast(faint, limit).std() / faint.std() < limit + 1
