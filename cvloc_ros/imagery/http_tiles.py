"""Tiles from a server that may be slow, down, in a rage or lying: what it does costs bounded time and memory.

GDAL's WMS driver would fetch tiles too, but one bad tile fails the whole picture around it, a body without end is
kept in memory until a time limit passes, a server's request to slow down is not heard, and the cache is lost with
another key. Its drivers still serve what is no template of tiles (`raster_tiles`).
"""

from __future__ import annotations

import http.client
import io
import os
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np

from cvloc_ros.imagery.server import PAUSES, Server
from cvloc_ros.imagery.tiles import Tile, TileError, decode_tile
from cvloc_ros.imagery.uri import BBOX, LayerUri

_SILENCE = 5.0  # seconds without a byte, or to connect
_DEADLINE = 10.0  # seconds for a tile in all
_REDIRECTIONS = 3
_LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait
_ABSENT = (204, 404, 410)


class _TimedReader(io.RawIOBase):
    """Reads a socket until a deadline: a server that drips bytes would renew the socket's own timeout for ever."""

    def __init__(self, raw: Any, sock: Any, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(left, _SILENCE))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()  # type: ignore[attr-defined]
        self.fp = io.BufferedReader(_TimedReader(raw, sock, time.monotonic() + _DEADLINE))


class _Connection(http.client.HTTPConnection):
    response_class = _TimedResponse


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _TimedResponse


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)


class _Redirections(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = _REDIRECTIONS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(("http://", "https://")):  # by default, ftp would do
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Handler, _SecureHandler, _Redirections)


class HttpTiles:
    """A tile server, or a WMS asked for one tile at a time; may be asked from several threads."""

    def __init__(self, uri: LayerUri, *, size: int) -> None:
        """Ask for tiles of ``size`` pixels a side by the template's addresses.

        Raises:
            ImageryError: the environment lacks a variable that the address needs.

        """
        self._template = uri.expanded()
        self._headers = {"User-Agent": uri.agent, "Accept": "image/*"}
        self._size = size
        self._server = Server()

    def fetch(self, tile: Tile) -> tuple[bytes, np.ndarray] | None:
        """Return a tile's file and RGBA pixels, None if there is no such tile.

        Raises:
            TileError: it did not come, or was not what was asked for.

        """
        with self._server.request():
            data = self._download(self._address(tile))
            return (data, decode_tile(data, size=self._size)) if data else None

    def _address(self, tile: Tile) -> str:
        bounds = ",".join(f"{value:.4f}" for value in tile.bounds())
        named = {"{z}": tile.z, "{x}": tile.x, "{y}": tile.y, "{-y}": 2**tile.z - 1 - tile.y, BBOX: bounds}
        address = self._template
        for name, value in named.items():
            address = address.replace(name, str(value))
        return address

    def _download(self, address: str) -> bytes:
        """Return the body of an answer, empty if there is no such tile."""
        most = 8 * self._size**2 + 65536  # bytes: no picture of that size is larger
        began = time.monotonic()
        try:
            request = urllib.request.Request(address, headers=self._headers)
            with _OPENER.open(request, timeout=_SILENCE) as response:
                if response.status in _ABSENT:
                    return b""
                kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
                if kind.startswith("text/") or kind.endswith(("json", "xml")):
                    raise TileError(f"the server answers with {kind} instead of an image")
                length = response.headers.get("Content-Length")
                data = response.read(most + 1)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _ABSENT:
                return b""
            raise _refusal(error) from None
        except TimeoutError:
            raise TileError(f"no complete answer within {time.monotonic() - began:.0f} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise TileError(f"no connection within {_SILENCE:.0f} s") from None
            detail = getattr(reason, "strerror", None) or type(reason).__name__
            raise TileError(f"no proper answer ({detail})") from None
        if len(data) > most:
            raise TileError(f"more than {most // 1024} KiB for a tile of {self._size} pixels a side")
        if length and length.isdigit() and len(data) < int(length):
            raise TileError(f"{len(data)} of {length} bytes came")
        return data


def _refusal(error: urllib.error.HTTPError) -> TileError:
    """Say what an HTTP status means, and how long the server wants to be left alone."""
    meaning = http.client.responses.get(error.code, "unknown status")
    advice = {401: ": check the key", 403: ": check the key and the terms of use"}.get(error.code, "")
    wait = 0.0
    if error.code in (429, 503):
        asked = error.headers.get("Retry-After", "")
        if asked.isdigit():
            wait = float(asked)
        else:
            try:
                wait = parsedate_to_datetime(asked).timestamp() - time.time()
            except (TypeError, ValueError):
                wait = 0.0
        wait = min(max(wait, PAUSES[0] if error.code == 429 else 0.0), _LONGEST_WAIT)
    if 300 <= error.code < 400:
        meaning = f"more than {_REDIRECTIONS} redirections, or one to no web address"
    return TileError(f"HTTP {error.code} {meaning}{advice}", wait=wait)


def check_ranges(address: str, *, agent: str) -> None:
    """Ask a web server for a few bytes of a file: GDAL waits longer, and keeps all that comes of an answer without end.

    Whatever else is wrong is left to GDAL, which may know how to log in.

    Raises:
        TileError: nothing came; or more than was asked for, and nobody knows how much.

    """
    if os.environ.get("GDAL_HTTP_PROXY"):  # only GDAL's own way leads there
        return
    asked = 16
    request = urllib.request.Request(address, headers={"User-Agent": agent, "Range": f"bytes=0-{asked - 1}"})
    began = time.monotonic()
    try:
        with _OPENER.open(request, timeout=_SILENCE) as response:
            endless = "Content-Length" not in response.headers and len(response.read(asked + 1)) > asked
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError):
            raise TileError(f"'{address}' gives no answer within {time.monotonic() - began:.0f} s") from None
        return
    if endless:
        raise TileError(
            f"expected a server that sends parts of files, but '{address}' answers a request for {asked} bytes with "
            "more, and does not say how much: download the file, or put it on another server"
        )
