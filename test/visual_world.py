"""A vehicle that sees the very ground that is on the satellite image, and the perfect answer to where it is."""

from __future__ import annotations

import numpy as np
from ros_world import DATUM

from cvloc_ros.datasets.orthophoto_view import Ground, OrthophotoRenderer
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.localization.types import Frame, Localization, Matches, Posterior, Prior

CAMERA = PinholeCamera.from_focal(624, 192, 372.0)
MOUNT = camera_extrinsics(height=1.65, x=1.2)
TRUE = SE2(12.0, -8.0, 0.9)
PRIOR = Prior(SE2(14.0, -9.5, 0.85), np.diag([4.0, 4.0, 0.01]))
STAMP = 5_000_000_000


def frame_of(imagery):
    """Return what the camera sees at the true pose."""
    ground = Ground.read(str(imagery), DATUM, np.array([[TRUE.x, TRUE.y]]))
    return Frame(STAMP, OrthophotoRenderer(ground, CAMERA, MOUNT, seed=0).render(TRUE, 0.0), CAMERA, MOUNT)


def perfect_localization():
    """Return the truth as an answer."""
    x, y = np.meshgrid(np.arange(7.2, 40, 1.6), np.arange(-12, 12.1, 1.6))
    base = np.stack([x.ravel(), y.ravel()], axis=-1)
    patch = (PRIOR.T_map_base.inverse() @ TRUE).apply(base)
    weights = np.linspace(0.1, 0.9, len(base))
    axis = np.arange(-20, 20.1, 1.6)
    posterior = Posterior(np.full((3, len(axis), len(axis)), 1.0), axis, axis, np.radians([-2, 0, 2]))
    return Localization(
        stamp=STAMP,
        prior=PRIOR,
        T_map_base=TRUE,
        covariance=np.diag([0.09, 0.25, 1e-3]),
        quality=0.9,
        accepted=True,
        reason="",
        matches=Matches(base, patch, weights),
        posterior=posterior,
        milliseconds={"total": 1.0},
        search_box=(6.0, 5.0, 0.1),
    )


def area(satellite_map, west, north, rows, cols, cell):
    """Return the satellite image of a north-up rectangle."""
    grid = GroundGrid(rows, cols, cell, x_max=rows * cell / 2)
    return satellite_map.patch(SE2(west + cols * cell / 2, north - rows * cell / 2, np.pi / 2), grid).image
