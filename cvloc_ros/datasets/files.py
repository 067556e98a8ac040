"""Files of published data sets: read, or named with the path expected and where to get them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import yaml
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cvloc_ros.datasets.image_decoding import ConversionError, decode_file
from cvloc_ros.geometry import LocalFrame

_TURNED = 1e-3  # radians by which a picture's columns may miss north: 10 cm in 100 m


class DatasetError(RuntimeError):
    """A data set's file is missing or wrong; the message says what was expected where, what came and what to do."""


def require(path: Path, what: str, source: str) -> Path:
    """Return a file's path if it is there.

    Args:
        path: where the published layout has it.
        what: it is, in words.
        source: where it comes from.

    Raises:
        DatasetError: there is no such file.

    """
    if not path.is_file():
        raise DatasetError(f"expected {what} at {path}, but there is no such file: get it from {source}")
    return path


def numbered(folder: Path, suffix: str) -> list[Path]:
    """Return a folder's files that are named by a number, in its order; others, as macOS leaves, are none of the data.

    Args:
        folder: may be absent.
        suffix: with the dot.

    """
    return sorted((path for path in folder.glob(f"*{suffix}") if path.stem.isdecimal()), key=lambda p: int(p.stem))


def read_rgb(path: Path, what: str, source: str) -> np.ndarray:
    """Read an image as RGB uint8 (H, W, 3).

    Raises:
        DatasetError: there is no such file, or it is no image.

    """
    data = np.fromfile(require(path, what, source), np.uint8)
    try:
        return decode_file(data)
    except ConversionError as error:
        raise DatasetError(
            f"expected {what} at {path}, but its {data.size} bytes do not decode: the file is cut off, too large, or "
            f"no JPEG or PNG; get it again from {source}"
        ) from error


def read_rgba(path: Path, what: str, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a north-up picture as RGB uint8 (H, W, 3), and which pixels its alpha shows (H, W); None if it has no alpha.

    Raises:
        DatasetError: there is no such file, it is no image of 8 bits, or a TIFF whose coordinates are not north up.

    """
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(require(path, what, source), what, source)
    rgb = read_rgb(path, what, source)
    stored = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    _require_bytes(stored, path, what)
    return rgb, stored[..., 3] > 0 if stored.shape[2:] == (4,) else None


def _read_tiff(path: Path, what: str, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a TIFF with or without coordinates; OpenCV would complain of those."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as raster:
                bands, shown, T = raster.read(), raster.dataset_mask() > 0, raster.transform
                palette = raster.colormap(1) if raster.colorinterp[0] is ColorInterp.palette else None
        except (RasterioError, OSError) as error:
            raise DatasetError(f"expected {what} at {path}, but it does not decode: {error}") from error
    _require_bytes(bands, path, what)
    if not T.is_identity and (abs(T.b) > _TURNED * abs(T.a) or abs(T.d) > _TURNED * abs(T.e) or T.a < 0 or T.e > 0):
        raise DatasetError(
            f"expected {what} with north up at {path}, but its coordinates say that it is turned or mirrored (columns "
            f"go along ({T.a:g}, {T.d:g}), rows along ({T.b:g}, {T.e:g})): gdalwarp makes one with north up"
        )
    if palette is not None:
        table = np.zeros((256, 3), np.uint8)
        table[list(palette)] = [colour[:3] for colour in palette.values()]  # a TIFF's palette has no alpha
        bands = np.moveaxis(table[bands[0]], -1, 0)
    colours = bands[:3] if len(bands) >= 3 else bands[[0, 0, 0]]
    return np.ascontiguousarray(np.moveaxis(colours, 0, -1)), None if shown.all() else shown


def _require_bytes(pixels: np.ndarray, path: Path, what: str) -> None:
    if pixels.dtype != np.uint8:
        raise DatasetError(
            f"expected {what} of 8 bits at {path}, got {pixels.dtype}: gdal_translate -ot Byte -scale makes one"
        )


def read_lines(path: Path, what: str, source: str, *, fields: Sequence[int]) -> list[list[str]]:
    """Read the lines of a list, split at white space; empty lines are left out.

    Args:
        path: of the list.
        what: it is, in words.
        source: where it comes from.
        fields: how many a line may have.

    Raises:
        DatasetError: there is no such file, it is empty or a line has another number of fields.

    """
    text = require(path, what, source).read_text(errors="replace")
    numbered = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in numbered if line]
    for number, line in lines:
        if len(line) not in fields:
            raise DatasetError(
                f"expected {what} with {' or '.join(map(str, fields))} fields a line, but line {number} of {path} has "
                f"{len(line)}: get it again from {source}"
            )
    if not lines:
        raise DatasetError(f"expected {what}, but {path} is empty: get it again from {source}")
    return [line for _, line in lines]


def read_yaml(path: Path, what: str, source: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        DatasetError: there is no such file, or it is something else.

    """
    try:
        # OpenCV and older ROS tools begin their files with a directive that YAML does not know
        text = require(path, what, source).read_text(errors="replace").replace("%YAML:1.0", "", 1)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())  # of several lines
        raise DatasetError(f"expected {what} in YAML at {path}, but it does not parse: {reason}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"expected {what} in YAML at {path}, got {type(content).__name__}: get it from {source}")
    return content


def numbers(words: Sequence[Any], path: Path) -> np.ndarray:
    """Return words, or what YAML made of them, as floats (N,).

    Raises:
        DatasetError: one is no finite number.

    """
    text = " ".join(map(str, words))
    try:
        values = np.array([float(word) for word in words])
    except (TypeError, ValueError) as error:
        raise DatasetError(f"expected numbers in {path}, got '{text:.200}': {error}") from error
    if not np.isfinite(values).all():
        raise DatasetError(f"expected finite numbers in {path}, got '{text:.200}': leave such a frame out")
    return values


def place(latitude: float, longitude: float, path: Path) -> LocalFrame:
    """Return the frame around a place that a file has.

    Raises:
        DatasetError: there is no such place.

    """
    try:
        return LocalFrame(latitude, longitude)
    except ValueError as error:
        raise DatasetError(f"expected a place on Earth in {path}: {error}") from error
