"""Executable `ekf_restarter`: restarts robot_localization's filters when time jumps back, as when a bag begins again.

They do not notice by themselves: every message of the second pass is older than their state, and they stand still. Give
their reset services as arguments: `ekf_restarter ekf_map/reset ekf_odom/reset`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rclpy
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from std_srvs.srv import Empty

_JUMP = Duration(seconds=-1.0)
"""Smaller steps back, as between a clock's publishers, are no jumps."""
_AGAIN = 1.0
"""Seconds of real time after which the services are called a second time: by then the last messages of the pass that
ended, which may come after the first call and would set the filter's time to the end of the bag, have come."""


class EkfRestarter(Node):
    """See the module's docstring."""

    def __init__(self, services: Sequence[str]) -> None:
        """Prepare to call services (std_srvs/Empty), named relative to this node's namespace."""
        super().__init__("ekf_restarter")
        self._resets = [self.create_client(Empty, service) for service in services]
        self._again = self.create_timer(_AGAIN, self._second_call, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._again.cancel()
        backwards = JumpThreshold(min_forward=None, min_backward=_JUMP, on_clock_change=False)
        self._handle = self.get_clock().create_jump_callback(backwards, post_callback=self._jumped)

    def _jumped(self, jump: TimeJump) -> None:
        self._reset(f"time jumped back by {-jump.delta.nanoseconds * 1e-9:.1f} s")
        self._again.reset()

    def _second_call(self) -> None:
        self._again.cancel()
        self._reset("")

    def _reset(self, why: str) -> None:
        for client in self._resets:
            ready = client.service_is_ready()
            if ready:
                client.call_async(Empty.Request())
            if why:
                done = "called" if ready else "not there: the filter will stand still until it is reset"
                self.get_logger().info(f"{why}: {client.srv_name} {done}")


def main(args: list[str] | None = None) -> None:
    """Run the node until it is told to stop."""
    arguments = sys.argv if args is None else ["ekf_restarter", *args]
    services = remove_ros_args(arguments)[1:]
    if not services:
        sys.exit("ekf_restarter: expected the names of reset services, e.g. ekf_map/reset; got none")
    rclpy.init(args=arguments)
    node = EkfRestarter(services)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
