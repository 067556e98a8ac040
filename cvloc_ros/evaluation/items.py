"""Per-frame accuracy on a data set's items: each is localized once, from the prior that its protocol gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def localize_items(localizer: Localizer, items: Iterable[Item], *, blind: bool = False) -> Iterator[ItemResult]:
    """Localize each item on its own patch.

    Args:
        localizer: matches; its satellite map is not used.
        items: a data set that was opened with the matcher's grid, or a part of it.
        blind: blank the camera image: what the map alone gives away.

    Raises:
        DatasetError: a file of an item is missing or wrong.
        ValueError: the items' patches are not on the matcher's grid.

    """
    for item in items:
        if item.patch.grid != localizer.matcher.patch_grid:
            raise ValueError(
                f"expected patches on the matcher's grid {localizer.matcher.patch_grid}, got {item.patch.grid}: open "
                "the data set with it"
            )
        frame = replace(item.frame, image=np.zeros_like(item.frame.image)) if blind else item.frame
        yield ItemResult(item.name, item.truth, localizer.match(frame, item.prior, item.patch))
