"""Which of odometry's stamps go on, which have strayed, and which show that time has started again."""

from __future__ import annotations

from enum import Enum

JUMP = 1_000_000_000
"""Nanoseconds by which stamps may differ without time having jumped."""
_STEPS = 3  # so many times the step before are no leap: odometry may be slow, and messages get lost


class Order(Enum):
    """What a stamp is, next to those before it."""

    NEXT = "next"
    LEFT_OUT = "left out"
    JUMP = "jump"


class StampOrder:
    """Judges stamps one by one. One that is `JUMP` off counts only if the next one is off to the same side.

    So a single message with a wrong stamp ends no drive.
    """

    def __init__(self) -> None:
        """Begin with the first stamp."""
        self.newest: int | None = None
        """The newest stamp that was not left out, nanoseconds."""
        self._step = 0
        self._suspect: int | None = None  # the stamp just before, if it was off

    def take(self, stamp: int, *, elapsed: int = 0) -> Order:
        """Judge a stamp, nanoseconds; ``elapsed`` is by how much another clock has gone on since the newest one."""
        if self.newest is None:
            self.newest = stamp
            return Order.NEXT
        newest, suspect, self._suspect = self.newest, self._suspect, None
        if newest - JUMP < stamp <= newest:
            return Order.LEFT_OUT
        behind = stamp < newest
        if not behind and stamp - newest <= max(JUMP, _STEPS * self._step) + max(0, elapsed):
            self.newest, self._step = stamp, stamp - newest
            return Order.NEXT
        if suspect is None or (suspect < newest) != behind:
            self._suspect = stamp
            return Order.LEFT_OUT
        self.newest, self._step = stamp, abs(stamp - suspect)
        return Order.JUMP if behind else Order.NEXT
