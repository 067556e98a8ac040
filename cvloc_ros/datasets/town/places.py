"""Real places on land for made-up towns: flat country with right-hand traffic, on several continents."""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import LocalFrame

_PLACES = (  # latitude, longitude, height in metres
    (48.21, 16.55, 155.0),
    (49.02, 8.36, 112.0),
    (52.23, 20.62, 95.0),
    (45.07, 9.71, 60.0),
    (47.15, 2.35, 150.0),
    (41.65, -4.75, 690.0),
    (40.05, -98.32, 560.0),
    (42.28, -84.42, 290.0),
    (50.43, -104.55, 575.0),
    (-34.62, -60.45, 75.0),
    (-22.75, -47.32, 570.0),
    (59.86, 17.72, 20.0),
    (46.93, 19.67, 110.0),
    (37.75, 32.45, 1010.0),
    (35.80, 126.88, 10.0),
    (53.08, 8.75, 5.0),
)


def draw_datum(rng: np.random.Generator) -> LocalFrame:
    """Return a datum within a few kilometres of one of the places."""
    latitude, longitude, altitude = _PLACES[int(rng.integers(len(_PLACES)))]
    north, east = rng.uniform(-0.03, 0.03, 2)
    return LocalFrame(round(latitude + float(north), 6), round(longitude + float(east), 6), altitude)
