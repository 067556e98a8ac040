"""A tile server on this machine whose pictures say where they are, and which behaves as badly as it is told to."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
from pyproj import Transformer

HALF_WORLD = 20037508.342789244
LEVELS_PER_METRE = 5.37  # no round number of levels a pixel, or rounding would shift whole pictures
TO_WGS84 = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)


def place_picture(frame, bounds, size):
    """Return (size, size, 3): red says how far east of a datum a pixel is, green how far north, blue is 77."""
    west, south, east, north = bounds
    knots = np.linspace(0, 1, 5)  # over so small a place, bilinear interpolation between them is exact to 0.1 mm
    x, y = np.meshgrid(west + knots * (east - west), north + knots * (south - north))
    longitude, latitude = TO_WGS84.transform(x, y)
    centres = (np.arange(size) + 0.5) / size
    blend = np.stack([np.interp(centres, knots, row) for row in np.eye(5)], axis=-1)
    places = np.einsum("ri,ijk,cj->rck", blend, frame.to_enu(latitude, longitude), blend)
    code = np.clip(128 + LEVELS_PER_METRE * places, 0, 255).round().astype(np.uint8)
    return np.dstack([code, np.full_like(code[..., 0], 77)])


def tile_bounds(z, x, y):
    """Return west, south, east, north of an XYZ tile in Web Mercator metres."""
    side = 2 * HALF_WORLD / 2**z
    return -HALF_WORLD + x * side, HALF_WORLD - (y + 1) * side, -HALF_WORLD + (x + 1) * side, HALF_WORLD - y * side


def place_tile(frame, z, x, y, size=256, suffix=".png"):
    """Return a tile's file, coded as `place_picture`."""
    picture = place_picture(frame, tile_bounds(z, x, y), size)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 98] if suffix == ".jpg" else []
    return cv2.imencode(suffix, picture[..., ::-1], quality)[1].tobytes()


class TileServer(ThreadingHTTPServer):
    """Serves /xyz/z/x/y, /tms/z/x/-y, /wms?BBOX=..., and what lies in ``files`` by its path.

    Attributes:
        mood: how it answers; see `_Handler.do_GET`.
        bad: which tiles (z, x, y) it is in that mood for.
        requests: (path, User-Agent) of all that was asked.
        sent: bytes of files that were sent.

    """

    daemon_threads = True

    def __init__(self, frame, *, size=256):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.frame, self.size = frame, size
        self.mood, self.bad = "fine", lambda *tile: True
        self.requests, self.files, self.sent = [], {}, 0
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self):
        self.closed.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Say nothing when a client hangs up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("User-Agent")))
        address = urlsplit(self.path)
        if address.path in self.server.files:
            if isinstance(self.server.mood, int):
                return self._answer(self.server.mood, b"no", "text/plain")
            return self._file(self.server.files[address.path])
        if address.path == "/wms":
            query = {name.upper(): values[0] for name, values in parse_qs(address.query).items()}
            bounds = [float(value) for value in query["BBOX"].split(",")]
            picture = place_picture(self.server.frame, bounds, int(query.get("WIDTH", self.server.size)))
            return self._answer(200, cv2.imencode(".png", picture[..., ::-1])[1].tobytes(), "image/png")
        _, kind, *numbers = address.path.partition("@")[0].removesuffix(".png").split("/")
        z, x, y = map(int, numbers)
        if kind == "tms":
            y = 2**z - 1 - y
        mood = self.server.mood if self.server.bad(z, x, y) else "fine"
        data = place_tile(self.server.frame, z, x, y, self.server.size)
        if mood == "fine":
            self._answer(200, data, "image/png")
        elif isinstance(mood, int):
            self._answer(mood, b"no", "text/plain")
        elif mood == "limiting":
            self._answer(429, b"", "text/plain", {"Retry-After": "300"})
        elif mood == "html":
            self._answer(200, b"<html>please log in</html>", "text/html")
        elif mood == "without a type":
            self._answer(200, data, None)
        elif mood == "html without a type":
            self._answer(200, b"<html>please log in</html>", None)
        elif mood == "html as png":
            self._answer(200, b"<html>please log in</html>", "image/png")
        elif mood == "of another size":
            self._answer(200, cv2.imencode(".png", np.zeros((100, 100, 3), np.uint8))[1].tobytes(), "image/png")
        elif mood == "empty":
            self._answer(200, b"", "image/png")
        elif mood == "cut off":
            self._answer(200, data[: len(data) // 2], "image/png", {"Content-Length": str(len(data))})
        elif mood == "damaged":
            self._answer(200, data[: len(data) // 2], "image/png")
        elif mood == "redirecting for ever":
            self._answer(302, b"", "text/plain", {"Location": f"{self.path}&again"})
        elif mood == "redirecting":
            if "again" in self.path:
                self._answer(200, data, "image/png")
            else:
                self._answer(302, b"", "text/plain", {"Location": f"{self.path}&again"})
        elif mood == "redirecting to a file":
            self._answer(302, b"", "text/plain", {"Location": "file:///etc/passwd"})
        elif mood == "endless":
            self._drip(b"\x89PNG" * 65536, every=0)
        elif mood == "dripping":
            self._drip(data[:1], every=0.05)
        elif mood == "dripping headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self._pour(b"X: y\r\n", every=0.2)
        elif mood == "silent":
            self.server.closed.wait()
        elif mood == "hanging up":
            self.close_connection = True
        else:
            raise ValueError(mood)

    def _answer(self, status, body, kind, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def _drip(self, chunk, *, every):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self._pour(chunk, every=every)

    def _pour(self, chunk, *, every):
        self.close_connection = True
        while not self.server.closed.is_set():
            self.wfile.write(chunk)
            time.sleep(every)

    def _file(self, data):
        """Serve a file, or the range of it that is asked for."""
        wanted = self.headers.get("Range")
        start, end = 0, len(data) - 1
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or end), end)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start + 1))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[start : end + 1])
            self.server.sent += end - start + 1
