"""Every status on /diagnostics: what it is about, when it leaves OK, and the values beside it.

`Health` takes the levels from here and refuses a condition that is not declared, and the page in doc/ is made from
here (`markdown`), so that code and documentation cannot differ. No ROS is needed to import this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"  # as in diagnostic_msgs/DiagnosticStatus


@dataclass(frozen=True)
class Condition:
    """When a status leaves OK, and to which level."""

    level: bytes
    when: str


@dataclass(frozen=True)
class Row:
    """One status.

    Attributes:
        about: what it watches.
        conditions: by name; the status's message says more.
        values: meaning by key; a key that ends in ``*`` stands for several.

    """

    about: str
    conditions: Mapping[str, Condition]
    values: Mapping[str, str] = field(default_factory=dict)


def _warn(when: str) -> Condition:
    return Condition(WARN, when)


def _error(when: str) -> Condition:
    return Condition(ERROR, when)


_INPUT_VALUES = {
    "topic": "the topic, after remapping",
    "count": "messages so far",
    "rate_hz": "messages a second, in real time",
    "age_s": "real time since the last one",
    "delay_s": "the last one's age by its stamp when it came, on the node's clock",
    "unused.*": "messages that were not used, by condition",
}


def _input(about: str, silent: Condition, **conditions: Condition) -> Row:
    """Return the row of a subscribed topic: what can go wrong with all of them, and more."""
    common = {
        "silent": silent,
        "qos": _error("a publisher's quality of service does not fit"),
        "refused": _error("a message raised an error"),
    }
    return Row(about, {**common, **conditions}, _INPUT_VALUES)


TABLE: dict[str, Row] = {
    "node": Row(
        "the node as a whole",
        {
            "unconfigured": _warn("not configured yet"),
            "inactive": _warn("not active"),
            "disabled": _warn("`~/enable` was called with false"),
            "paused": _warn("`/clock` stands still for half of `health.silence`; inputs may then be silent"),
            "failed": _error("cannot be configured: parameters, weights, device or imagery"),
            "no_clock": _error("`use_sim_time` is true and there is no `/clock` for half of `health.silence`"),
        },
        {
            "device": "where the network runs",
            "memory_mb": "resident memory of the process",
            "gpu_memory_mb": "memory that the network holds on the GPU",
            "time_jumps": "how often time has jumped back since the node was activated",
        },
    ),
    "image": _input(
        "`image` or `image/compressed`",
        _error("nothing for `health.silence`"),
        unusable=_error("empty, cut off, does not decode, or of an unknown encoding"),
        contradiction=_error("not of the size that the CameraInfo says"),
        unstamped=_error("its stamp is zero"),
        ahead=_error("stamped more than 1 s ahead of `/clock`"),
        out_of_order=_warn("its stamp does not follow the last one's"),
    ),
    "camera_info": _input(
        "`camera_info`",
        _error("none has ever come, for `health.silence`"),
        unusable=_error("not calibrated, no pinhole camera, or numbers that no camera has"),
    ),
    "odometry": _input(
        "`odom`",
        _error("nothing for `health.silence`"),
        unusable=_error("a pose that is not finite, or a quaternion that is not of length 1"),
        unstamped=_error("its stamp is zero"),
        ahead=_error("stamped more than 1 s ahead of `/clock`"),
        out_of_order=_warn("its stamp does not follow the last one's"),
    ),
    "gnss": _input(
        "`fix`",
        _warn("nothing for `health.silence`"),
        unusable=_warn("no fix, or a position that is none"),
        covariance=_warn("a stated covariance that is none; `tracker.gnss_default_sigma` is used"),
        unstamped=_warn("its stamp is zero"),
        ahead=_warn("stamped more than 1 s ahead of `/clock`"),
        clock=_warn("its stamps are not within 5 s of the odometry's"),
        disbelieved=_warn(
            "the newest fix contradicts odometry or the track and counts for little or nothing, or some have no "
            "odometry at their stamps"
        ),
    ),
    "imu": _input(
        "`imu`, only where `imu.absolute` is set",
        _warn("nothing for `health.silence`"),
        unusable=_warn("no orientation (covariance -1), or a quaternion that is not of length 1"),
        lost=_warn("some headings have no odometry at their stamps: they are not used"),
        unstamped=_warn("its stamp is zero"),
        ahead=_warn("stamped more than 1 s ahead of `/clock`"),
    ),
    "transforms": Row(
        "where the sensors sit on the vehicle, from TF",
        {
            "camera": _error("the camera's frame is unknown, or not above the ground: no image is localized"),
            "odometry": _error("the odometry's child frame is unknown: odometry is not used"),
            "gnss": _warn("the antenna's frame is unknown: fixes are not used"),
            "imu": _warn("the IMU's frame is unknown: its heading is not used"),
            "unusable": _warn("a transform on TF is no rigid motion"),
            "qos": _error("a publisher of TF has a quality of service that does not fit"),
        },
    ),
    "tf": Row(
        "the transform that the node publishes (`tf.publish`)",
        {
            "no_odom": _error("map_odom: nobody publishes odom -> base on TF, or the odometry names no frame"),
            "other_parent": _error("map_base: the base frame has another parent already"),
            "other_publisher": _error("another node publishes the same transform"),
        },
        {"edge": "parent and child; empty while nothing is published"},
    ),
    "imagery": Row(
        "the satellite image",
        {
            "unreadable": _error("cannot be opened or read"),
            "incomplete": _warn("tiles of a server are missing: there are holes; they are asked for again"),
        },
    ),
    "tracker": Row(
        "the track; each change of state is logged",
        {
            "waiting": _warn("an input is missing: the message says which"),
            "initializing": _warn("localizations have to confirm one another before the track starts"),
            "degraded": _warn("no accepted localization for `tracker.degraded_distance` or `tracker.degraded_time`"),
            "lost": _error("too long without one: localizations have to confirm one another again"),
        },
        {
            "state": "waiting, initializing, tracking, degraded or lost",
            "state_for_s": "real time since it changed",
            "waiting_for": "what would bring it further",
            "hypotheses": "places under consideration; while there is a track, those that contradict it",
            "sigma_along_m": "standard deviation of the fused position along the heading",
            "sigma_across_m": "the same across the heading",
            "sigma_heading_deg": "standard deviation of the fused heading",
        },
    ),
    "localization": Row(
        "the images, one by one",
        {
            "none_accepted": _warn("none of the last 30 images was accepted: the message says why"),
            "failed": _error("the localizer raised an error"),
        },
        {
            "frames": "images that were looked at",
            "accepted": "of these, localizations that count",
            "rejected.*": "of these, those that do not, by reason (`REASONS` in localization/gate.py)",
            "dropped": "images that came while another one waited, and were never looked at",
            "without_odometry": "images whose odometry had not come after `odometry_wait`",
            "prior": "where the last search began: x, y in m, heading in degrees",
            "prior_sigma": "standard deviations of the prior: along, across (m), heading (degrees)",
            "search_box": "half-widths of the last search: along, across (m), heading (degrees)",
            "coverage": "share of the last patch that had imagery",
            "quality": "calibrated probability that the last estimate is within 2 m",
            "sigma": "standard deviations of the last estimate: along, across (m), heading (degrees)",
            "median_ms": "time from an image's arrival to its pose, median of the last 30",
            "p95_ms": "the same, 95th percentile",
            "ms.*": "the last image's time by stage",
        },
    ),
    "outputs": Row(
        "what the node publishes",
        {
            "qos": _warn("a subscriber asks for another quality of service than is offered"),
            "drawing": _warn("a picture could not be drawn"),
        },
    ),
}
"""The statuses, in the order in which they are published."""


def markdown() -> str:
    """Return the table as Markdown: a line a status, then the values of each."""
    lines = ["| status | about | WARN | ERROR |", "|---|---|---|---|"]
    for name, row in TABLE.items():
        when = [
            "; ".join(condition.when for condition in row.conditions.values() if condition.level == level)
            for level in (WARN, ERROR)
        ]
        lines.append(f"| `{name}` | {row.about} | {when[0]} | {when[1]} |")
    inputs = [name for name, row in TABLE.items() if row.values is _INPUT_VALUES]
    groups: dict[str, Mapping[str, str]] = {"`, `".join(inputs): _INPUT_VALUES}
    groups |= {name: row.values for name, row in TABLE.items() if row.values and name not in inputs}
    for names, values in groups.items():
        lines += ["", f"Values of `{names}`:", "", "| key | meaning |", "|---|---|"]
        lines += [f"| `{key}` | {meaning} |" for key, meaning in values.items()]
    return "\n".join(lines) + "\n"
