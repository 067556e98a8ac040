"""Colours by season: what grass, leaves, asphalt and light look like at a time of the year.

Values are RGB, 0..255, as a camera with neutral settings would show flat ground in full light.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Season:
    """A palette to draw from.

    Attributes:
        grass: anchors that lawns, verges and fields mix from.
        leaves: anchors of tree crowns and hedges.
        soil: bare earth, crops after harvest.
        asphalt: range of the road's grey.
        asphalt_tint: RGB added to it.
        paving: anchors of pavements, kerbs and drives.
        cover: colour of what lies on things (leaves, frost, snow), or None.
        covered: ranges of the covered share of (green, paved, roofs, roads).
        cover_texel: range of the size of its patches, metres per texel (patches are of 4 to 32 texels).
        cover_edge: range of how gradually it ends, in counts of 256 of the texture: many is a light veil.
        sun: range of the sun's elevation, degrees.
        overcast: probability that there are no cast shadows.
        tint: RGB gain ranges of the light.
        exposure: range.
        saturation: range.
        sky: anchors (zenith, horizon) of a clear and of a grey sky.
        wet: probability that roads are wet.
        paint: colours of edge paint and centre-line paint to choose from.
        road_paving: colours of paved (not asphalt) carriageways that a street may have, with their probability.

    """

    grass: tuple[Colour, ...]
    leaves: tuple[Colour, ...]
    soil: tuple[Colour, ...]
    asphalt: tuple[int, int]
    asphalt_tint: Colour = (0, 0, 0)
    paving: tuple[Colour, ...] = ((165, 160, 152), (150, 148, 145), (178, 168, 150), (140, 140, 140), (168, 140, 122))
    cover: Colour | None = None
    covered: tuple[tuple[float, float], ...] = ((0, 0), (0, 0), (0, 0), (0, 0))
    cover_texel: tuple[float, float] = (0.05, 0.3)
    cover_edge: tuple[float, float] = (20, 60)
    sun: tuple[float, float] = (25, 65)
    overcast: float = 0.3
    tint: tuple[tuple[float, float], ...] = ((0.95, 1.08), (0.96, 1.04), (0.9, 1.08))
    exposure: tuple[float, float] = (0.7, 1.3)
    saturation: tuple[float, float] = (0.5, 1.4)
    sky: tuple[tuple[Colour, Colour], ...] = (((95, 140, 205), (190, 208, 225)), ((175, 180, 188), (212, 214, 216)))
    wet: float = 0.1
    paint: tuple[tuple[Colour, Colour], ...] = (
        ((232, 232, 228), (232, 232, 228)),
        ((222, 224, 226), (222, 224, 226)),
        ((235, 232, 220), (215, 195, 120)),
    )
    road_paving: tuple[tuple[Colour, ...], float] = ((), 0.0)


_GREYS = (78, 150)

SEASONS = {
    "spring": Season(
        grass=((112, 146, 66), (135, 160, 80), (95, 130, 62)),
        leaves=((120, 152, 70), (158, 168, 92), (200, 165, 175), (95, 125, 60)),
        soil=((128, 102, 78), (110, 92, 70)),
        asphalt=_GREYS,
    ),
    "summer": Season(
        grass=((82, 112, 54), (104, 124, 62), (125, 132, 75)),
        leaves=((52, 86, 40), (72, 102, 50), (60, 92, 58), (92, 112, 58)),
        soil=((150, 125, 92), (190, 170, 115)),
        asphalt=_GREYS,
        sun=(35, 68),
    ),
    "drought": Season(
        grass=((178, 160, 106), (152, 138, 86), (195, 180, 130), (120, 122, 70)),
        leaves=((98, 108, 62), (122, 120, 72), (80, 94, 52)),
        soil=((190, 155, 115), (205, 178, 135), (170, 120, 90)),
        asphalt=(105, 172),
        asphalt_tint=(8, 4, -3),
        sun=(30, 70),
        overcast=0.12,
    ),
    "autumn": Season(
        grass=((118, 118, 62), (100, 110, 56), (140, 128, 72)),
        leaves=((188, 112, 42), (204, 154, 54), (152, 72, 42), (112, 104, 52), (170, 135, 60)),
        soil=((112, 88, 66), (96, 80, 64)),
        asphalt=(68, 140),
        cover=(158, 104, 52),
        covered=((0, 0.3), (0, 0.2), (0, 0.05), (0, 0.05)),
        cover_texel=(0.02, 0.1),
        sun=(14, 40),
        overcast=0.45,
        wet=0.3,
    ),
    "frost": Season(
        grass=((160, 166, 142), (140, 148, 118), (172, 176, 160)),
        leaves=((122, 108, 94), (138, 124, 110), (98, 92, 84), (84, 98, 78)),
        soil=((148, 138, 126), (130, 118, 106)),
        asphalt=(95, 165),
        cover=(202, 206, 204),
        covered=((0, 0.5), (0, 0.1), (0, 0.3), (0, 0)),
        cover_edge=(120, 255),
        sun=(10, 28),
        overcast=0.5,
        saturation=(0.35, 1.0),
        sky=(((140, 165, 200), (215, 220, 226)), ((190, 194, 198), (220, 221, 222))),
    ),
    "rain": Season(
        grass=((74, 98, 52), (90, 108, 60), (66, 90, 56)),
        leaves=((50, 76, 42), (64, 88, 48), (86, 98, 58)),
        soil=((88, 70, 54), (76, 62, 50)),
        asphalt=(48, 92),
        asphalt_tint=(-2, 0, 4),
        overcast=0.95,
        exposure=(0.65, 1.2),
        saturation=(0.4, 1.2),
        sky=(((150, 155, 165), (190, 193, 198)), ((120, 126, 136), (168, 172, 178))),
        wet=0.95,
    ),
    "dusk": Season(
        grass=((98, 108, 62), (84, 100, 58), (122, 122, 78)),
        leaves=((62, 80, 46), (78, 92, 52), (100, 92, 56)),
        soil=((132, 106, 82), (118, 98, 78)),
        asphalt=(72, 130),
        sun=(6, 18),
        overcast=0.25,
        tint=((1.05, 1.35), (0.88, 1.02), (0.62, 0.98)),
        exposure=(0.55, 1.0),
        sky=(((110, 125, 175), (238, 190, 150)), ((120, 118, 150), (205, 170, 165))),
    ),
    "bleached": Season(
        grass=((148, 158, 108), (165, 168, 125), (130, 145, 96)),
        leaves=((112, 128, 84), (130, 138, 96), (98, 116, 78)),
        soil=((188, 170, 145), (200, 188, 162)),
        asphalt=(120, 185),
        exposure=(1.1, 1.6),
        saturation=(0.25, 0.8),
        overcast=0.4,
    ),
    # Held out: a winter evening in the north. Patchy snow everywhere but on the (mostly cleared) roads, low blue
    # light, near-black wet asphalt or red brick carriageways, yellow paint. No training season has snow, paved
    # carriageways, yellow edge lines or light this blue.
    "snow": Season(
        grass=((112, 110, 88), (128, 122, 100), (96, 100, 84)),
        leaves=((88, 78, 74), (104, 94, 90), (52, 70, 62), (70, 64, 62)),
        soil=((92, 82, 78), (80, 74, 74)),
        asphalt=(34, 62),
        asphalt_tint=(-3, 0, 8),
        paving=((128, 122, 124), (112, 108, 112), (140, 110, 100)),
        cover=(226, 233, 246),
        covered=((0.4, 0.85), (0.15, 0.6), (0.35, 0.9), (0.0, 0.08)),
        cover_texel=(0.12, 0.5),
        sun=(4, 12),
        overcast=0.6,
        tint=((0.72, 0.88), (0.84, 0.95), (1.08, 1.3)),
        exposure=(0.65, 1.05),
        saturation=(0.6, 1.1),
        sky=(((70, 92, 150), (168, 178, 205)), ((120, 130, 158), (160, 168, 190))),
        wet=0.7,
        paint=(((228, 188, 60), (228, 188, 60)), ((214, 178, 72), (226, 190, 70))),
        road_paving=(((128, 62, 50), (112, 58, 52), (140, 76, 60)), 0.35),
    ),
}
