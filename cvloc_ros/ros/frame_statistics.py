"""What became of the images: counts by reason, times by stage, and the last search in numbers, for /diagnostics."""

from __future__ import annotations

import threading
from collections import Counter, deque

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.types import Localization

RECENT = 30
"""Images over which acceptance and latency are judged."""


class FrameStatistics:
    """Counts images; safe to call from any thread."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.accepted = self.dropped = self.without_odometry = 0
            self.rejected: Counter[str] = Counter()
            self._last_message = ""
            self._recent: deque[tuple[str, float]] = deque(maxlen=RECENT)  # (reason or "", ms; 0 if not tried)
            self._last: dict[str, str] = {}

    def note(
        self,
        reason: str,
        milliseconds: dict[str, float],
        localization: Localization | None = None,
        *,
        message: str = "",
    ) -> None:
        """Count one image that was looked at.

        Args:
            reason: why it has no accepted localization, a key of `REASONS`; empty if it has one.
            milliseconds: by stage; "total" is from arrival to pose.
            localization: what was found, if it was tried.
            message: the reason for people.

        """
        with self._lock:
            self._last_message = message
            self._recent.append((reason, milliseconds.get("total", 0.0) if localization else 0.0))
            if reason:
                self.rejected[reason] += 1
            else:
                self.accepted += 1
            if localization is not None:
                self._last = {**_search(localization), **{f"ms.{key}": f"{ms:.1f}" for key, ms in milliseconds.items()}}

    def drop(self) -> None:
        """Count one image that came while another one waited, and was never looked at."""
        with self._lock:
            self.dropped += 1

    def late_odometry(self) -> None:
        """Count one image whose odometry had not come when it could wait no longer."""
        with self._lock:
            self.without_odometry += 1

    def complaint(self) -> str:
        """Say that none of the last images was accepted, and why; empty if one was, or if there are too few."""
        with self._lock:
            if len(self._recent) < RECENT or not all(reason for reason, _ in self._recent):
                return ""
            reason, count = Counter(reason for reason, _ in self._recent).most_common(1)[0]
            last = f", the last one: {self._last_message}" if self._last_message else ""
            return f"none of the last {RECENT} images was accepted: {count} for '{reason}'{last}"

    def values(self) -> dict[str, str]:
        """Return the values for /diagnostics."""
        with self._lock:
            counts = {
                "frames": self.accepted + self.rejected.total(),
                "accepted": self.accepted,
                **{f"rejected.{reason}": count for reason, count in sorted(self.rejected.items())},
                "dropped": self.dropped,
                "without_odometry": self.without_odometry,
            }
            times = [milliseconds for _, milliseconds in self._recent if milliseconds > 0]
            median, p95 = np.percentile(times, (50, 95)) if times else (0.0, 0.0)
            result = {key: str(value) for key, value in counts.items()}
            return result | {"median_ms": f"{median:.1f}", "p95_ms": f"{p95:.1f}"} | self._last


def sigmas(pose: SE2, covariance: np.ndarray) -> tuple[float, float, float]:
    """Return the standard deviations along and across the heading (m) and of the heading (degrees).

    Args:
        pose: gives the heading.
        covariance: 3x3 over (east m, north m, yaw rad).

    """
    R = pose.rotation()
    along, across = np.sqrt(np.diag(R.T @ covariance[:2, :2] @ R))
    return float(along), float(across), float(np.degrees(np.sqrt(covariance[2, 2])))


def _search(localization: Localization) -> dict[str, str]:
    prior, pose = localization.prior, localization.T_map_base
    x, y, yaw = localization.search_box
    return {
        "prior": f"{prior.T_map_base.x:.2f} {prior.T_map_base.y:.2f} {np.degrees(prior.T_map_base.yaw):.2f}",
        "prior_sigma": _numbers(*sigmas(prior.T_map_base, prior.covariance)),
        "search_box": _numbers(x, y, np.degrees(yaw)),
        "coverage": f"{localization.covered:.2f}",
        "quality": f"{localization.quality:.2f}",
        "sigma": _numbers(*sigmas(pose, localization.covariance)),
    }


def _numbers(*values: float) -> str:
    return " ".join(f"{value:.2f}" for value in values)
