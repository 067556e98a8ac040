"""What the node says about itself: /diagnostics, and one log line for every problem.

Every status is published once a second, also while all is well; `diagnostics_table` says which there are, and when
they leave OK. Problems are of two kinds:

- *states* (`state`) are there or not, e.g. an input that is silent;
- *reports* (`report`) are of single messages, which may come by the hundred, good and bad in turn. Such a problem
  stays until nothing but good messages has come for `CALM` seconds, or, where it can be asked for (`lasts`), until it
  has been gone for so long.

A problem is logged when it appears, and again only after it was gone: complaints that differ in numbers alone are one
problem, and of one condition at most `MOST_KINDS` different complaints are logged.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from cvloc_ros.datasets.message_reading import without_numbers
from cvloc_ros.imagery import redacted
from cvloc_ros.localization.session import SessionStatus
from cvloc_ros.localization.tracker import TrackerState
from cvloc_ros.ros.diagnostics_table import ERROR, OK, TABLE, WARN
from cvloc_ros.ros.frame_statistics import FrameStatistics
from cvloc_ros.ros.input_health import Graph, InputHealth

__all__ = ["CALM", "ERROR", "MOST_KINDS", "OK", "WARN", "Health", "blame"]

CALM = 3.0
"""Seconds of good messages after which a reported problem is gone."""
MOST_KINDS = 5
"""Different complaints of one condition that are logged until it is gone."""
_OF_THE_DRIVE = ("transforms", "tf", "tracker", "localization")  # statuses that begin anew with the subscriptions

Log = Callable[[bytes, str], None]
"""Takes a level (OK, WARN, ERROR) and a line."""


def blame(error: Exception) -> str:
    """Say what an unforeseen error is and where it arose, in one line."""
    first, *_ = redacted(str(error)).splitlines() or [""]  # CUDA's errors go on about how to debug them
    if type(error).__name__ == "OutOfMemoryError":  # torch's; it is not imported for this
        return f"{first}; leave it more of the GPU's memory, or set the parameter device to cpu"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first} ({place.filename}:{place.lineno}); please report it"


@dataclass
class _Problem:
    text: str
    fine_since: float | None = None  # since when only good messages have come
    lasts: Callable[[], bool] | None = None  # says whether it is still there, whatever messages come


class Health:
    """Collects what goes well and what does not; safe to call from any thread."""

    def __init__(self, log: Log, graph: Graph) -> None:
        """Log through ``log``; ``graph`` knows who publishes what."""
        self._log, self._graph = log, graph
        self.inputs: dict[str, InputHealth] = {}
        self.frames = FrameStatistics()
        self._problems: dict[str, dict[str, _Problem]] = {status: {} for status in TABLE}
        self._logged: dict[tuple[str, str], set[str]] = {}  # (status, condition) -> kinds of complaints
        self._values: dict[str, Callable[[], dict[str, str]]] = {"localization": self.frames.values}
        self._state = ""  # the tracker's
        self._state_since = time.monotonic()
        self._lock = threading.RLock()

    # What the rest of the node reports

    def watch(self, inputs: dict[str, InputHealth]) -> None:
        """Begin to expect messages, with nothing known of them; an empty dictionary stops it."""
        with self._lock:
            for status in (*self.inputs, *inputs, *_OF_THE_DRIVE):
                self._problems[status].clear()
                for key in [key for key in self._logged if key[0] == status]:
                    del self._logged[key]
            self.inputs, self._state = inputs, ""

    def provide(self, status: str, values: Callable[[], dict[str, str]]) -> None:
        """Ask a function for a status's values whenever they are published."""
        self._values[status] = values

    def withdraw(self, status: str) -> None:
        """Ask no more for a status's values, and let go of the function."""
        del self._values[status]

    def report(self, status: str, condition: str, text: str, *, lasts: Callable[[], bool] | None = None) -> None:
        """Say what is wrong with a message, and count it; see `TABLE` for the conditions.

        ``lasts`` says whether the problem is still there; without it, `fine` tells when it is gone.
        """
        with self._lock:
            if status in self.inputs:
                self.inputs[status].unused[condition] += 1
            self._set(status, condition, text)
            self._problems[status][condition].lasts = lasts

    def fine(self, status: str, *conditions: str) -> None:
        """Say that a message was good, as far as these conditions go; all of the status if none is named."""
        with self._lock:
            for condition, problem in self._problems[status].items():
                named = condition in conditions or not conditions
                if named and problem.fine_since is None and problem.lasts is None:
                    problem.fine_since = time.monotonic()

    def state(self, status: str, condition: str, text: str, *, kind: str | None = None, quiet: bool = False) -> None:
        """Set a condition, or clear it if ``text`` is empty.

        Args:
            status: a key of `TABLE`.
            condition: one of its conditions.
            text: what is wrong, for people.
            kind: what tells this problem from others of the condition, if not the text but its numbers.
            quiet: whether not to log it.

        """
        with self._lock:
            if text:
                self._set(status, condition, text, kind=kind, quiet=quiet)
            elif condition in self._problems[status]:
                self._clear(status, condition)

    def only(self, status: str, condition: str, text: str, *, kind: str | None = None, quiet: bool = False) -> None:
        """Set one condition (none if ``condition`` is empty) and clear all others of a status."""
        with self._lock:
            for other in [c for c in self._problems[status] if c != condition]:
                self._clear(status, other)
            if condition:
                self._set(status, condition, text, kind=kind, quiet=quiet)

    def tracker(self, status: SessionStatus, *, silence: float) -> None:
        """Take in the tracker's state: log it if it has changed, and what it waits for if that lasts."""
        with self._lock:
            now, state = time.monotonic(), status.state.value
            tracking = status.state is TrackerState.TRACKING
            waiting = f": waiting for {status.waiting_for}" if status.waiting_for else ""
            if state != self._state:
                if self._state:
                    level = OK if tracking else TABLE["tracker"].conditions[state].level
                    self._log(level, f"tracker: {self._state} -> {state}{waiting}")
                self._state, self._state_since = state, now
            lasts = now - self._state_since > silence
            stuck = status.state in (TrackerState.WAITING, TrackerState.INITIALIZING) and lasts
            if "gnss" in self.inputs:
                self.state("gnss", "disbelieved", status.gnss_complaint, kind="")
            if "imu" in self.inputs:
                self.state("imu", "lost", status.imu_complaint, kind="")
            what = status.waiting_for.partition(":")[0]
            self.only("tracker", "" if tracking else state, f"{state}{waiting}", kind=what, quiet=not stuck)

    # What comes out

    def diagnostics(self, name: str, *, silence: float, paused: bool = False) -> DiagnosticArray:
        """Judge everything as it is now and return the message, without its stamp; log what is new.

        Args:
            name: the node's, which begins the statuses' names.
            silence: seconds of real time after which a silent input is a problem.
            paused: whether time stands still, so that silence is none.

        """
        with self._lock:
            now = time.monotonic()
            for status, watched in self.inputs.items():
                quiet_for = 0.0 if paused else watched.silent_for(now)
                silent = quiet_for > silence
                publishers = self._graph(watched.topic, watched.type_name) if silent else None
                self.state(status, "silent", watched.silence(quiet_for, publishers) if publishers else "")
            self.state("localization", "none_accepted", self.frames.complaint(), kind="")
            for status, problems in self._problems.items():
                for problem in problems.values():
                    if problem.lasts is not None:
                        problem.fine_since = None if problem.lasts() else problem.fine_since or now
                for condition in [c for c, p in problems.items() if p.fine_since and now - p.fine_since > CALM]:
                    self._clear(status, condition)
            shown = [status for status in TABLE if status != "imu" or status in self.inputs]
            return DiagnosticArray(status=[self._status(status, name, now) for status in shown])

    def _status(self, status: str, name: str, now: float) -> DiagnosticStatus:
        conditions = TABLE[status].conditions
        found = sorted(self._problems[status].items(), key=lambda item: conditions[item[0]].level, reverse=True)
        values = self._values.get(status, dict)()
        if status in self.inputs:
            values |= self.inputs[status].values(now)
        if status == "tracker" and self._state:
            values |= {"state": self._state, "state_for_s": f"{now - self._state_since:.1f}"}
        return DiagnosticStatus(
            level=conditions[found[0][0]].level if found else OK,
            name=f"{name}: {status}",
            message=" | ".join(problem.text for _, problem in found) or "OK",
            hardware_id=name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )

    def _set(self, status: str, condition: str, text: str, *, kind: str | None = None, quiet: bool = False) -> None:
        level = TABLE[status].conditions[condition].level
        self._problems[status][condition] = _Problem(text)
        if quiet:
            return
        logged = self._logged.setdefault((status, condition), set())
        kind = without_numbers(text) if kind is None else kind
        if kind not in logged and len(logged) < MOST_KINDS:
            logged.add(kind)
            self._log(level, text)

    def _clear(self, status: str, condition: str) -> None:
        del self._problems[status][condition]
        logged = self._logged.pop((status, condition), None)
        if logged and not self._problems[status] and status != "tracker":  # whose changes are logged as such
            self._log(OK, f"{status}: fine again")
