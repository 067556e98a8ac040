"""How far around a prior the matcher searches: by the prior's covariance."""

from __future__ import annotations

import numpy as np

from cvloc_ros.localization.types import Prior

BOX_FLOOR = (4.0, np.radians(4.0))  # m, rad: a confident prior may still be wrong by this much
BOX_SIGMAS = 3.0


def search_box(prior: Prior, largest: tuple[float, float]) -> tuple[float, float, float]:
    """Return the half-widths (m forward, m left, rad) of the search around a prior."""
    R = prior.T_map_base.rotation()
    sigma_x, sigma_y = np.sqrt(np.diag(R.T @ prior.covariance[:2, :2] @ R))
    sigma_yaw = np.sqrt(prior.covariance[2, 2])
    x, y = (float(np.clip(BOX_SIGMAS * s, BOX_FLOOR[0], largest[0])) for s in (sigma_x, sigma_y))
    return x, y, float(np.clip(BOX_SIGMAS * sigma_yaw, BOX_FLOOR[1], largest[1]))
