"""Which time the drive is in: what is of now and what of a pass before, whether time stands still or jumped back.

Time jumps back when a bag begins again, or somebody seeks in it. Which messages show it first is chance: /clock, or
two of odometry in a row (`StampOrder`). Whoever does, everything is reset once; the other one then finds nothing that
is newer than itself. Steps of less than `JUMP`, as between a clock's publishers, are no jumps.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from cvloc_ros.localization.stamp_order import JUMP, Order, StampOrder


class DriveTime:
    """Watches /clock and the stamps of odometry; on the executor's thread."""

    def __init__(self, node: Node, *, on_jump: Callable[[float], None]) -> None:
        """Call ``on_jump(seconds)`` once for every jump back."""
        self._node, self._on_jump = node, on_jump
        self._order, self._taken_at = StampOrder(), 0  # of odometry, and the node's time at its newest stamp
        self._told = False  # whether odometry has shown a jump that /clock is still to show
        self._ticked_at = time.monotonic()  # when /clock moved on
        tick, back = Duration(nanoseconds=1), Duration(nanoseconds=-JUMP)
        threshold = JumpThreshold(min_forward=tick, min_backward=back, on_clock_change=False)
        self._handle = node.get_clock().create_jump_callback(threshold, post_callback=self._clock_moved)

    def close(self) -> None:
        """Stop watching."""
        self._handle.unregister()

    @property
    def simulated(self) -> bool:
        """Whether time comes from /clock."""
        return bool(self._node.get_parameter("use_sim_time").value)

    @property
    def now(self) -> int:
        """The node's time, nanoseconds; 0 before the first /clock."""
        return self._node.get_clock().now().nanoseconds

    def stands_still_for(self) -> float:
        """Return for how many seconds of real time /clock has not moved on; 0 on real time."""
        return time.monotonic() - self._ticked_at if self.simulated else 0.0

    def is_of_this_pass(self, stamp: int) -> bool:
        """Whether a message belongs to the time that /clock shows, not to the end of a bag that has just looped."""
        now = self.now
        return not self.simulated or now == 0 or stamp < now + JUMP

    def odometry(self, stamp: int) -> bool:
        """Take note of an odometry stamp; return whether it is the next one (of this pass), not one to be left out."""
        now, before = self.now, self._order.newest
        order = self._order.take(stamp, elapsed=now - self._taken_at)
        if order is Order.LEFT_OUT:
            return False
        self._taken_at = now
        if order is Order.JUMP and before is not None:
            self._on_jump((stamp - before) * 1e-9)
            self.reset()
            self._order.take(stamp)
            self._told = True
        return True

    def reset(self) -> None:
        """Forget the odometry's time."""
        self._order = StampOrder()

    def _clock_moved(self, step: TimeJump) -> None:
        self._ticked_at = time.monotonic()
        if step.delta.nanoseconds > 0:
            return
        newest = self._order.newest
        told, self._told = self._told, False
        if told and newest is not None and newest < self.now + JUMP:
            return
        self.reset()
        self._on_jump(step.delta.nanoseconds * 1e-9)
