"""When to leave a server alone: if it asks for it, or if it only fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cvloc_ros.imagery.tiles import TileError

PAUSES = (5.0, 120.0)
"""Seconds: the first, doubled each time up to the last."""
_FAILURES = 8  # in a row, after which the server is left alone for a while


class Server:
    """What is known of a server's state; may be asked from several threads."""

    def __init__(self) -> None:
        """Suppose that it works."""
        self._lock = threading.Lock()
        self._failures = self._pauses = 0
        self._resume, self._reason = 0.0, ""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Do a request within this context, if it is time for one; that it fails is said by a `TileError`.

        Raises:
            TileError: the server is to be left alone for now; or what the request has raised.

        """
        with self._lock:
            wait = self._resume - time.monotonic()
            if wait > 0:
                raise TileError(self._reason, wait=wait)
        try:
            yield
        except TileError as error:
            self._count_failure(error)
            raise
        with self._lock:
            self._failures = self._pauses = 0

    def _count_failure(self, error: TileError) -> None:
        with self._lock:
            self._failures += 1
            if error.wait or self._failures >= _FAILURES:
                pause = error.wait or min(PAUSES[0] * 2**self._pauses, PAUSES[1])
                self._pauses, self._failures = self._pauses + 1, 0
                self._resume, self._reason = time.monotonic() + pause, str(error)
