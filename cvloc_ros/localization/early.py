"""Fixes and headings that come before odometry of their stamps: they are held until it is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cvloc_ros.localization.odometry import OdometryBuffer

_REACH = 5_000_000_000  # ns by which odometry may be later; more, and the clocks differ
_MOST = 200  # _REACH of 20 Hz of fixes and 10 Hz of headings, and some more


class _Held(NamedTuple):
    kind: str
    stamp: int
    take: Callable[[], None]


class Early:
    """What has no odometry at its stamp yet, and what never will have."""

    def __init__(self, odometry: OdometryBuffer) -> None:
        """Begin with nothing; ``odometry`` is asked what there is."""
        self._odometry = odometry
        self._held: deque[_Held] = deque(maxlen=_MOST)
        self._lost: dict[str, tuple[int, str]] = {}  # by kind: the newest odometry's stamp then, and why

    def put(self, kind: str, stamp: int, take: Callable[[], None]) -> None:
        """Hold a measurement at whose stamp there is no odometry, if it may still come; ``take`` uses it then."""
        newest, oldest = self._odometry.newest, self._odometry.oldest
        if newest is None or oldest is None or stamp > newest:
            self._held.append(_Held(kind, stamp, take))
        elif stamp >= oldest:
            self._lose(kind, "odometry has a gap at their stamps (tracker.odometry_gap)")
        elif newest - stamp > _REACH:
            self._lose(kind, f"stamped {(newest - stamp) * 1e-9:.1f} s before odometry: their clocks differ")

    def release(self) -> None:
        """Use what new odometry has reached."""
        newest = self._odometry.newest
        if newest is None or not self._held:
            return
        held, self._held = self._held, deque(maxlen=_MOST)
        for each in held:
            if each.stamp <= newest:
                each.take()
            elif each.stamp <= newest + _REACH:
                self._held.append(each)
            else:
                self._lose(
                    each.kind, f"stamped {(each.stamp - newest) * 1e-9:.1f} s ahead of odometry: their clocks differ"
                )

    def complaint(self, kind: str) -> str:
        """Return why measurements of a kind were lost lately, for people; empty if none were."""
        stamp, why = self._lost.get(kind, (0, ""))
        newest = self._odometry.newest
        return why if newest is not None and newest - stamp <= _REACH else ""

    def _lose(self, kind: str, why: str) -> None:
        self._lost[kind] = self._odometry.newest or 0, f"some {kind} are not used: {why}"
