"""How far around a prior the matcher searches: by the prior's covariance; and which patches reach that far."""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.types import Prior

BOX_FLOOR = (4.0, np.radians(4.0))  # m, rad: a confident prior may still be wrong by this much
BOX_SIGMAS = 3.0
_ASTRAY = np.array([0.4, 0.4, np.radians(0.5)])
"""m, m, rad: how far a box may reach beyond; with vote_flow's steps (1.6 m, 2 degrees) it still is the same poses."""


def search_box(prior: Prior, largest: tuple[float, float]) -> tuple[float, float, float]:
    """Return the half-widths (m forward, m left, rad) of the search around a prior."""
    R = prior.T_map_base.rotation()
    sigma_x, sigma_y = np.sqrt(np.diag(R.T @ prior.covariance[:2, :2] @ R))
    sigma_yaw = np.sqrt(prior.covariance[2, 2])
    x, y = (float(np.clip(BOX_SIGMAS * s, BOX_FLOOR[0], largest[0])) for s in (sigma_x, sigma_y))
    return x, y, float(np.clip(BOX_SIGMAS * sigma_yaw, BOX_FLOOR[1], largest[1]))


def holds(largest: tuple[float, float], T_patch_prior: SE2, box: tuple[float, float, float]) -> bool:
    """Return whether a search box around a prior lies within what can be searched on a patch, or nearly so.

    Nearly: a patch that was cut where a prior was expected serves the prior that comes, which is some centimetres off.

    Args:
        largest: half-widths of what can: metres forward and left, radians.
        T_patch_prior: the prior in the patch's frame.
        box: half-widths of the search in the prior's axes, m, m, rad.

    """
    R = np.abs(T_patch_prior.rotation())
    reach = np.abs(T_patch_prior.vector()) + [*(R @ box[:2]), box[2]]
    return bool((reach <= np.array([largest[0], largest[0], largest[1]]) + _ASTRAY).all())
