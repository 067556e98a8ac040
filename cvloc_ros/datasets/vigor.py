"""VIGOR (CVPR 2021) with the labels that SliceMatch (CVPR 2023) corrected.

::

    ROOT/<City>/panorama/<id>,<lat>,<lon>,.jpg                  2048 x 1024
    ROOT/<City>/satellite/satellite_<lat>_<lon>.png             640 x 640, zoom 20, around (lat, lon)
    ROOT/splits__corrected/<City>/same_area_balanced_{train,test}__corrected.txt
    ROOT/splits__corrected/<City>/pano_label_balanced__corrected.txt

Conventions:

- A line is ``panorama sat1 dr1 dc1 sat2 dr2 dc2 …``: first the picture in whose middle half the camera is, then three
  that see it nearer their edge. In the picture of 640 pixels the camera is at column 320 - dc and row 320 + dr.
- A panorama's middle column looks north. The vehicle's heading is north where the orientation is known (aligned);
  where it is not, it is drawn, and the panorama's middle lies to the side by as much. Drawing it is what rolling the
  panorama is in the literature.
- The map's origin is the satellite picture's middle; base_link is the ground under the camera.
- The literature takes one size of a pixel for each city (0.113248 m for New York, …); here it is computed from each
  picture's latitude, west to east and south to north: they agree to 0.15 %.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.aerial_image import AerialImage
from cvloc_ros.datasets.files import DatasetError, numbers, place, read_lines, read_rgb
from cvloc_ros.datasets.item import KNOWN_YAW, PATCH_GRID, Item, digest_of
from cvloc_ros.geometry import SE2, EquirectangularCamera, GroundGrid, camera_extrinsics
from cvloc_ros.localization.types import Frame, Prior

CITIES = ("NewYork", "Seattle", "SanFrancisco", "Chicago")
CAMERA_HEIGHT = 2.0  # metres; it is not published, and this is what the literature assumes
ZOOM, SIZE = 20, 640

# area -> part -> (cities, the name of their lists)
SPLITS: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "same": {
        "train": (CITIES, "same_area_balanced_train"),
        "test": (CITIES, "same_area_balanced_test"),
    },
    "cross": {
        "train": (("NewYork", "Seattle"), "pano_label_balanced"),
        "test": (("SanFrancisco", "Chicago"), "pano_label_balanced"),
    },
}

_DATA = "https://github.com/Jeff-Zilence/VIGOR"
_LABELS = "https://github.com/tudelft-iv/SliceMatch (splits__corrected)"
_SATELLITE_NAME = re.compile(r"satellite_(-?[\d.]+)_(-?[\d.]+)\.png")


class Vigor:
    """Panoramas and the satellite picture in whose middle half they were taken."""

    def __init__(
        self,
        root: str | Path,
        area: str,
        part: str = "test",
        *,
        aligned: bool = True,
        grid: GroundGrid = PATCH_GRID,
        seed: int = 0,
    ) -> None:
        """Read the lists.

        Args:
            root: folder with the cities and ``splits__corrected``.
            area: "same": the test's cities are those of the training; "cross": they are others.
            part: "train" or "test".
            aligned: whether the heading is known; if not, the prior says nothing of it.
            grid: of the patches.
            seed: of the headings where they are not known.

        Raises:
            DatasetError: a list is missing or wrong.
            ValueError: there is no such area or part.

        """
        if area not in SPLITS or part not in SPLITS[area]:
            raise ValueError(f"expected the area same or cross and the part train or test, got {area!r}, {part!r}")
        self.root, self.aligned, self.grid, self.seed = Path(root), aligned, grid, seed
        cities, name = SPLITS[area][part]
        self.names: list[str] = []
        self._satellites: list[str] = []
        offsets: list[np.ndarray] = []
        for city in cities:
            path = self.root / "splits__corrected" / city / f"{name}__corrected.txt"
            renamed = path.with_name(f"{name}.txt")  # as the code of CCVPE and FG2 wants it
            path = renamed if renamed.is_file() and not path.is_file() else path
            for line in read_lines(path, f"the corrected labels of {city}", _LABELS, fields=[4, 7, 10, 13]):
                self.names.append(f"{city}/{line[0]}")
                self._satellites.append(f"{city}/satellite/{line[1]}")
                offsets.append(numbers(line[2:4], path))
        self._offsets = np.array(offsets)

    @property
    def digest(self) -> str:
        """Is another one where the list is another."""
        return digest_of(self.names, self._satellites, self._offsets)

    def __len__(self) -> int:
        """Return how many panoramas there are."""
        return len(self.names)

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Read an item; the map's origin is the satellite picture's middle.

        Raises:
            DatasetError: a file is missing or wrong.
            IndexError: there is no such item.

        """
        city, _, name = self.names[index].partition("/")
        panorama = read_rgb(self.root / city / "panorama" / name, "a panorama", _DATA)
        try:
            camera = EquirectangularCamera(panorama.shape[1], panorama.shape[0])
        except ValueError as error:
            raise DatasetError(f"{self.root / city / 'panorama' / name}: {error}") from error
        path = self.root / self._satellites[index]
        aerial = _place(read_rgb(path, "a satellite picture", _DATA), path)
        dr, dc = self._offsets[index]
        # the label's pixel 320 is the picture's middle: half a pixel, 5 cm, is within what the labels can say
        east, north = aerial.to_map(np.array([SIZE / 2 - 0.5 - dc, SIZE / 2 - 0.5 + dr]))
        yaw, prior_yaw, sigma = np.pi / 2, np.pi / 2, KNOWN_YAW
        if not self.aligned:
            yaw, prior_yaw = np.random.default_rng([self.seed, range(len(self))[index]]).uniform(-np.pi, np.pi, 2)
            sigma = np.pi / np.sqrt(3)  # of a uniform heading
        radius = SIZE / 4 * float(np.linalg.norm(np.diff(aerial.to_map(np.array([[0, 0], [1, 0]])), axis=0)))
        T_map_prior = SE2(0.0, 0.0, float(prior_yaw))
        return Item(
            name=self.names[index],
            frame=Frame(
                index % len(self), panorama, camera, camera_extrinsics(height=CAMERA_HEIGHT, yaw=np.pi / 2 - yaw)
            ),
            prior=Prior(T_map_prior, np.diag([radius**2 / 3, radius**2 / 3, sigma**2])),
            truth=SE2(float(east), float(north), float(yaw)),
            patch=aerial.patch(T_map_prior, self.grid),
        )


def _place(rgb: np.ndarray, path: Path) -> AerialImage:
    """Place a satellite picture whose name says where its middle is."""
    match = _SATELLITE_NAME.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"expected a name like satellite_<lat>_<lon>.png, got {path}: see {_DATA}")
    if rgb.shape[:2] != (SIZE, SIZE):
        raise DatasetError(
            f"expected {SIZE} x {SIZE} pixels, but {path} has {rgb.shape[1]} x {rgb.shape[0]}: get it from {_DATA}"
        )
    return AerialImage.web_mercator(rgb, place(float(match[1]), float(match[2]), path), zoom=ZOOM)
