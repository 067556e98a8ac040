"""How one subscribed topic is doing: what came, how often, when last, and the likely cause of silence."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

_RATE_WINDOW = 50  # messages


@dataclass(frozen=True)
class Publishers:
    """What the ROS graph says of a topic.

    Attributes:
        count: how many publish it with the expected type.
        other_types: types with which it is published otherwise.
        same_type: other topics on which the expected type is published.

    """

    count: int
    other_types: list[str]
    same_type: list[str]


Graph = Callable[[str, str], Publishers]
"""Takes a topic and its type's name."""


@dataclass
class InputHealth:
    """One subscribed topic.

    Attributes:
        what: e.g. "image"; begins the text "no image on ...".
        topic: as resolved after remapping.
        type_name: e.g. "sensor_msgs/msg/Image".
        once: whether one message is enough for ever (camera info).
        since: when waiting began, seconds of time.monotonic().
        count: messages so far.
        delay: of the newest message, seconds from its stamp to its arrival; None if it has no stamp.
        unused: messages that were not used, by condition (see `diagnostics_table`).

    """

    what: str
    topic: str
    type_name: str
    once: bool = False
    since: float = field(default_factory=time.monotonic)
    count: int = 0
    delay: float | None = None
    unused: Counter[str] = field(default_factory=Counter)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))

    def note(self, delay: float | None = None) -> None:
        """Count a message that came just now, this many seconds after its stamp."""
        self.count += 1
        self.delay = delay
        self.arrivals.append(time.monotonic())

    def silent_for(self, now: float) -> float:
        """Return for how many seconds nothing came; 0 if that does not matter."""
        if self.once and self.count:
            return 0.0
        return now - (self.arrivals[-1] if self.arrivals else self.since)

    def rate(self) -> float:
        """Return messages a second over the last ones; 0 while there are too few."""
        span = self.arrivals[-1] - self.arrivals[0] if len(self.arrivals) > 1 else 0.0
        return (len(self.arrivals) - 1) / span if span > 0 else 0.0

    def silence(self, seconds: float, publishers: Publishers) -> str:
        """Describe that nothing has come for so long, and why that may be."""
        if publishers.count:
            cause = f"{publishers.count} publisher{'s' if publishers.count > 1 else ''} there, but nothing arrives; "
            cause += "is it running?"
            if "mage" in self.type_name:
                cause += " Images are lost on the default transport: use the shared-memory profile (README)"
        elif publishers.other_types:
            cause = f"it is published as {', '.join(publishers.other_types)}, expected {self.type_name}"
        else:
            cause = "nobody publishes it; start its driver or the bag, or remap it"
        if not publishers.count and publishers.same_type:
            cause += f". This type is published on {', '.join(publishers.same_type)}"
        return f"no {self.what} on {self.topic} for {seconds:.0f} s: {cause}"

    def values(self, now: float) -> dict[str, str]:
        """Return the values for /diagnostics."""
        result = {
            "topic": self.topic,
            "count": f"{self.count}",
            "rate_hz": f"{self.rate():.1f}",
            "age_s": f"{now - self.arrivals[-1]:.2f}" if self.arrivals else "never",
            "delay_s": "" if self.delay is None else f"{self.delay:.3f}",
        }
        return result | {f"unused.{condition}": f"{count}" for condition, count in sorted(self.unused.items())}
