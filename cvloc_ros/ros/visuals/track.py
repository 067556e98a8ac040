"""A trail of places that never takes more than so much memory and bandwidth, however long the drive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")


class Track(Generic[Item]):
    """The whole way so far: items at least ``step`` metres apart, at most ``most`` of them.

    When it is full, every other item goes and the step doubles, so that the way is still whole, only coarser. Safe to
    use from several threads.
    """

    def __init__(self, *, step: float, most: int) -> None:
        """Begin a trail."""
        self._first_step, self._most = step, most
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin a new trail."""
        with self._lock:
            self._items: list[Item] = []
            self._step = self._first_step
            self._last = (np.inf, np.inf)

    def extend(self, x: float, y: float, make: Callable[[], Item]) -> None:
        """Add what ``make`` returns, if (x, y) is far enough from the last place."""
        with self._lock:
            if np.hypot(x - self._last[0], y - self._last[1]) < self._step:
                return
            if len(self._items) >= self._most:
                self._items = self._items[::2]
                self._step *= 2
            self._items.append(make())
            self._last = (x, y)

    def items(self) -> list[Item]:
        """Return the trail so far, oldest first."""
        with self._lock:
            return list(self._items)
