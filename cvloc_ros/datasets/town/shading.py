"""Colour of flat surfaces: palette tables, textures, stains, cover and paint at points of the world."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cvloc_ros.datasets.town import textures
from cvloc_ros.datasets.town.appearance import Appearance, Texture

_STAIN = Texture("fbm", 0, 0.3, 0.0, (0.0, 0.0))  # of the town, the same in every view


def look_up(table: np.ndarray, materials: np.ndarray) -> np.ndarray:
    """Return a (256, 4) uint8 table's rows at materials (H, W), as (H, W, 4)."""
    packed = table.view(np.uint32).ravel()[materials]
    return packed.view(np.uint8).reshape(*materials.shape, 4)


def sample_texture(texture: Texture, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a texture's value, about -1 .. 1, at world coordinates (H, W) in metres (float32)."""
    return sample_tile(textures.tile(texture.kind, texture.variant), texture, x, y, scale=1 / 90, shift=-128 / 90)


def sample_tile(
    tile: np.ndarray, texture: Texture, x: np.ndarray, y: np.ndarray, *, scale: float, shift: float
) -> np.ndarray:
    """Return ``tile * scale + shift`` as ``texture`` lays it over the world."""
    c, s = np.float32(np.cos(texture.heading) / texture.texel), np.float32(np.sin(texture.heading) / texture.texel)
    u = (x * c + y * s + np.float32(texture.offset[0])).astype(np.int32) & (textures.TILE - 1)
    v = (y * c - x * s + np.float32(texture.offset[1])).astype(np.int32) & (textures.TILE - 1)
    v *= textures.TILE
    v += u
    values = (np.arange(256) * scale + shift).astype(np.float32)
    return values[tile.ravel().take(v)]


def surface_colour(
    look: Appearance,
    first: np.ndarray,
    second: np.ndarray,
    paint: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    town_seed: int,
    fade: np.ndarray | None = None,
) -> np.ndarray:
    """Colour flat surfaces.

    Args:
        look: the view's appearance.
        first: (H, W, 4) uint8, its first table looked up (and perhaps averaged over a pixel).
        second: likewise of its second table.
        paint: edge and centre-line coverage, each (H, W) uint8.
        x: (H, W) float32 world coordinate, metres east.
        y: likewise north.
        town_seed: the shared stains lie by it.
        fade: (H, W) in [0, 1], how much of the fine texture is left at a distance.

    Returns:
        (H, W, 3) float32 RGB, before light.

    """
    fine = sample_texture(look.fine, x, y)
    amplitude = first[..., 3] * np.float32(1 / 255)
    fine *= amplitude if fade is None else amplitude * fade
    medium = sample_texture(look.medium, x, y)
    mix = np.clip(medium * np.float32(0.45) + np.float32(0.5), 0, 1)
    a = cv2.cvtColor(cv2.blendLinear(first, second, 1 - mix, mix), cv2.COLOR_RGBA2RGB).astype(np.float32)
    if look.stain > 0.01:
        offset = (float(town_seed * 37 % 512), float(town_seed * 91 % 512))
        stain = Texture(_STAIN.kind, _STAIN.variant, _STAIN.texel, _STAIN.heading, offset)
        fine += sample_texture(stain, x, y) * np.float32(0.5 * look.stain)
    fine += np.float32(1)
    a *= fine[..., None]
    for k in range(2):
        if paint[k].any():
            wear = np.float32(look.paint_wear)
            alpha = paint[k] * (np.float32(0.95 / 255) * (1 - wear * np.clip(0.5 - medium, 0, 1)))
            a += (look.paint[k].astype(np.float32) - a) * alpha[..., None]
    share = second[..., 3]
    if share.any():
        rank = sample_tile(textures.ranks(), look.cover_texture, x, y, scale=1.0, shift=0.0)
        alpha = np.clip((share - rank) * np.float32(1 / look.cover_edge), 0, 1) * np.float32(0.92)
        a += (look.cover.astype(np.float32) - a) * alpha[..., None]
    return a


def apply_shadow(rgb: np.ndarray, mask: np.ndarray, look: Appearance) -> None:
    """Darken (and cool) what lies in the shadow mask (H, W), 0..255, in place."""
    depth = mask * np.float32(look.shadow / 255)
    for k, share in enumerate((1.0, 0.96, 0.84)):
        rgb[..., k] *= 1 - depth * np.float32(share)
