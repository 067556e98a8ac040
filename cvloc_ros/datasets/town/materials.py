"""What the town's surfaces are made of: the values of the material raster, and what they have in common.

A material says what a surface *is*; what it looks like is decided per view by `appearance.Appearance`, whose tables
are indexed by these values. That is what lets the two views of a pair differ in everything but the town itself.
"""

from __future__ import annotations

FIELD = 0
ASPHALT = (1, 2, 3, 4)
PATCH_DARK, PATCH_LIGHT, MANHOLE, SEAL = 5, 6, 7, 8
KERB, GUTTER = 9, 10
PAVEMENT = (11, 12)
BIKE_LANE = 13
CONCRETE, PAVER, GRAVEL = 14, 15, 16
VERGE, LAWN, LAWN_DRY, LAWN_LUSH, ROUGH = 17, 18, 19, 20, 21
SOIL, CROP, WATER, FLOWERBED = 22, 23, 24, 25
PARKING = 26
HEDGE, WALL, FENCE = 27, 28, 29  # seen from above, and as boxes from the ground
GLASS, TYRE, POST = 30, 31, 32

CARS = tuple(range(48, 64))
ROOFS = tuple(range(64, 112))  # the sunlit side (or the whole, if flat); + ROOF_SHADE is the other side
ROOF_SHADE = 48
FACADES = tuple(range(160, 208))  # the walls of the roof of the same rank
CROWNS = tuple(range(208, 256))  # 16 hues of three shades each: shaded, middle, sunlit

ROADS = (*ASPHALT, PATCH_DARK, PATCH_LIGHT, MANHOLE, SEAL, GUTTER, BIKE_LANE, PARKING)
PAVED = (*PAVEMENT, KERB, CONCRETE, PAVER)
GREEN = (FIELD, VERGE, LAWN, LAWN_DRY, LAWN_LUSH, ROUGH, CROP, FLOWERBED)
