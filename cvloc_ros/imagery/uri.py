"""The `imagery` setting: one string that names the map's layers, and how the keys in it stay secret.

    layer | layer | ...                   the first has priority, the next ones show where it has nothing
    layer = place[#option=value&...]      options: maxzoom, tile, attribution, agent, offline

A place is a raster file, a folder of z/x/y tiles, a template of tile addresses, or anything else that GDAL opens by
name. ``${NAME}`` (capitals) stands for the environment variable of that name, wherever a key belongs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote

from cvloc_ros import __version__

USER_AGENT = f"cvloc_ros/{__version__}"
_OPTIONS = re.compile(r"#([a-z]+=[^#]*)$")
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")  # GDAL's own descriptions use ${x}, ${y}, ${z}
_PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z][\w-]*|-y)\}")
_REMOTE = re.compile(
    r"\s*(<(GDAL_WMS|GDAL_WMTS)\b|(https?|ftp|s3|gs|az|oss|swift)://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)"
    r"|(WMS|WMTS|AGS|IIP|TiledWMS|PLMosaic|EEDAI|STACIT|STACTA|WCS|OGCAPI):)",
    re.IGNORECASE,
)
BBOX = "{bbox-epsg-3857}"
"""Stands for a tile's west,south,east,north in Web Mercator metres: what a WMS wants to know."""
LARGEST_TILE = 4096
"""Pixels a side: a tile of more is none, and would fill the memory."""

_SECRETS: dict[str, str] = {}  # value of a variable that was put into a place -> ${NAME}
_SHORTEST_SECRET = 4  # a shorter value is none, and hiding it would spoil all text
_USER = re.compile(r"://[^/\s<>]+@")  # up to the last @: a password may have one that nobody has escaped
_ELEMENT = re.compile(r"(<(UserPwd|Cookie|ExtraQueryParameters)>)[^<]*", re.IGNORECASE)  # of GDAL's descriptions
_QUERY_VALUE = re.compile(
    r"((?:(?:[?&]|&amp;)[\w.\[\]-]+|\b(?:api_?key|password))=)(?!\$?\{)[^&\s'\"<>|#]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """Return text fit for logs and reports: without passwords, values in URLs, and values of ``${NAME}``."""
    for secret in sorted(_SECRETS, key=len, reverse=True):  # one may begin with another, whose tail would be left
        text = text.replace(secret, _SECRETS[secret])
    return _QUERY_VALUE.sub(r"\1…", _USER.sub("://…@", _ELEMENT.sub(r"\1…", text)))


class ImageryError(RuntimeError):
    """Imagery cannot be opened or read; the message says what was expected, what came and what to do, and no key."""

    def __init__(self, message: str) -> None:
        """Leave out what must stay secret."""
        super().__init__(redacted(message))


def offline() -> bool:
    """Whether the environment variable CVLOC_OFFLINE forbids the network for imagery."""
    return os.environ.get("CVLOC_OFFLINE", "").strip().lower() not in ("", "0", "no", "false")


def cache_folder() -> Path:
    """Return where imagery from the network is kept: $XDG_CACHE_HOME/cvloc_ros, else ~/.cache/cvloc_ros."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvloc_ros"


@dataclass(frozen=True)
class LayerUri:
    """One layer of the `imagery` setting.

    Attributes:
        place: as it was written, variables not yet replaced: fit for names, not for asking.
        maxzoom: the deepest zoom that the server has; None if it has what is asked for.
        tile: pixels a side of a tile; None for 512 in a template with @2x, else 256.
        attribution: whom to credit, instead of what the imagery's own tags say.
        agent: the User-Agent by which a server knows us.
        offline: whether the network may not be asked.

    """

    place: str
    maxzoom: int | None = None
    tile: int | None = None
    attribution: str = ""
    agent: str = USER_AGENT
    offline: bool = False

    @classmethod
    def parse(cls, text: str) -> LayerUri:
        """Read one layer.

        Raises:
            ImageryError: an option is unknown or has no sensible value, or a template is not complete.

        """
        place, options = text.strip(), {}
        found = None if os.path.exists(place) else _OPTIONS.search(place)
        if found:
            place, options = place[: found.start()], dict(parse_qsl(found[1], keep_blank_values=True))
        unknown = options.keys() - cls.__dataclass_fields__.keys() | options.keys() & {"place"}
        if unknown:
            raise ImageryError(
                f"the imagery '{text}' has an unknown option '{min(unknown)}': expected maxzoom, tile, attribution, "
                "agent or offline after the #"
            )
        layer = cls(
            place,
            maxzoom=_whole_number(options, "maxzoom", 0, 24),
            tile=_whole_number(options, "tile", 64, LARGEST_TILE),
            attribution=options.get("attribution", ""),
            agent=options.get("agent", USER_AGENT),
            offline=offline() or options.get("offline", "0") not in ("0", "no", "false"),
        )
        if layer.is_template:
            layer._check_template()
        return layer

    @property
    def is_template(self) -> bool:
        """Whether the place is a pattern of tile addresses."""
        return not self.place.lstrip().startswith("<") and bool(_PLACEHOLDER.search(self.place))

    @property
    def is_folder(self) -> bool:
        """Whether the place is a folder of z/x/y tiles."""
        return os.path.isdir(self.place) and any(name.isdigit() for name in os.listdir(self.place))

    @property
    def is_remote(self) -> bool:
        """Whether the network is needed to read the place."""
        place = _VARIABLE.sub(lambda found: os.environ.get(found[1], ""), self.place)
        if place.lower().endswith(".xml") and os.path.isfile(place):
            place = Path(place).read_text(errors="replace")[:200]
        return bool(_REMOTE.match(place))

    @property
    def is_tiled(self) -> bool:
        """Whether the place is read tile by tile: it is made of tiles, or behind a network."""
        return self.is_template or self.is_folder or self.is_remote

    @property
    def host(self) -> str:
        """The server's name, fit for showing; the redacted place where there is none."""
        # A user's name and password come before the last @, with whatever characters.
        address = re.search(r"(?:https?|s3|gs)://(?:[^/\s<>]*@)?([^/\s<>?#,]+)", self.place)
        return address[1] if address else redacted(self.place)

    def expanded(self) -> str:
        """Return the place with the environment's values for ``${NAME}``: not fit for showing.

        Raises:
            ImageryError: the environment lacks a variable.

        """

        def value(found: re.Match[str]) -> str:
            value = os.environ.get(found[1], "").strip()
            if not value:
                raise ImageryError(
                    f"the imagery '{self.place}' needs the environment variable {found[1]}, which is not set: "
                    f"export {found[1]}=..."
                )
            if len(value) >= _SHORTEST_SECRET:
                _SECRETS[value] = _SECRETS[quote(value, safe="")] = found[0]
            return value

        return _VARIABLE.sub(value, self.place)

    def _check_template(self) -> None:
        names = set(_PLACEHOLDER.findall(self.place))
        complete = names in ({"z", "x", "y"}, {"z", "x", "-y"}, {BBOX[1:-1]})
        if not complete:
            raise ImageryError(
                f"expected a template of tiles with {{z}}, {{x}} and {{y}} ({{-y}} where rows count from the south), "
                f"or with {BBOX} for a WMS; got '{self.place}' with {', '.join(sorted(names))}: mend it, and write "
                "keys as ${NAME} in capitals"
            )


def parse_layers(imagery: str) -> list[LayerUri]:
    """Split the `imagery` setting into its layers, the one with priority first.

    Raises:
        ImageryError: there is none, or one of them is malformed.

    """
    parts = [imagery] if os.path.exists(imagery) else [part for part in imagery.split("|") if part.strip()]
    if not parts:
        raise ImageryError("expected imagery, got nothing: name a raster file, a folder of tiles or a tile server")
    return [LayerUri.parse(part) for part in parts]


def _whole_number(options: dict[str, str], name: str, low: int, high: int) -> int | None:
    if name not in options:
        return None
    if not (options[name].isdigit() and low <= int(options[name]) <= high):
        raise ImageryError(f"expected the imagery's option {name} from {low} to {high}, got '{options[name]}'")
    return int(options[name])
