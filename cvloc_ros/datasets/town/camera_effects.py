"""What the camera and the image pipeline do to a picture: colour response, vignetting, blur, noise, compression."""

from __future__ import annotations

import cv2
import numpy as np

from cvloc_ros.datasets.town import textures
from cvloc_ros.datasets.town.appearance import Appearance


def develop(rgb: np.ndarray, look: Appearance, rng: np.random.Generator) -> np.ndarray:
    """Turn scene colours (H, W, 3), uint8, into the picture that the view's camera would deliver, uint8."""
    if look.dirt or look.wiper:
        rgb = _soil(rgb, look, rng)
    picture = cv2.transform(rgb, look.colour)
    levels = np.arange(256) / 255 * look.gain
    levels = np.where(levels > 0.8, 0.8 + 0.2 * np.tanh((levels - 0.8) / 0.2), levels)  # highlights roll off
    curve = levels**look.gamma * (255 - look.lift) + look.lift
    picture = cv2.LUT(picture, np.clip(curve, 0, 255).astype(np.uint8))
    height, width = picture.shape[:2]
    if look.vignette > 0:
        u = np.linspace(-1, 1, width, dtype=np.float32)
        v = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(height / width)
        fall = 1 - np.float32(look.vignette) * (u * u + v * v)
        picture = cv2.multiply(picture, cv2.merge([fall, fall, fall]), dtype=cv2.CV_8U)
    if look.blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), look.blur)
    if look.noise > 0.3:
        picture = _add_noise(picture, look.noise, rng)
    if look.jpeg < 100:
        packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg])[1]
        picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return picture


def _soil(rgb: np.ndarray, look: Appearance, rng: np.random.Generator) -> np.ndarray:
    """Put blotches on the lens, out of focus, and a wiper before it."""
    height, width = rgb.shape[:2]
    cover: np.ndarray = np.zeros((height, width), np.float32)
    for _ in range(look.dirt):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = tuple(int(a) for a in np.maximum(rng.uniform(0.02, 0.16, 2) * height, 1))
        cv2.ellipse(cover, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.2, 0.8)), -1)
    if look.wiper:
        foot, tip = (int(c) for c in rng.uniform(-0.2, 1.2, 2) * width)
        cv2.line(cover, (foot, height), (tip, int(0.1 * height)), 0.95, max(1, int(0.05 * height)))
    cover = cv2.GaussianBlur(cover, (0, 0), 0.02 * height)[..., None]
    shade = look.sky[1] * np.float32(rng.uniform(0.05, 0.7))
    return (rgb + (shade - rgb) * cover).astype(np.uint8)


def _add_noise(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    bank = textures.sensor_noise()
    spare = np.maximum(np.array(bank.shape[:2]) - (height, width), 0)
    r, c = (int(k) for k in rng.integers(0, spare + 1))
    noise = bank[r : r + height, c : c + width]
    if noise.shape[:2] != (height, width):  # a picture larger than the bank repeats it
        noise = np.resize(bank, (height, *bank.shape[1:]))[:, np.arange(width) % bank.shape[1]]
    return cv2.addWeighted(picture, 1.0, np.ascontiguousarray(noise), strength / 64, 0.0, dtype=cv2.CV_8U)
