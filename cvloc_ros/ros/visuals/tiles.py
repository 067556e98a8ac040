"""The satellite image as textured markers for RViz: square tiles around the vehicle, each sent once.

What RViz (Humble to Rolling) does with a textured marker decides how they are made:

- Only a TRIANGLE_LIST has a texture, only ``embedded://`` ones are loaded, and only if there is a texture coordinate
  for every point. ``texture.format`` names the codec: "jpeg", nothing else. v = 0 is the picture's top row.
- The texture is multiplied with the marker's colour, and lit by where its triangles face: white, scale 1, corners
  counter-clockwise seen from above.
- A marker that is sent again gets a second texture multiplied upon the first, and is darker each time. So no tile is
  ever sent twice under its id, unless all have been deleted before (DELETEALL): for a new subscriber, and when time
  has jumped back, whereupon RViz forgets its markers.
- An array that names an id twice is an error, also if one of them is the DELETEALL: that one has an id of its own.
- At a tile's edge the texture would be mixed with its opposite edge: the picture is one pixel larger on each side.
- RViz drops what comes for a namespace that is switched off; switching the whole display off and on brings it back.

Foxglove and Lichtblick draw no textures: for them the same ground is a point cloud (`cloud.satellite_cloud`).
"""

from __future__ import annotations

import cv2
import numpy as np
from geometry_msgs.msg import Point
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, UVCoordinate

from cvloc_ros.evaluation.drawing import SHADE, plain_text
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import SatelliteMap

NAMESPACE = "satellite"
CREDIT = "credit"
_CELLS = 256  # a side of a tile: 102 m at 0.4 m
_BORDER = 1  # pixels of the neighbours around a tile's picture
_SHOW = 150.0  # metres from the vehicle within which there are tiles
_KEEP = 300.0  # metres beyond which they are deleted again
_GROUND = -0.05  # metres: below everything else that lies on the ground
_QUALITY = 88
_CREDIT_HEIGHT = 2.0  # metres
_INDEX_BITS = 15  # of a tile's row and column in its id

Index = tuple[int, int]  # columns to the east and rows to the north of the datum


class SatelliteTiles:
    """Which tiles the viewers have, and the markers that bring them up to date."""

    def __init__(self, satellite_map: SatelliteMap, *, frame_id: str) -> None:
        """Begin with viewers that have none."""
        self._map, self._frame_id = satellite_map, frame_id
        self.side = _CELLS * satellite_map.cell
        """Metres."""
        self._shown: dict[Index, list[Marker]] = {}  # without imagery a tile has no markers

    def move(self, x: float, y: float) -> list[Marker]:
        """Return what is new, and what goes, with the vehicle at (x, y) in the map.

        Raises:
            ImageryError: the raster could not be read.

        """
        gone = [index for index in self._shown if self._distance(index, x, y) > _KEEP]
        changes = [_deletion(marker) for index in gone for marker in self._shown.pop(index)]
        for index in self._around(x, y):
            if index not in self._shown:
                self._shown[index] = self._tile(index)
                changes += self._shown[index]
        return changes

    def all(self) -> list[Marker]:
        """Return a deletion of all tiles, followed by those that the viewers are to have."""
        everything = Marker(action=Marker.DELETEALL, ns=NAMESPACE, id=-1)
        everything.header.frame_id = self._frame_id
        return [everything, *(marker for markers in self._shown.values() for marker in markers)]

    def _around(self, x: float, y: float) -> list[Index]:
        """Return the tiles that should be there, nearest first."""
        low, high = np.floor((np.array([[x, y]]) + [[-_SHOW], [_SHOW]]) / self.side).astype(int)
        indices = [(column, row) for column in range(low[0], high[0] + 1) for row in range(low[1], high[1] + 1)]
        near = [index for index in indices if self._distance(index, x, y) <= _SHOW]
        return sorted(near, key=lambda index: self._distance(index, x, y))

    def _distance(self, index: Index, x: float, y: float) -> float:
        """Return how far a place is from a tile, metres; 0 on it."""
        beside = np.abs(np.array([x, y]) / self.side - index - 0.5) - 0.5
        return float(np.hypot(*np.maximum(beside, 0))) * self.side

    def _tile(self, index: Index) -> list[Marker]:
        """Cut a tile; empty where there is no imagery."""
        east, north = (float(value) for value in (np.array(index) + 0.5) * self.side)
        size = _CELLS + 2 * _BORDER
        # East to the right and north up is what a vehicle that heads north has around it.
        patch = self._map.patch(SE2(east, north, np.pi / 2), GroundGrid.centred(size, self._map.cell))
        if not patch.coverage[_BORDER:-_BORDER, _BORDER:-_BORDER].any():
            return []
        image = np.where(patch.coverage[..., None], patch.image, np.array(SHADE, np.uint8))
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        markers = [self._marker(index, jpeg.tobytes())]
        if self._map.attribution:
            markers.append(self._credit(index))
        return markers

    def _marker(self, index: Index, jpeg: bytes) -> Marker:
        marker = self._blank(index, NAMESPACE)
        marker.type = Marker.TRIANGLE_LIST
        marker.scale.x = marker.scale.y = marker.scale.z = 1.0
        marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        marker.texture_resource = f"embedded://cvloc_satellite_{index[0]}_{index[1]}"
        marker.texture = CompressedImage(format="jpeg", data=jpeg)
        low = _BORDER / (_CELLS + 2 * _BORDER)
        for right, up in ((0, 0), (1, 0), (1, 1), (0, 0), (1, 1), (0, 1)):  # two triangles, counter-clockwise
            x, y = (index[0] + right) * self.side, (index[1] + up) * self.side
            marker.points.append(Point(x=x, y=y, z=_GROUND))
            marker.uv_coordinates.append(UVCoordinate(u=1 - low if right else low, v=low if up else 1 - low))
        return marker

    def _credit(self, index: Index) -> Marker:
        marker = self._blank(index, CREDIT)
        marker.type = Marker.TEXT_VIEW_FACING
        marker.text = plain_text(self._map.attribution)
        marker.scale.z = _CREDIT_HEIGHT
        marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.7)
        marker.pose.position.x, marker.pose.position.y = (np.array(index) + [0.5, 0.03]) * self.side
        return marker

    def _blank(self, index: Index, namespace: str) -> Marker:
        """Return a marker of the map itself: stamp 0, so that no transform in time is asked for, and for ever."""
        half = 1 << (_INDEX_BITS - 1)
        marker = Marker(ns=namespace, id=((index[0] + half) << _INDEX_BITS) + index[1] + half)
        marker.header.frame_id = self._frame_id
        marker.pose.orientation.w = 1.0
        return marker


def _deletion(marker: Marker) -> Marker:
    deletion = Marker(action=Marker.DELETE, ns=marker.ns, id=marker.id)
    deletion.header = marker.header
    return deletion
