"""Per-frame accuracy on pairs with known poses: each pair is localized once from a prior drawn in the search box."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.town import TownPair
from cvloc_ros.evaluation.batches import in_batches
from cvloc_ros.geometry import SE2, PinholeCamera
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.types import Frame, Localization, Prior


@dataclass(frozen=True, eq=False)
class PairResult:
    """One pair's answer; the map is the frame of the true vehicle.

    Attributes:
        localization: the answer, and the prior from which it was sought.
        error: (3,) forward, left (m) and heading (rad) in the frame of the truth.

    """

    localization: Localization
    error: np.ndarray


def draw_prior(rng: np.random.Generator, localizer: Localizer) -> Prior:
    """Draw a prior whose search box (±20 m ±10°) holds the true pose, the identity, anywhere with equal chance."""
    half, yaw = localizer.matcher.search_box
    x, y = rng.uniform(-half, half, 2)
    T_patch_vehicle = SE2(x, y, rng.uniform(-yaw, yaw))
    # the variance of the box; three sigma reach beyond it, so that the search is not narrowed
    covariance = np.diag([half**2, half**2, yaw**2]) / 3
    return Prior(T_patch_vehicle.inverse(), covariance)


def draw_tracked_prior(rng: np.random.Generator, localizer: Localizer) -> Prior:
    """Draw a prior as a tracker would give it: wrong by its own deviations, 0.5 to 6 m and 0.7 to 3.3 degrees."""
    sigma = np.exp(rng.uniform(np.log(0.5), np.log(6.0)))
    sigma_yaw = np.radians(np.exp(rng.uniform(np.log(0.7), np.log(3.3))))
    x, y = sigma * rng.normal(size=2)
    T_patch_vehicle = SE2(x, y, sigma_yaw * rng.normal())
    return Prior(T_patch_vehicle.inverse(), np.diag([sigma**2, sigma**2, sigma_yaw**2]))


def localize_pairs(
    localizer: Localizer,
    pairs: Iterable[TownPair],
    *,
    seed: int = 0,
    blind: bool = False,
    draw: Callable[[np.random.Generator, Localizer], Prior] = draw_prior,
    batch_size: int | None = None,
) -> Iterator[PairResult]:
    """Localize each pair from a random prior.

    Args:
        localizer: matches; its satellite map is not used.
        pairs: from `cvloc_ros.datasets.town.town_pairs`.
        seed: of the priors.
        blind: blank the camera image: what the map alone gives away.
        draw: draws a prior.
        batch_size: how many pairs are matched together; None for what the matcher's device takes best.

    """
    placed = place_pairs(localizer, pairs, seed=seed, blind=blind, draw=draw)
    for batch in in_batches(placed, batch_size or localizer.matcher.batch_size):
        for localization in localizer.match_batch(batch):
            yield PairResult(localization, localization.T_map_base.vector())


def place_pairs(
    localizer: Localizer,
    pairs: Iterable[TownPair],
    *,
    seed: int = 0,
    blind: bool = False,
    draw: Callable[[np.random.Generator, Localizer], Prior] = draw_prior,
) -> Iterator[tuple[Frame, Prior, Patch]]:
    """Yield each pair's frame, its prior and the patch there; the arguments are those of `localize_pairs`."""
    rng = np.random.default_rng(seed)
    for index, pair in enumerate(pairs):
        prior = draw(rng, localizer)
        patch = pair.patch(prior.T_map_base, localizer.matcher.patch_grid)
        camera = PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K)
        ground = np.zeros_like(pair.ground) if blind else pair.ground
        yield Frame(index, ground, camera, pair.T_base_camera), prior, patch
