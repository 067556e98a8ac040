"""What the node says about itself: /diagnostics, and one log line for every problem.

Every status is published once a second, also while all is well. Statuses and when they leave OK:

| status         | WARN                                           | ERROR                                          |
|----------------|------------------------------------------------|------------------------------------------------|
| `node`         | not active; disabled by `~/enable`             | cannot be configured; no /clock                |
| `image`        |                                                | silent; undecodable; not as camera info says   |
| `camera_info`  |                                                | never came; not calibrated; no pinhole camera  |
| `odometry`     |                                                | silent; unusable                               |
| `gnss`         | silent; no fix; unusable                       |                                                |
| `transforms`   |                                                | where a sensor sits on the vehicle is unknown  |
| `imagery`      |                                                | cannot be opened or read                       |
| `tracker`      | waiting, initializing, degraded: and for what  | lost                                           |
| `localization` | none of the last `RECENT` images was accepted  | the localizer failed                           |
| `outputs`      | a subscriber asks for another QoS than offered |                                                |

*Silent* means that nothing came for `health.silence` seconds of real time. The text then says on which topic, since
when, whether anybody publishes it, and on which other topics messages of that type are to be had. Inputs carry their
topic, count, rate and age as values; `localization` carries the accepted and rejected frames by reason.

A problem is logged when it appears, and again only after it was gone: a text's head (up to the first colon, numbers
aside) is what tells problems apart.
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from cvloc_ros.localization.session import SessionStatus
from cvloc_ros.localization.tracker import TrackerState

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
RECENT = 30
"""Frames over which acceptance and latency are judged."""

STATUSES = (
    "node",
    "image",
    "camera_info",
    "odometry",
    "gnss",
    "transforms",
    "imagery",
    "tracker",
    "localization",
    "outputs",
)
_RATE_WINDOW = 50  # messages

Log = Callable[[bytes, str], None]
"""Takes a level (OK, WARN, ERROR) and a line."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a status."""

    level: bytes
    text: str

    @property
    def kind(self) -> str:
        """What tells it from another problem of the same status."""
        return re.sub(r"[\d.]+", "", self.text.partition(":")[0])


@dataclass
class InputHealth:
    """One subscribed topic.

    Attributes:
        what: e.g. "image"; begins the text "no image on ...".
        topic: as resolved after remapping.
        type_name: e.g. "sensor_msgs/msg/Image".
        level: of its silence.
        once: whether one message is enough for ever (camera info).
        since: when waiting began, seconds of time.monotonic().

    """

    what: str
    topic: str
    type_name: str
    level: bytes
    once: bool = False
    since: float = field(default_factory=time.monotonic)
    count: int = 0
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))

    def note(self) -> None:
        """Count a message that came just now."""
        self.count += 1
        self.arrivals.append(time.monotonic())

    def silent_for(self, now: float) -> float:
        """Return for how many seconds nothing came; 0 if that does not matter."""
        if self.once and self.count:
            return 0.0
        return now - (self.arrivals[-1] if self.arrivals else self.since)

    def rate(self) -> float:
        """Return the messages a second of late."""
        if len(self.arrivals) < 2:
            return 0.0
        return (len(self.arrivals) - 1) / max(self.arrivals[-1] - self.arrivals[0], 1e-9)


def blame(error: Exception) -> str:
    """Say what an unforeseen error is and where it arose, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}); please report it"


class Health:
    """Collects what goes well and what does not; safe to call from any thread."""

    def __init__(self, log: Log, graph: Callable[[str, str], tuple[int, list[str]]]) -> None:
        """Log through ``log``; ``graph(topic, type name)`` counts publishers and lists other topics of the type."""
        self._log = log
        self._graph = graph
        self.inputs: dict[str, InputHealth] = {}
        self._problems: dict[str, Problem] = {}
        self._announced: dict[str, str] = {}  # status -> kind of the problem that was logged last
        self._tracker_problem_since = ("", 0.0)  # kind, time
        self._lock = threading.RLock()
        self.reset_statistics()

    def reset_statistics(self) -> None:
        """Start counting frames anew."""
        with self._lock:
            self.frames = self.accepted = self.dropped = 0
            self.rejected: Counter[str] = Counter()
            self._last_rejection = ""
            self._recent: deque[tuple[str, float]] = deque(maxlen=RECENT)  # (reason or "", milliseconds)

    # What the rest of the node reports

    def watch(self, inputs: dict[str, InputHealth]) -> None:
        """Begin to expect messages; an empty dictionary stops it."""
        self.inputs = inputs

    def note(self, status: str) -> None:
        """Count a message of an input."""
        if status in self.inputs:
            self.inputs[status].note()

    def problem(self, status: str, text: str, *, level: bytes = ERROR) -> None:
        """Say what is wrong; it stays until `fine`."""
        self.state(status, Problem(level, text))

    def fine(self, status: str) -> None:
        """Say that a status's problem, if it had one, is gone."""
        self.state(status, None)

    def state(self, status: str, problem: Problem | None) -> None:
        """Set a status's problem, or clear it."""
        with self._lock:
            if problem is not None:
                self._problems[status] = problem
                self._announce(status, problem)
            elif self._problems.pop(status, None) is not None:
                self._announce(status, None)

    def frame(self, reason: str, milliseconds: float, *, message: str = "") -> None:
        """Count one image that was looked at: accepted if ``reason`` is empty; ``message`` is for people."""
        with self._lock:
            self.frames += 1
            self._last_rejection = message
            self._recent.append((reason, milliseconds))
            if reason:
                self.rejected[reason] += 1
            else:
                self.accepted += 1

    def drop(self) -> None:
        """Count one image that came while another one waited, and was never looked at."""
        with self._lock:
            self.dropped += 1

    # What comes out

    def diagnostics(self, *, name: str, silence: float, tracker: SessionStatus | None) -> DiagnosticArray:
        """Judge everything as it is now and return the message, without its stamp; log what is new."""
        with self._lock:
            return self._diagnostics(name, silence, tracker)

    def _diagnostics(self, name: str, silence: float, tracker: SessionStatus | None) -> DiagnosticArray:
        now = time.monotonic()
        current: dict[str, Problem | None] = {status: self._problems.get(status) for status in STATUSES}
        for status, watched in self.inputs.items():
            if watched.silent_for(now) > silence and not (watched.count and current[status]):
                current[status] = self._silence(watched, watched.silent_for(now))
        if tracker is not None and tracker.state is not TrackerState.TRACKING:
            level = ERROR if tracker.state is TrackerState.LOST else WARN
            current["tracker"] = Problem(level, f"{tracker.state.value}, waiting for {tracker.waiting_for}")
        if current["localization"] is None:
            current["localization"] = self._rejection_problem()
        array = DiagnosticArray()
        for status, found in current.items():
            # The tracker needs a while to start; its waiting is worth a line only when it lasts.
            if status != "tracker" or found is None or self._lasts(found, now, silence):
                self._announce(status, found)
            array.status.append(
                DiagnosticStatus(
                    level=found.level if found else OK,
                    name=f"{name}: {status}",
                    message=found.text if found else "OK",
                    hardware_id=name,
                    values=[KeyValue(key=key, value=value) for key, value in self._values(status, now).items()],
                )
            )
        return array

    def _silence(self, watched: InputHealth, seconds: float) -> Problem:
        publishers, others = self._graph(watched.topic, watched.type_name)
        if publishers:
            cause = f"{publishers} publisher{'s' if publishers > 1 else ''} there, but nothing arrives; is it running?"
            if "mage" in watched.type_name:
                cause += " Images are lost on the default transport: use the shared-memory profile (README)"
        else:
            cause = "nobody publishes it; start its driver or the bag, or remap it"
            if others:
                cause += f". This type is published on {', '.join(others)}"
        return Problem(watched.level, f"no {watched.what} on {watched.topic} for {seconds:.0f} s: {cause}")

    def _rejection_problem(self) -> Problem | None:
        if len(self._recent) < RECENT or not all(reason for reason, _ in self._recent):
            return None
        reason, count = Counter(reason for reason, _ in self._recent).most_common(1)[0]
        last = f", the last one: {self._last_rejection}" if self._last_rejection else ""
        return Problem(WARN, f"none of the last {RECENT} images was accepted: {count} for '{reason}'{last}")

    def _lasts(self, found: Problem, now: float, silence: float) -> bool:
        if self._tracker_problem_since[0] != found.kind:
            self._tracker_problem_since = (found.kind, now)
        return now - self._tracker_problem_since[1] > silence

    def _announce(self, status: str, found: Problem | None) -> None:
        """Log a problem that was not there before, and its end."""
        before = self._announced.get(status)
        if found is not None and before != found.kind:
            self._announced[status] = found.kind
            self._log(found.level, found.text)
        elif found is None and before is not None:
            del self._announced[status]
            self._log(OK, f"{status}: fine again")

    def _values(self, status: str, now: float) -> dict[str, str]:
        if status in self.inputs:
            watched = self.inputs[status]
            age = f"{now - watched.arrivals[-1]:.2f}" if watched.arrivals else "never"
            return {
                "topic": watched.topic,
                "count": f"{watched.count}",
                "rate_hz": f"{watched.rate():.1f}",
                "age_s": age,
            }
        if status != "localization":
            return {}
        times = [milliseconds for _, milliseconds in self._recent if milliseconds > 0]
        values = {"frames": self.frames, "accepted": self.accepted, "dropped": self.dropped}
        values |= {f"rejected.{reason}": count for reason, count in sorted(self.rejected.items())}
        result = {key: str(value) for key, value in values.items()}
        result["median_ms"] = f"{np.median(times):.1f}" if times else ""
        return result
