"""The literature's protocols by name: which frames of which data set, from which priors; and what it trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.ford import LOGS, Ford
from cvloc_ros.datasets.item import PATCH_GRID, Dataset, Item, digest_of
from cvloc_ros.datasets.kitti import Kitti, far_from
from cvloc_ros.datasets.oxford import TESTS, Oxford
from cvloc_ros.datasets.pairs import Pairs
from cvloc_ros.datasets.vigor import Vigor
from cvloc_ros.geometry import GroundGrid

CLEAN = 100.0  # metres from all training frames: farther than a patch reaches


@dataclass(frozen=True, eq=False)
class Subset:
    """Some items of a data set, by their indices."""

    dataset: Dataset
    indices: Sequence[int]

    @property
    def digest(self) -> str:
        """Is another one where the data set's lists or the choice of its items are others."""
        return digest_of(self.dataset.digest, list(self.indices))

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        """Read an item."""
        return self.dataset[self.indices[index]]

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))


def _clean_kitti(root: Path, grid: GroundGrid) -> Dataset:
    cross = Kitti(root, "cross", grid=grid)
    clean = far_from(cross, Kitti(root, "train"), CLEAN)
    if not clean:
        raise DatasetError(
            f"expected frames of KITTI's split 'cross' over {CLEAN:.0f} m from all training frames, but none of the "
            f"{len(cross)} in {root} is: use the published lists"
        )
    return Subset(cross, clean)


def _ford(log: int, part: str = "test") -> Callable[[Path, GroundGrid], Dataset]:
    return lambda root, grid: Ford(root, log, part, grid=grid)


def _vigor(area: str, aligned: bool, part: str = "test") -> Callable[[Path, GroundGrid], Dataset]:
    return lambda root, grid: Vigor(root, area, part, aligned=aligned, grid=grid)


def _oxford(split: str) -> Callable[[Path, GroundGrid], Dataset]:
    return lambda root, grid: Oxford(root, split, grid=grid)


PROTOCOLS: dict[str, Callable[[Path, GroundGrid], Dataset]] = {
    # 95 % of same's frames are 0.1 s from a training frame; a third of cross is within 100 m of one
    "kitti-same": lambda root, grid: Kitti(root, "same", grid=grid),
    "kitti-cross": lambda root, grid: Kitti(root, "cross", grid=grid),
    "kitti-cross-clean": _clean_kitti,
    **{f"ford-log{log}": _ford(log) for log in LOGS},
    **{f"vigor-{area}": _vigor(area, True) for area in ("same", "cross")},
    **{f"vigor-{area}-unaligned": _vigor(area, False) for area in ("same", "cross")},
    **{f"oxford-{test}": _oxford(test) for test in TESTS},
    "pairs": lambda root, grid: Pairs(root, grid=grid),
}

TRAINING: dict[str, Callable[[Path, GroundGrid], Dataset]] = {
    "kitti-train": lambda root, grid: Kitti(root, "train", grid=grid),
    **{f"ford-log{log}": _ford(log, "train") for log in LOGS},
    **{f"vigor-{area}": _vigor(area, True, "train") for area in ("same", "cross")},
    "oxford-training": _oxford("training"),
    "pairs": PROTOCOLS["pairs"],
}


def open_protocol(name: str, root: str | Path, *, grid: GroundGrid = PATCH_GRID) -> Dataset:
    """Open the test frames of a protocol.

    Args:
        name: one of `PROTOCOLS`.
        root: the data set's folder; for ``pairs`` the CSV file.
        grid: of the patches: the matcher's.

    Raises:
        DatasetError: a file is missing or wrong.
        ValueError: there is no such protocol.

    """
    if name not in PROTOCOLS:
        raise ValueError(f"expected a protocol of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name](Path(root), grid)


def open_training(name: str, root: str | Path, *, grid: GroundGrid = PATCH_GRID) -> Dataset:
    """Open the training frames of a data set.

    Args:
        name: one of `TRAINING`.
        root: the data set's folder; for ``pairs`` the CSV file.
        grid: of the patches.

    Raises:
        DatasetError: a file is missing or wrong.
        ValueError: there is no such part.

    """
    if name not in TRAINING:
        raise ValueError(f"expected training frames of {', '.join(TRAINING)}, got {name!r}")
    return TRAINING[name](Path(root), grid)
