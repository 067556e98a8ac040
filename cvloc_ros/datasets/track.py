"""Where a vehicle was or is to go, read from whatever a user has: a bag, GPX, CSV or TUM."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import fix_event
from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery.uri import ImageryError

_BAG_SUFFIXES = (".mcap", ".db3", ".bag")
_FIX = "sensor_msgs/msg/NavSatFix"
_NAMES = {"latitude": ("latitude", "lat"), "longitude": ("longitude", "lon", "lng", "long")}


def read_track(path: str | Path, *, datum: LocalFrame | None = None) -> np.ndarray:
    """Read a track.

    Args:
        path: a bag (its NavSatFix messages, as far as localization takes them); .gpx; .csv with columns latitude and
            longitude, or just these two; .tum in the map of ``datum``.
        datum: of the map, for .tum.

    Returns:
        (N, 2) WGS84 latitude and longitude in degrees, N >= 1.

    Raises:
        ImageryError: there is no such file, or no position in it.

    """
    path = Path(path)
    if not path.exists():
        raise ImageryError(f"expected a track (a bag, .gpx, .csv or .tum), but there is no file '{path}'")
    try:
        if path.is_dir() or path.suffix in _BAG_SUFFIXES:
            points = _of_bag(path)
        elif path.suffix == ".gpx":
            points = _of_gpx(path)
        elif path.suffix == ".tum":
            points = _of_tum(path, datum)
        else:
            points = _of_csv(path)
    except (ValueError, IndexError, csv.Error, ElementTree.ParseError) as error:
        raise ImageryError(f"'{path}' is no track that can be read: {error}") from None
    # Latitude and longitude of exactly 0 are what a receiver writes before it knows any.
    points = points[np.isfinite(points).all(axis=1) & points.any(axis=1)]
    if not len(points) or np.abs(points).max(axis=0)[0] > 90 or np.abs(points).max(axis=0)[1] > 180:
        raise ImageryError(
            f"expected positions as latitude and longitude in degrees in '{path}', found none, or others"
        )
    return points


def _of_bag(path: Path) -> np.ndarray:
    from rosbags.highlevel import AnyReader
    from rosbags.highlevel.anyreader import AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            fixes = [connection for connection in reader.connections if connection.msgtype == _FIX]
            if not fixes:
                return np.zeros((0, 2))
            places = []
            for connection, _, raw in reader.messages(fixes):
                with suppress(ConversionError):
                    fix = fix_event(reader.deserialize(raw, connection.msgtype))
                    places.append((fix.latitude, fix.longitude))
            return np.array(places).reshape(-1, 2)
    except (AnyReaderError, OSError) as error:
        raise ValueError(str(error)) from None


def _of_gpx(path: Path) -> np.ndarray:
    points = [element for element in ElementTree.parse(path).iter() if element.tag.endswith(("trkpt", "rtept"))]
    for number, point in enumerate(points, start=1):
        if not {"lat", "lon"} <= point.attrib.keys():
            raise ValueError(f"expected lat and lon of every point, but point {number} has {dict(point.attrib)}")
    return np.array([(float(point.attrib["lat"]), float(point.attrib["lon"])) for point in points]).reshape(-1, 2)


def _of_tum(path: Path, datum: LocalFrame | None) -> np.ndarray:
    if datum is None:
        raise ValueError("positions in metres need the map's datum: give --datum")
    return datum.to_wgs84(np.loadtxt(path, ndmin=2)[:, 1:3])


def _of_csv(path: Path) -> np.ndarray:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].lstrip().startswith("#")]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = [next((header.index(name) for name in names if name in header), None) for names in _NAMES.values()]
    if None not in columns:
        rows = rows[1:]
    elif len(header) == 2:
        columns = [0, 1]
    else:
        raise ValueError(f"expected the columns latitude and longitude, got {', '.join(header) or 'nothing'}")
    return np.array([[float(row[column]) for column in columns if column is not None] for row in rows]).reshape(-1, 2)
