"""Tileable noise and tree silhouettes, made once per process from fixed seeds."""

from __future__ import annotations

from functools import cache, lru_cache

import cv2
import numpy as np

TILE = 512  # texels; every tile repeats
VARIANTS = 3
KINDS = ("grain", "fbm", "blotch", "streak", "speckle", "cobble", "crackle")


@cache
def tile(kind: str, variant: int) -> np.ndarray:
    """Return a tile (512, 512) uint8 with mean near 128 and a standard deviation near 45."""
    rng = np.random.default_rng([KINDS.index(kind), variant, 7])
    makers = {
        "grain": lambda: _octave(rng, 1) + 0.8 * _octave(rng, 2) + 0.3 * _octave(rng, 8),
        "fbm": lambda: sum(o**0.8 * _octave(rng, o) for o in (1, 2, 4, 8, 16, 32, 64)),
        "blotch": lambda: np.tanh(2.5 * (_octave(rng, 24) + 0.5 * _octave(rng, 8))) + 0.25 * _octave(rng, 1),
        "streak": lambda: _streak(rng),
        "speckle": lambda: (_octave(rng, 2) > 1.6) * 2.5 - (_octave(rng, 3) > 1.5) * 2.0 + 0.4 * _octave(rng, 1),
        "cobble": lambda: _cells(rng, 900, edge=0.30) + 0.2 * _octave(rng, 1),
        "crackle": lambda: _cells(rng, 160, edge=0.06) + 0.5 * _octave(rng, 16) + 0.35 * _octave(rng, 1),
    }
    noise = np.asarray(makers[kind](), dtype=np.float32)
    noise = (noise - noise.mean()) / noise.std()
    return np.clip(128 + 45 * noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def ranks() -> np.ndarray:
    """Return a smooth tile whose values are uniform in 0..255: what is above a share of the ground (snow, leaves)."""
    rng = np.random.default_rng(99)
    noise = sum(o * _octave(rng, o) for o in (2, 4, 8, 16, 32))
    order = np.argsort(np.asarray(noise).ravel(), kind="stable")
    out = np.empty(TILE * TILE, np.uint8)
    out[order] = np.arange(TILE * TILE) * 256 // (TILE * TILE)
    return out.reshape(TILE, TILE)


@lru_cache(maxsize=1)
def sensor_noise() -> np.ndarray:
    """Return unit Gaussian noise (1024, 1024, 3) as int16 scaled by 64."""
    rng = np.random.default_rng(1234)
    return np.rint(64 * rng.standard_normal((1024, 1024, 3), np.float32)).astype(np.int16)


@lru_cache(maxsize=1)
def crowns() -> list[np.ndarray]:
    """Return tree crowns (96, 96, 2) uint8: coverage, and brightness lit from the upper left; 8 round, 4 conical."""
    return [_crown(np.random.default_rng([55, k]), conical=k >= 8) for k in range(12)]


def _octave(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Return smooth unit noise (TILE, TILE) that repeats, with features of ``cell`` texels."""
    n = TILE // cell
    grid = rng.normal(size=(n, n)).astype(np.float32)
    if cell == 1:
        return grid
    padded = np.pad(grid, 2, mode="wrap")
    big = cv2.resize(padded, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    out = big[2 * cell : 2 * cell + TILE, 2 * cell : 2 * cell + TILE]
    return out / out.std()


def _streak(rng: np.random.Generator) -> np.ndarray:
    grid = np.pad(rng.normal(size=(TILE, TILE)).astype(np.float32), 64, mode="wrap")
    smeared = cv2.blur(grid, (25, 3))[64:-64, 64:-64]
    return smeared / smeared.std() + 0.4 * _octave(rng, 1)


def _cells(rng: np.random.Generator, count: int, edge: float) -> np.ndarray:
    """Return Voronoi cells of different brightness with dark joints, repeating."""
    points = rng.uniform(0, TILE, (count, 2))
    around = np.concatenate([points + (dx, dy) for dx in (-TILE, 0, TILE) for dy in (-TILE, 0, TILE)])
    around = around[((around > -80) & (around < TILE + 80)).all(axis=1)]
    value = rng.normal(size=count)
    nearest = np.full((TILE, TILE), 1e9, np.float32)
    second = nearest.copy()
    shade = np.zeros((TILE, TILE), np.float32)
    reach = int(4.5 * TILE / np.sqrt(count))
    for x, y in around:
        k = int(np.argmin(np.abs(points - (x % TILE, y % TILE)).sum(axis=1)))
        c0, c1 = max(int(x) - reach, 0), min(int(x) + reach, TILE)
        r0, r1 = max(int(y) - reach, 0), min(int(y) + reach, TILE)
        if c0 >= c1 or r0 >= r1:
            continue
        d = np.hypot(np.arange(c0, c1)[None] - x, np.arange(r0, r1)[:, None] - y).astype(np.float32)
        near, far, tone = nearest[r0:r1, c0:c1], second[r0:r1, c0:c1], shade[r0:r1, c0:c1]
        closer = d < near
        np.copyto(far, np.where(closer, near, np.minimum(far, d)))
        np.copyto(tone, np.float32(value[k]), where=closer)
        np.minimum(near, d, out=near)
    joint = (second - nearest) < edge * TILE / np.sqrt(count)
    return 0.5 * shade - 2.2 * cv2.GaussianBlur(joint.astype(np.float32), (3, 3), 0)


def _crown(rng: np.random.Generator, *, conical: bool) -> np.ndarray:
    n = 96
    v, u = (np.mgrid[:n, :n] - (n - 1) / 2) / (n / 2)  # -1 .. 1, v down
    bumps = [cv2.resize(rng.normal(size=(k, k)).astype(np.float32), (n, n), interpolation=cv2.INTER_CUBIC)
             for k in (6, 14, 40)]  # fmt: skip
    ragged = 0.12 * bumps[0] + 0.10 * bumps[1] + 0.07 * bumps[2]
    if conical:
        inside = (1 - (np.abs(u) / np.maximum((v + 1) * 0.46, 0.02))) * np.clip((1 - v) * 6, -1, 1)
        inside = np.minimum(inside, (v + 0.98) * 3)
    else:
        inside = 1 - np.hypot(u, v * rng.uniform(0.95, 1.15)) / 0.88
    alpha = np.clip((inside + 0.7 * ragged * (1 if not conical else 2)) * 9, 0, 1)
    light = 0.62 - 0.22 * v - 0.16 * u + 0.10 * bumps[1] + 0.10 * bumps[2] + 0.06 * bumps[0]
    return np.clip(np.stack([alpha, light], axis=-1) * 255, 0, 255).astype(np.uint8)
