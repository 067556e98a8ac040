"""The ROS 2 node `cvloc` (executable `localizer`): camera, odometry and GNSS in; pose, TF and diagnostics out.

A lifecycle node that configures and activates itself unless `autostart` is false:

- *configure* opens the imagery, loads the network and advertises the outputs;
- *activate* subscribes to the inputs and localizes (`Pipeline`);
- *deactivate* and *cleanup* undo that.

Whatever keeps it from its work is on /diagnostics and in the log (`health`), never a traceback and never silence.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery import ImageryError, SatelliteMap, raster_datum, redacted
from cvloc_ros.localization.gate import Gate
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.ros import parameters, qos
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.health import OK, WARN, Health, blame
from cvloc_ros.ros.input_health import Publishers
from cvloc_ros.ros.outputs import Outputs
from cvloc_ros.ros.parameters import ParameterError
from cvloc_ros.ros.pipeline import Pipeline
from cvloc_ros.ros.resources import free_memory, gpu_memory, resident_memory, set_up_process
from cvloc_ros.ros.tf import Transforms

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_DIAGNOSTICS_PERIOD = 1.0  # seconds


class CvlocNode(LifecycleNode):
    """See the module's docstring."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare the parameters, listen to TF, and begin to publish diagnostics.

        Raises:
            ParameterError: an unknown parameter, or a value that cannot be.

        """
        super().__init__("cvloc", **kwargs)
        parameters.declare(self, NodeConfig)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._localizer: Any = None
        self._session: LocalizationSession | None = None
        self._outputs: Outputs | None = None
        self._pipeline: Pipeline | None = None
        self._failure = ""  # why it could not be configured
        self._health = Health(self._log, self._graph)
        self._health.provide("node", self._resources)
        self._transforms = Transforms(self, self._health)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        # Real time: a timer on the node's clock would stand still exactly when /clock is what is missing.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=clock)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(Trigger, "~/relocalize", self._relocalize)
        self.create_service(SetBool, "~/enable", self._enable)

    def start(self) -> None:
        """Configure and activate, unless the parameter `autostart` says no."""
        if self.get_parameter("autostart").value and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the imagery, load the network, advertise."""
        try:
            config = parameters.read(self, NodeConfig)
            if not config.imagery:
                raise ImageryError("expected a satellite image, got none: set the parameter 'imagery' (doc/imagery.md)")
            datum = LocalFrame(*config.datum) if config.datum else raster_datum(config.imagery)
            satellite_map = SatelliteMap.open(config.imagery, datum)
            from cvloc_ros.localization.ready import load_ready_localizer  # brings torch: not before it is needed

            set_up_process(config.threads)
            localizer = load_ready_localizer(
                satellite_map,
                method=config.method,
                weights=config.weights or None,
                device=config.device,
                gate=Gate(config.gate),
                report=self.get_logger().warning,
            )
        except (ImportError, OSError, ValueError, RuntimeError) as error:  # ImageryError is a RuntimeError
            self._failure = redacted(str(error))
            if isinstance(error, ImageryError):
                self._health.state("imagery", "unreadable", self._failure)
                self._failure = "there is no imagery to search in"
            self._health.only("node", *self._own_problem())
            return FAILURE
        self._failure = ""
        self._health.state("imagery", "unreadable", "")
        self._localizer = localizer
        self._config, self._datum = config, datum
        self._session = LocalizationSession(localizer, tracker_config=config.tracker)
        self._outputs = Outputs(
            self,
            config,
            datum=datum,
            session=self._session,
            satellite_map=satellite_map,
            transforms=self._transforms,
            health=self._health,
        )
        credit = f", imagery: {satellite_map.attribution}" if satellite_map.attribution else ""
        place = f"datum {datum.latitude:.7f}, {datum.longitude:.7f}"
        self.get_logger().info(f"{config.method} on {redacted(config.imagery)}, {place}{credit}")
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and localize."""
        assert self._session is not None and self._outputs is not None
        self._pipeline = Pipeline(
            self,
            self._config,
            datum=self._datum,
            session=self._session,
            outputs=self._outputs,
            transforms=self._transforms,
            health=self._health,
        )
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop localizing; imagery and network stay loaded."""
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = None
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of imagery and network."""
        if self._outputs is not None:
            self._outputs.close()
        self._outputs = self._session = self._localizer = None
        free_memory()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything, from any state."""
        self.on_deactivate(state)
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to the beginning; what went wrong has been logged."""
        return self.on_shutdown(state)

    # Services

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._pipeline is not None:
            self._pipeline.reset()
        return self._answer(response, "everything is forgotten: starting from GNSS or an initial pose")

    def _relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._session is not None:
            self._session.relocalize()
        return self._answer(response, "the pose is no longer trusted: searching around it and around GNSS")

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._pipeline is not None:
            self._pipeline.enabled = request.data
        return self._answer(response, "images are localized" if request.data else "images are ignored")

    def _answer(self, response: Any, done: str) -> Any:
        response.success = self._pipeline is not None
        response.message = done if response.success else self._own_problem()[1]
        return response

    # Health

    def _own_problem(self) -> tuple[str, str]:
        """Return the condition and text of what keeps the node as a whole from working; empty if nothing does."""
        command = f"`ros2 lifecycle set {self.get_fully_qualified_name()}"
        if self._session is None and self._failure:
            return "failed", f"not configured: {self._failure}; mend it and run {command} configure`"
        if self._session is None:
            return "unconfigured", f"not configured: run {command} configure`"
        if self._pipeline is None:
            return "inactive", f"not active: run {command} activate`"
        if self._is_time_standing_still():
            if self._pipeline.time.now == 0:
                return "no_clock", "no time: use_sim_time is true, but nobody publishes /clock; play the bag with it"
            return "paused", "paused: /clock stands still; play on"
        if not self._pipeline.enabled:
            return "disabled", "disabled: images are ignored until the service ~/enable is called with true"
        return "", ""

    def _is_time_standing_still(self) -> bool:
        # Sooner than the inputs' silence, which it explains.
        patience = 0.5 * self.get_parameter("health.silence").value
        return self._pipeline is not None and self._pipeline.time.stands_still_for() > patience

    def _publish_diagnostics(self) -> None:
        silence = self.get_parameter("health.silence").value
        self._health.only("node", *self._own_problem())
        if self._session is not None and self._pipeline is not None:
            self._health.tracker(self._session.status(), silence=silence)
            self._health.state("imagery", "incomplete", self._localizer.satellite_map.problem, kind="incomplete")
        name = self.get_fully_qualified_name().lstrip("/")
        array = self._health.diagnostics(name, silence=silence, paused=self._is_time_standing_still())
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _resources(self) -> dict[str, str]:
        memory, gpu = resident_memory(), gpu_memory()
        return {
            "device": str(getattr(getattr(self._localizer, "matcher", None), "device", "")),
            "memory_mb": "" if memory is None else f"{memory:.0f}",
            "gpu_memory_mb": "" if gpu is None else f"{gpu:.0f}",
            "time_jumps": str(self._pipeline.time_jumps if self._pipeline is not None else 0),
        }

    def _graph(self, topic: str, type_name: str) -> Publishers:
        """Return who publishes a topic, and where else its type is to be had."""
        published = [(name, types) for name, types in self.get_topic_names_and_types() if self.count_publishers(name)]
        own = self.get_fully_qualified_name() + "/"
        types_here = {info.topic_type for info in self.get_publishers_info_by_topic(topic)}
        return Publishers(
            count=sum(info.topic_type == type_name for info in self.get_publishers_info_by_topic(topic)),
            other_types=sorted(types_here - {type_name}),
            same_type=[n for n, types in published if type_name in types and n != topic and not n.startswith(own)],
        )

    def _log(self, level: bytes, line: str) -> None:
        logger = self.get_logger()  # one call site a severity, as rclpy demands
        if level == OK:
            logger.info(line)
        elif level == WARN:
            logger.warning(line)
        else:
            logger.error(line)

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Refuse what cannot change now; what can is read where it is used, but for the gate, which is made anew."""
        result = parameters.check_changes(NodeConfig, changes, configured=self._session is not None)
        limits = {p.name.removeprefix("gate."): p.value for p in changes if p.name.startswith("gate.")}
        if result.successful and limits and self._localizer is not None:
            self._localizer.gate = Gate(replace(self._localizer.gate.config, **limits))
        return result


def main(args: list[str] | None = None) -> None:
    """Run the node until it is told to stop."""
    rclpy.init(args=args)
    try:
        node = CvlocNode()
    except ParameterError as error:
        get_logger("cvloc").fatal(str(error))
        rclpy.try_shutdown()
        sys.exit(2)
    try:
        node.start()
        _spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.on_deactivate(LifecycleState("", 0))
        node.destroy_node()
        rclpy.try_shutdown()


def _spin(node: CvlocNode) -> None:
    """Serve the node until ROS is shut down; an error ends no more than what was asked for.

    rclpy itself raises one when a lifecycle transition is asked for that its state does not have.
    """
    while node.context.ok():
        try:
            rclpy.spin(node)
        except ExternalShutdownException:
            return
        except Exception as error:
            node.get_logger().error(f"a callback failed: {blame(error)}")


if __name__ == "__main__":
    main()
