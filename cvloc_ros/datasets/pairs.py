"""Anybody's pairs of a camera image and a satellite picture: a CSV file, and the images beside it.

One line a pair, with these columns in any order; others are left alone:

=============================================== ==================================================================
``ground``, ``satellite``                       image files, relative to the CSV; the satellite picture has 8 bits and
                                                north up; where its alpha is 0, if it has one, there is no imagery
``meters_per_pixel``                            of the satellite picture
``camera``                                      a YAML file, relative to the CSV, or ``equirectangular``
``camera_height_m``                             over the ground
``east_m``, ``north_m``, ``yaw_deg``            the true pose: metres from the satellite picture's centre, degrees
                                                counter-clockwise from east
``prior_east_m``, ``prior_north_m``,            where the search starts
``prior_yaw_deg``
``prior_radius_m``, ``prior_yaw_range_deg``     how far the prior may be off: metres along each axis, degrees
=============================================== ==================================================================

The position is that of the ground under the camera, the heading the way that the vehicle looks. A panorama's middle
column looks along the heading.

The YAML file is what ROS's camera_calibration writes: ``image_width``, ``image_height``, ``camera_matrix`` and
``distortion_coefficients`` with their ``data``, and ``distortion_model``: ``plumb_bob``, ``rational_polynomial`` or
``equidistant`` (fisheye). A camera that does not look straight ahead says so in ``mount``: ``yaw_deg`` to the left,
``pitch_deg`` down, ``roll_deg`` to the right.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.aerial_image import AerialImage
from cvloc_ros.datasets.files import DatasetError, numbers, read_rgb, read_rgba, read_yaml, require
from cvloc_ros.datasets.item import PATCH_GRID, Item, box_prior, digest_of
from cvloc_ros.geometry import (
    SE2,
    Camera,
    EquirectangularCamera,
    FisheyeCamera,
    GroundGrid,
    PinholeCamera,
    camera_extrinsics,
)
from cvloc_ros.localization.types import Frame

FILES = ("ground", "satellite", "camera")
NUMBERS = (
    "meters_per_pixel",
    "camera_height_m",
    "east_m",
    "north_m",
    "yaw_deg",
    "prior_east_m",
    "prior_north_m",
    "prior_yaw_deg",
    "prior_radius_m",
    "prior_yaw_range_deg",
)
_POSITIVE = ("meters_per_pixel", "camera_height_m", "prior_radius_m", "prior_yaw_range_deg")
_ANGLES = ("yaw", "pitch", "roll")
_OWN = "whoever made the pairs (the columns are described in cvloc_ros/datasets/pairs.py)"
_CALIBRATION = "ROS's camera_calibration"


class Pairs:
    """The pairs of a CSV file."""

    def __init__(self, path: str | Path, *, grid: GroundGrid = PATCH_GRID) -> None:
        """Read the table.

        Args:
            path: of the CSV file.
            grid: of the patches.

        Raises:
            DatasetError: the file is missing, or a column or a number is missing or wrong.

        """
        self.path, self.grid = Path(path), grid
        self.rows: list[dict[str, str]] = []
        self._values: list[dict[str, float]] = []
        reader = csv.DictReader(io.StringIO(self._text(), newline=""), skipinitialspace=True)
        try:
            missing = [name for name in (*FILES, *NUMBERS) if name not in (reader.fieldnames or [])]
            if missing:
                raise DatasetError(
                    f"expected the columns {', '.join((*FILES, *NUMBERS))} in {self.path}, {', '.join(missing)} missing"
                )
            for row in reader:
                values = self._numbers(row, reader.line_num)
                self.rows.append({name: row[name].strip() for name in FILES})
                self._values.append(values)
        except csv.Error as error:
            raise DatasetError(f"expected a table in {self.path}, line {reader.line_num + 1}: {error}") from error
        if not self.rows:
            raise DatasetError(f"expected pairs, but {self.path} has no lines below its header")
        self._camera = cache(read_camera)

    @property
    def digest(self) -> str:
        """Is another one where the list is another."""
        return digest_of(self.rows, self._values)

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Read an item; the map's origin is the satellite picture's centre.

        Raises:
            DatasetError: a file is missing or wrong.
            IndexError: there is no such item.

        """
        row, v = self.rows[index], self._values[index]
        folder = self.path.parent
        image = read_rgb(folder / row["ground"], "a ground image", _OWN)
        camera: Camera
        if row["camera"] == "equirectangular":
            R_base_camera = camera_extrinsics(height=0.0)
            try:
                camera = EquirectangularCamera(image.shape[1], image.shape[0])
            except ValueError as error:
                raise DatasetError(f"{folder / row['ground']}: {error}") from error
        else:
            camera, R_base_camera = self._camera(folder / row["camera"])
        if image.shape[:2] != (camera.height, camera.width):
            raise DatasetError(
                f"expected {camera.width} x {camera.height} pixels as {folder / row['camera']} says, but "
                f"{folder / row['ground']} has {image.shape[1]} x {image.shape[0]}: use the calibration of these images"
            )
        T_base_camera = R_base_camera.copy()
        T_base_camera[2, 3] = v["camera_height_m"]
        rgb, covered = read_rgba(folder / row["satellite"], "a satellite picture", _OWN)
        aerial = AerialImage.north_up(rgb, v["meters_per_pixel"], covered=covered)
        T_map_prior = SE2(v["prior_east_m"], v["prior_north_m"], float(np.radians(v["prior_yaw_deg"])))
        return Item(
            name=row["ground"],
            frame=Frame(index % len(self), image, camera, T_base_camera),
            prior=box_prior(T_map_prior, radius=v["prior_radius_m"], yaw=float(np.radians(v["prior_yaw_range_deg"]))),
            truth=SE2(v["east_m"], v["north_m"], float(np.radians(v["yaw_deg"]))),
            patch=aerial.patch(T_map_prior, self.grid),
        )

    def _text(self) -> str:
        data = require(self.path, "a table of pairs", _OWN).read_bytes()
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise DatasetError(
                f"expected UTF-8 in {self.path}, line {line} is in another encoding: save it as UTF-8 (iconv -f "
                "latin1 -t utf8 makes it of Latin-1)"
            ) from error

    def _numbers(self, row: dict[str, str], line: int) -> dict[str, float]:
        if None in row.values():
            raise DatasetError(f"expected all columns filled, line {line} of {self.path} is cut off")
        try:
            values = dict(zip(NUMBERS, numbers([row[name] for name in NUMBERS], self.path).tolist(), strict=True))
        except DatasetError as error:
            raise DatasetError(f"line {line}: {error}") from error
        for name in _POSITIVE:
            if values[name] <= 0:
                raise DatasetError(f"expected a positive {name} in line {line} of {self.path}, got {values[name]}")
        return values


def read_camera(path: Path) -> tuple[Camera, np.ndarray]:
    """Read a camera's YAML file: its intrinsics, and how it is turned on the vehicle (4x4, no translation).

    Raises:
        DatasetError: the file is missing or wrong.

    """
    content = read_yaml(path, "a camera's calibration", _CALIBRATION)
    try:
        size = int(content["image_width"]), int(content["image_height"])
        K = numbers(content["camera_matrix"]["data"], path).reshape(3, 3)
        model = content.get("distortion_model", "plumb_bob")
        distortion = tuple(numbers(content.get("distortion_coefficients", {}).get("data", []), path).tolist())
        mount = content.get("mount", {})
        unknown = set(mount) - {f"{angle}_deg" for angle in _ANGLES}
        if unknown:
            raise ValueError(f"expected yaw_deg, pitch_deg and roll_deg in mount, got {', '.join(sorted(unknown))}")
        angles = {angle: float(np.radians(mount.get(f"{angle}_deg", 0.0))) for angle in _ANGLES}
        camera: Camera
        if model in ("equidistant", "fisheye"):
            camera = FisheyeCamera(*size, K, distortion or (0.0,) * 4)
        elif model in ("plumb_bob", "rational_polynomial"):
            camera = PinholeCamera(*size, K, distortion if any(distortion) else ())
        else:
            raise ValueError(f"expected distortion_model plumb_bob, rational_polynomial or equidistant, got {model!r}")
    except KeyError as error:
        raise DatasetError(
            f"expected image_width, image_height and camera_matrix with its data in {path}, {error} is missing: write "
            f"it as {_CALIBRATION} does"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path} describes no camera: {error}") from error
    return camera, camera_extrinsics(height=0.0, **angles)
