"""A thread that always takes the newest of what it gets: a late pose, or picture, is worth less than a fresh one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestWorker(Generic[Item]):
    """Runs ``process`` on the newest item that was put, one at a time, in a thread of its own.

    An item that arrives while another one waits replaces it, and ``on_drop`` is called: nothing queues up behind a
    slow machine. ``on_error`` gets what ``process`` raises; the thread lives on.
    """

    def __init__(
        self,
        process: Callable[[Item], None],
        *,
        on_drop: Callable[[], None],
        on_error: Callable[[Exception], None],
        name: str = "localizer",
    ) -> None:
        """Start the thread under a name."""
        self._process, self._on_drop, self._on_error = process, on_drop, on_error
        self._changed = threading.Condition()
        self._waiting: Item | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand in an item; never blocks."""
        with self._changed:
            dropped = self._waiting is not None
            self._waiting = item
            self._changed.notify()
        if dropped:
            self._on_drop()

    @property
    def has_time(self) -> bool:
        """Whether, once the item under way is done, no other one waits, nor the thread's end."""
        with self._changed:
            return self._waiting is None and not self._stopped

    def clear(self) -> None:
        """Forget the item that waits."""
        with self._changed:
            self._waiting = None

    def stop(self) -> None:
        """Finish the item under way and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting is not None)
                if self._stopped:
                    return
                item, self._waiting = self._waiting, None
            assert item is not None
            try:
                self._process(item)
            except Exception as error:  # one bad image must not end the drive
                self._on_error(error)
