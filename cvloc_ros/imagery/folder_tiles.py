"""Tiles in a local folder, as gdal2tiles, mbutil and many others write them: z/x/y.png."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from cvloc_ros.imagery.tiles import Tile, TileError, decode_tile
from cvloc_ros.imagery.uri import ImageryError, LayerUri

_TRIED = 50  # files that are looked at for one that is a tile
_TMS_DESCRIPTION = "tilemapresource.xml"  # gdal2tiles writes it when rows count from the south


class FolderTiles:
    """Reads a folder of tiles, or files by a template."""

    def __init__(self, uri: LayerUri) -> None:
        """Find out which zooms there are, how large the tiles are and which way rows count.

        Raises:
            ImageryError: there are no tiles.

        """
        place = uri.expanded()
        if place.startswith("file:"):
            place = unquote(urlsplit(place).path)
        if not uri.is_template:
            row = "{-y}" if (Path(place) / _TMS_DESCRIPTION).exists() else "{y}"
            place = f"{place}/{{z}}/{{x}}/{row}{_some_tile(Path(place))[0].suffix}"
        self._template = place
        root = Path(place.partition("{z}")[0])
        self.zooms = sorted(int(path.name) for path in root.glob("*") if path.name.isdigit())
        """The zooms that have a folder of their own; empty if the template has none."""
        self.size = uri.tile or _some_tile(root)[1]
        """Pixels a side of a tile."""

    def fetch(self, tile: Tile) -> tuple[bytes, np.ndarray] | None:
        """Return a tile's file and RGBA pixels, None if there is no such tile.

        Raises:
            TileError: it cannot be read, or is no tile.

        """
        path = self._template.replace("{-y}", str(2**tile.z - 1 - tile.y)).replace("{y}", str(tile.y))
        path = path.replace("{z}", str(tile.z)).replace("{x}", str(tile.x))
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TileError(f"'{path}' cannot be read ({error.strerror})") from None
        return (data, decode_tile(data, size=self.size)) if data else None


def _some_tile(root: Path) -> tuple[Path, int]:
    """Return some tile below a folder, which zoom and column does not matter, and how many pixels a side it has.

    Raises:
        ImageryError: there is none.

    """
    reason = ""
    files = (path for path in root.glob("[0-9]*/[!.]*/[!.]*") if path.is_file() and path.stat().st_size)
    for path in islice(files, _TRIED):  # beside tiles lie .aux.xml and .kml, and one of them may be damaged
        try:
            return path, len(decode_tile(path.read_bytes(), size=None))
        except (TileError, OSError) as error:
            reason = f" that can be read, e.g. '{path}': {error}"
    raise ImageryError(f"expected tiles z/x/y.png (or .jpg, .webp) in '{root}', found none{reason}")
