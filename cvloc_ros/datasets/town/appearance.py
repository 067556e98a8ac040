"""How one view of a town looks: palette tables, texture, light and the camera's own faults.

The two views of a pair get appearances that are drawn independently; only what the town *is* they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.palettes import SEASONS, Season
from cvloc_ros.datasets.town.styles import STYLES
from cvloc_ros.datasets.town.textures import VARIANTS

_ROOF_FAMILIES = ((168, 88, 66), (132, 84, 66), (98, 100, 106), (70, 70, 74), (186, 184, 178), (150, 146, 140))
_FACADE_FAMILIES = ((214, 206, 190), (198, 176, 138), (150, 88, 70), (170, 168, 164), (226, 222, 214), (128, 112, 100))
_TIMBER = ((138, 46, 38), (178, 132, 66), (120, 40, 36), (196, 154, 84), (206, 200, 190), (86, 64, 50))
_CONIFER = (52, 78, 52)
_CAR_COLOURS = (
    ((228, 228, 228), (36, 38, 42), (120, 122, 126), (180, 183, 186), (150, 36, 34), (44, 64, 120))
    + ((82, 86, 90), (200, 202, 204), (60, 92, 70), (170, 150, 110), (236, 236, 232), (24, 24, 28))
    + ((96, 116, 148), (190, 92, 40), (142, 144, 148), (70, 40, 44))
)  # fmt: skip


@dataclass(frozen=True)
class Texture:
    """A noise tile laid over the world: kind, variant, metres per texel, heading (rad) and offset (texels)."""

    kind: str
    variant: int
    texel: float
    heading: float
    offset: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, kinds: tuple[str, ...], texel: tuple[float, float]) -> Texture:
        """Draw one of the kinds."""
        kind = str(rng.choice(kinds))
        size = float(np.exp(rng.uniform(np.log(texel[0]), np.log(texel[1]))))
        offset = (float(rng.uniform(0, 512)), float(rng.uniform(0, 512)))
        return cls(kind, int(rng.integers(VARIANTS)), size, float(rng.uniform(0, 2 * np.pi)), offset)


@dataclass(frozen=True, eq=False)
class Appearance:
    """One view's look. Tables are indexed by material.

    Attributes:
        season: name of the palette it was drawn from.
        first, second: (256, 4) uint8: RGB, between which the medium texture mixes; the fourth columns are the fine
            texture's amplitude (255: 1.0), and the share covered by leaves, frost or snow.
        fine, medium: textures; shared stains of the town come with weight ``stain``.
        cover: colour of the cover; ``cover_texture`` says where it lies, ``cover_edge`` how gradually it ends (counts).
        paint: (2, 3) colours of edge and centre-line paint; ``paint_wear`` is how much this view lost of it.
        sun: direction to the sun, (azimuth, elevation), radians.
        shadow: strength, 0 none .. 1 black; ``softness`` of its edge in metres.
        sky: (zenith, horizon) colours; ``clouds`` strength.
        wet: 0 dry .. 1 mirrors the sky.
        haze: 1/m.
        colour: (3, 3) channel mix (saturation, white balance); then ``gain``, ``gamma`` and ``lift``.
        vignette: darkening at the corners.
        blur: pixels. noise: counts. jpeg: quality, 100 is none.
        dirt: how many blotches and drops are on the lens; ``wiper`` whether a wiper crosses the picture.
        lean: (2,) roof displacement per metre of height, east and north (aerial views).
        seed: of what is drawn while rendering (noise, blotches).

    """

    season: str
    first: np.ndarray
    second: np.ndarray
    fine: Texture
    medium: Texture
    stain: float
    cover: np.ndarray
    cover_texture: Texture
    cover_edge: float
    paint: np.ndarray
    paint_wear: float
    sun: tuple[float, float]
    shadow: float
    softness: float
    sky: np.ndarray
    clouds: float
    wet: float
    haze: float
    colour: np.ndarray
    gain: float
    gamma: float
    lift: float
    vignette: float
    blur: float
    noise: float
    jpeg: int
    dirt: int
    wiper: bool
    lean: np.ndarray
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, *, style: str, view: str, scatter: float = 0.0) -> Appearance:
        """Draw a look for a ``view`` ("ground" or "satellite") of a town of a style.

        Args:
            rng: decides everything.
            style: a key of `styles.STYLES`.
            view: "ground" or "satellite".
            scatter: probability that each of colours and cover is drawn far from any season: see `_scatter`.

        """
        family = STYLES[style]
        name = str(rng.choice(family.seasons))
        season = SEASONS[name]
        first, second = _tables(rng, season, view)
        cover = np.array(season.cover or (128, 128, 128), dtype=np.float32)
        cover_texel, cover_edge = season.cover_texel, season.cover_edge
        if rng.random() < scatter:
            _scatter(rng, first, second)
        if rng.random() < scatter:
            cover, cover_texel, cover_edge = _scatter_cover(rng, second), (0.03, 0.5), (20, 255)
        ground = view == "ground"
        overcast = rng.random() < season.overcast
        elevation = rng.uniform(*season.sun) + (0 if ground else 8)
        sky = np.array(season.sky[1 if overcast else 0], dtype=float) + rng.normal(size=3) * 8
        tint = np.array([rng.uniform(*t) for t in season.tint]) * (1 + rng.normal(size=3) * 0.035)
        lean = rng.uniform(0, 0.22 if rng.random() < 0.8 else 0.4)
        lean_heading = rng.uniform(0, 2 * np.pi)
        return cls(
            season=name,
            first=first,
            second=second,
            fine=Texture.draw(rng, family.textures, (0.015, 0.06) if ground else (0.12, 0.4)),
            medium=Texture.draw(rng, ("fbm", "blotch") if style == "train" else ("fbm",), (0.06, 0.4)),
            stain=float(rng.uniform(0.0, 0.3)),
            cover=cover + rng.normal(size=3).astype(np.float32) * 6,
            cover_texture=Texture.draw(rng, ("fbm",), cover_texel),
            cover_edge=float(rng.uniform(*cover_edge)),
            paint=np.array(season.paint[int(rng.integers(len(season.paint)))], np.float32) * rng.uniform(0.8, 1.05),
            paint_wear=float(rng.uniform(0.0, 0.45)),
            sun=(float(rng.uniform(0, 2 * np.pi)), float(np.radians(elevation))),
            shadow=float(rng.uniform(0, 0.12) if overcast else rng.uniform(0.25, 0.65)),
            softness=float(rng.uniform(0.05, 0.6) if not overcast else rng.uniform(0.6, 2.0)),
            sky=np.clip(sky, 0, 255).astype(np.float32),
            clouds=float(rng.uniform(0, 0.8)),
            wet=float(rng.uniform(0.4, 1.0) if rng.random() < season.wet else rng.uniform(0, 0.1)),
            haze=float(rng.choice([0.0, rng.uniform(0, 0.002), rng.uniform(0.002, 0.015)], p=[0.3, 0.4, 0.3])),
            colour=_channel_mix(rng.uniform(*season.saturation), tint).astype(np.float32),
            gain=float(rng.uniform(*season.exposure)),
            gamma=float(np.exp(rng.normal() * 0.2)),
            lift=float(rng.uniform(-12, 22)),
            vignette=float(rng.uniform(0, 0.4)) if ground and rng.random() < 0.5 else 0.0,
            blur=float(rng.uniform(0.2, 1.1)) if rng.random() < 0.6 else 0.0,
            noise=float(rng.uniform(0, 9) if rng.random() < 0.7 else rng.uniform(0, 2)),
            jpeg=int(rng.integers(45, 97)) if rng.random() < 0.6 else 100,
            dirt=int(rng.integers(1, 7)) if ground and rng.random() < 0.15 else 0,
            wiper=bool(ground and rng.random() < 0.03),
            lean=lean * np.array([np.cos(lean_heading), np.sin(lean_heading)]),
            seed=int(rng.integers(2**31)),
        )


def _scatter(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> None:
    """Give each kind of surface but the roads colours that no season has, in place.

    Training needs them: a network that has only seen green lawns and red roofs does not know that a town's shapes
    matter and its colours do not. Roads only become lighter, and paint stays: dark and red roads and yellow paint
    belong to the held-out style.
    """
    roofs = [*m.ROOFS, *(roof + m.ROOF_SHADE for roof in m.ROOFS)]
    kinds = (m.GREEN, m.PAVED, roofs, m.FACADES, m.CROWNS, (m.SOIL, m.GRAVEL, m.HEDGE, m.WATER))
    for ids in kinds:
        order, gain = rng.permutation(3), np.exp(rng.normal() * 0.45 + rng.normal(size=3) * 0.3)
        lift = rng.normal() * 25 + rng.normal(size=3) * 10
        for table in (first, second):
            table[list(ids), :3] = np.clip(table[list(ids)][:, order] * gain + lift, 0, 255)
    lighter = np.exp(rng.uniform(0.0, 0.2) + np.abs(rng.normal(size=3)) * [0.0, 0.06, 0.06])
    for table in (first, second):
        table[list(m.ROADS), :3] = np.clip(table[list(m.ROADS), :3] * lighter, 0, 255)


def _scatter_cover(rng: np.random.Generator, second: np.ndarray) -> np.ndarray:
    """Let something of a random colour, never as bright as snow, lie in patches; return its colour."""
    roofs = [*m.ROOFS, *(roof + m.ROOF_SHADE for roof in m.ROOFS)]
    for ids, most in ((m.GREEN, 0.8), (m.PAVED, 0.6), (roofs, 0.8), (m.ROADS, 0.1)):
        second[list(ids), 3] = round(255 * rng.uniform(0, most))
    grey = rng.uniform(30, 195)
    return np.clip(grey + rng.normal(size=3) * 30, 10, 205).astype(np.float32)


def _channel_mix(saturation: float, tint: np.ndarray) -> np.ndarray:
    luma = np.array([0.3, 0.59, 0.11])
    return tint[:, None] * (saturation * np.eye(3) + (1 - saturation) * luma)


def _tables(rng: np.random.Generator, season: Season, view: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the two material tables (256, 4) uint8 of `Appearance`."""
    a, b = np.full((256, 3), 120.0), np.full((256, 3), 120.0)
    fine, cover = np.full(256, 0.08), np.zeros(256)

    def put(ids, colours, *, spread: float = 10.0, mix: float = 12.0, texture: float = 0.08, jitter: float = 4.0):
        """Give each id a colour near one of the anchors, and a second one near the first."""
        rows = np.atleast_1d(ids)
        n = len(rows)
        anchors = np.asarray(colours, dtype=float)[rng.integers(0, len(colours), n)]
        a[rows] = anchors + rng.normal(size=(n, 1)) * spread + rng.normal(size=(n, 3)) * jitter
        b[rows] = a[rows] + rng.normal(size=(n, 1)) * mix
        fine[rows] = texture * rng.uniform(0.5, 1.6, n)

    grey = rng.uniform(*season.asphalt)
    tone = grey + np.array(season.asphalt_tint)
    rough = 0.10 if view == "ground" else 0.05
    put(m.ASPHALT, [tone], spread=11, mix=5, texture=rough, jitter=2)
    bricks, share = season.road_paving
    if bricks and rng.random() < share:
        put(m.ASPHALT[:2], bricks, spread=6, mix=8, texture=0.22)
    put(m.PARKING, [tone + 5], spread=9, mix=6, texture=rough, jitter=2)
    put(m.PATCH_DARK, [tone - rng.uniform(8, 30)], spread=4, mix=4, texture=rough, jitter=1)
    put(m.PATCH_LIGHT, [tone + rng.uniform(8, 30)], spread=4, mix=4, texture=rough, jitter=1)
    put(m.MANHOLE, [(70, 66, 62)], texture=0.15)
    put(m.SEAL, [tone - 28], spread=4, mix=2, texture=0.05, jitter=1)
    put(m.GUTTER, [tone + 24, season.paving[0]], spread=8)
    put(m.BIKE_LANE, [(150, 78, 66), (88, 130, 96), tone + 10])
    put((m.KERB,), season.paving, spread=14, mix=6)
    put((*m.PAVEMENT, m.CONCRETE), season.paving, spread=14, mix=10, texture=rough)
    put(m.PAVER, [(165, 128, 108), (150, 146, 140), (140, 104, 88)], texture=0.16)
    put(m.GRAVEL, [(168, 160, 146), (150, 138, 120)], texture=0.3)
    put(m.GREEN, season.grass, spread=10, mix=22, texture=0.24, jitter=7)
    put(m.FLOWERBED, [*season.leaves, (150, 90, 100)], mix=30, texture=0.4)
    put(m.CROP, [*season.grass, *season.soil], mix=10, texture=0.3)
    put(m.SOIL, season.soil, mix=14, texture=0.25)
    put(m.WATER, [(60, 82, 92), (78, 88, 80)], texture=0.06)
    put(m.HEDGE, season.leaves, spread=8, texture=0.5)
    put(m.WALL, [(176, 168, 156), (150, 100, 84), (188, 186, 182)], texture=0.15)
    put(m.FENCE, [(130, 104, 80), (96, 100, 98), (180, 176, 170)], texture=0.2)
    put(m.GLASS, [(42, 50, 58), (70, 82, 92)])
    put((m.TYRE,), [(28, 28, 30)])
    put((m.POST,), [(120, 122, 124), (90, 92, 92), (150, 152, 152)])
    # What follows has its colour by nature, not by chance: a red car is red from above, too.
    roofs, shaded, walls = np.array(m.ROOFS), np.array(m.ROOFS) + m.ROOF_SHADE, np.array(m.FACADES)
    put(m.CARS, [(0, 0, 0)], spread=8, mix=3, texture=0.02)
    put(roofs, [(0, 0, 0)], spread=12, mix=10, texture=0.12)
    put(walls, [(0, 0, 0)], spread=14, mix=8, texture=0.08)
    crowns = np.array(m.CROWNS).reshape(16, 3)
    put(crowns[:, 0], [(0, 0, 0)], spread=8, jitter=5, texture=0.35)
    families = _TIMBER if season.road_paving[0] else _FACADE_FAMILIES
    leaves = [season.leaves[k % len(season.leaves)] if k < 12 else _CONIFER for k in range(16)]
    for rows, natural in (
        (np.array(m.CARS), np.array(_CAR_COLOURS)),
        (roofs, np.array(_ROOF_FAMILIES)[np.arange(len(roofs)) % 6]),
        (walls, np.array(families)[np.arange(len(walls)) * 7 % 6]),
        (crowns[:, 0], np.array(leaves)),
    ):
        a[rows] += natural
        b[rows] += natural
    a[shaded], b[shaded], fine[shaded] = a[roofs] * 0.72, b[roofs] * 0.72, fine[roofs]
    leafy = a[crowns[:, 0]]
    for rows, gain in zip(crowns.T, (0.58, 0.85, 1.12), strict=True):
        a[rows], b[rows], fine[rows] = leafy * gain, leafy * gain * 1.15, 0.35
    shares = [rng.uniform(*bounds) for bounds in season.covered]
    for ids, share in zip((m.GREEN, m.PAVED, [*roofs, *shaded], m.ROADS), shares, strict=True):
        cover[list(ids)] = share
    cover[[m.SOIL, m.GRAVEL, m.HEDGE]] = shares[0] * 0.8
    pack = [np.column_stack([rgb, extra * 255]) for rgb, extra in ((a, fine), (b, cover))]
    return tuple(np.clip(p, 0, 255).astype(np.uint8) for p in pack)  # type: ignore[return-value]
