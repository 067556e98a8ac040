"""`~/frame_status`: everything about one image, accepted or not, as a standard message that any tool can show.

A DiagnosticArray with the image's stamp and one status: its level says whether the localization was accepted, its
message why not, and its values hold a `FrameRecord`, number for number, so that a recorded run of the node is judged
exactly as an offline run. Poses are "x y yaw" in the map (m, m, rad), covariances nine numbers row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.types import Prior
from cvloc_ros.ros.conversions import header, to_nanoseconds

_MILLISECONDS = "ms."


def encode(record: FrameRecord, *, frame_id: str) -> DiagnosticArray:
    """Return a record as a message; what is None is left out."""
    values: dict[str, str] = {"reason": record.reason, "state": record.state}
    if record.quality is not None:
        values["quality"] = repr(float(record.quality))
    if record.prior is not None:
        values |= _pose("prior", record.prior.T_map_base, record.prior.covariance)
    values |= _pose("estimate", record.estimate, record.covariance)
    values |= _pose("fused", record.fused, record.fused_covariance)
    values |= {_MILLISECONDS + stage: f"{time:.3f}" for stage, time in record.milliseconds.items()}
    status = DiagnosticStatus(
        level=DiagnosticStatus.OK if record.accepted else DiagnosticStatus.WARN,
        name="cvloc: frame",
        message=record.reason or "accepted",
        hardware_id="cvloc",
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=header(record.stamp, frame_id), status=[status])


def decode(message: Any) -> FrameRecord:
    """Read a message back, from rclpy or from a bag."""
    status = message.status[0]
    values = {entry.key: entry.value for entry in status.values}
    prior, prior_covariance = _read_pose("prior", values)
    estimate, covariance = _read_pose("estimate", values)
    fused, fused_covariance = _read_pose("fused", values)
    return FrameRecord(
        stamp=to_nanoseconds(message.header.stamp),
        accepted=not values["reason"],
        reason=values["reason"],
        prior=Prior(prior, prior_covariance) if prior is not None and prior_covariance is not None else None,
        estimate=estimate,
        covariance=covariance,
        quality=float(values["quality"]) if "quality" in values else None,
        fused=fused,
        fused_covariance=fused_covariance,
        state=values["state"],
        milliseconds={
            key.removeprefix(_MILLISECONDS): float(value)
            for key, value in values.items()
            if key.startswith(_MILLISECONDS)
        },
    )


def _pose(name: str, pose: SE2 | None, covariance: np.ndarray | None) -> dict[str, str]:
    if pose is None or covariance is None:
        return {}
    return {name: _numbers(pose.vector()), f"{name}_covariance": _numbers(covariance.ravel())}


def _numbers(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


def _read_pose(name: str, values: dict[str, str]) -> tuple[SE2 | None, np.ndarray | None]:
    if name not in values:
        return None, None
    covariance = np.array(values[f"{name}_covariance"].split(), dtype=float).reshape(3, 3)
    return SE2(*(float(value) for value in values[name].split())), covariance
