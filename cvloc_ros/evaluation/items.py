"""Per-frame accuracy on a data set's items: each is localized once, from the prior that its protocol gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from cvloc_ros.datasets.item import Item
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.types import Localization


@dataclass(frozen=True, eq=False)
class ItemResult:
    """One item's answer.

    Attributes:
        name: the item's.
        truth: ``T_map_base``.
        localization: the answer, and the prior from which it was sought, in the same map.

    """

    name: str
    truth: SE2
    localization: Localization


def localize_items(localizer: Localizer, batch: Iterable[Item], *, blind: bool = False) -> list[ItemResult]:
    """Localize items together, each on its own patch.

    Args:
        localizer: matches; its satellite map is not used.
        batch: of a data set that was opened with the matcher's grid.
        blind: blank the camera images: what the map alone gives away.

    Raises:
        DatasetError: a file of an item is missing or wrong.
        ValueError: the items' patches are not on the matcher's grid.

    """
    items = list(batch)
    for item in items:
        if item.patch.grid != localizer.matcher.patch_grid:
            raise ValueError(
                f"expected patches on the matcher's grid {localizer.matcher.patch_grid}, got {item.patch.grid}: open "
                "the data set with it"
            )
    frames = [item.frame for item in items]
    if blind:
        frames = [replace(frame, image=np.zeros_like(frame.image)) for frame in frames]
    found = localizer.match_batch([(frame, item.prior, item.patch) for frame, item in zip(frames, items, strict=True)])
    return [ItemResult(item.name, item.truth, each) for item, each in zip(items, found, strict=True)]
