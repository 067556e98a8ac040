"""A simulated drive as the tracker sees it: what odometry, GNSS and the localizer say, and how far off it then is."""

from dataclasses import replace

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.search_box import search_box
from cvloc_ros.localization.tracker import Tracker, TrackerState
from cvloc_ros.localization.types import Localization, Matches, Prior

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
LEVER = (-0.4, 0.3)
NO_MATCHES = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))


BOX = (20.0, 20.0, np.radians(10.0))
LARGEST = (20.0, np.radians(10.0))


def localization(stamp, pose, *, sigma=0.4):
    covariance = np.diag([sigma, sigma, np.radians(0.5)]) ** 2
    prior = Prior(pose, covariance)
    return Localization(stamp, prior, pose, covariance, 0.9, True, "", NO_MATCHES, None, {}, search_box=BOX)


def search(tracker, answer):
    """Give the tracker what a matcher finds in each box that it asks for: the answer where the box holds it."""
    accepted = False
    for prior in tracker.priors(answer.stamp):
        box = search_box(prior, LARGEST)
        step = prior.T_map_base.inverse() @ answer.T_map_base
        found = replace(answer, prior=prior, search_box=box)
        if (np.abs(step.vector()) > box).any():
            found = replace(found, T_map_base=prior.T_map_base, quality=0.2, accepted=False, reason="low_quality")
        accepted |= tracker.add_localization(found)
    return accepted


class Drive:
    """75 s at 10 m/s with turns: truth at 100 Hz, odometry 25 Hz, fixes 5 Hz, localizations 10 Hz."""

    def __init__(self, seed=0, *, outage=(30.0, 52.0), outliers=0.05, gnss_bias=(5.0, -5.0), duration=75.0):
        rng = np.random.default_rng(seed)
        pose, odom = SE2(40.0, -20.0, 2.0), SE2(3.0, 4.0, -1.0)
        self.truth, self.odometry, self.fixes, self.localizations = {}, [], [], []
        walk = np.zeros(2)
        for i in range(round(duration * 100)):
            t = i / 100
            stamp = START + i * SECOND // 100
            rate = 0.35 * np.sin(2 * np.pi * t / 17) * (np.sin(2 * np.pi * t / 40) > 0)
            speed = 10.0 if t > 2 else 0.0
            step = SE2(speed / 100, 0.0, rate / 100)
            pose = pose @ step
            odom = odom @ SE2(step.x * 1.015, 0.0, step.yaw + np.radians(0.1) / 100)
            self.truth[stamp] = pose
            if i % 4 == 0:
                self.odometry.append((stamp, odom))
            if i % 20 == 0:
                walk = 0.995 * walk + rng.normal(0, 0.1, 2)
                if not outage[0] < t < outage[1]:
                    position = pose.apply(np.array(LEVER)) + gnss_bias + walk + rng.normal(0, 0.3, 2)
                    self.fixes.append((stamp, position, np.eye(2) * 5.0**2))
            if i % 10 == 0:
                noise = rng.normal(0, [0.4, 0.4, np.radians(0.5)])
                if rng.random() < outliers:
                    angle = rng.uniform(0, 2 * np.pi)
                    noise[:2] += 10 * np.array([np.cos(angle), np.sin(angle)])
                seen = SE2(pose.x + noise[0], pose.y + noise[1], float(wrap_angle(pose.yaw + noise[2])))
                self.localizations.append(localization(stamp, seen))

    def events(self, *, late=0.0):
        """All inputs in the order of their arrival, odometry first where they are simultaneous."""
        out = [(stamp, 0, "odometry", (stamp, pose)) for stamp, pose in self.odometry]
        out += [(fix[0], 1, "fix", fix) for fix in self.fixes]
        out += [(x.stamp + round(late * 1e9), 2, "localization", x) for x in self.localizations]
        return [event[2:] for event in sorted(out, key=lambda event: event[:2])]


def run(drive, *, tracker=None, late=0.0, skip=()):
    """Feed a drive; return the tracker and rows (stamp, state, error m, heading error rad, NEES)."""
    tracker = tracker or Tracker()
    rows = []
    for kind, data in drive.events(late=late):
        if kind in skip:
            continue
        if kind == "odometry":
            tracker.add_odometry(*data)
            known = tracker.pose(data[0])
            if known is not None:
                error = known[0].vector() - drive.truth[data[0]].vector()
                error[2] = wrap_angle(error[2])
                nees = error @ np.linalg.solve(known[1], error)
                rows.append((data[0], tracker.state, np.hypot(*error[:2]), abs(error[2]), nees))
        elif kind == "fix":
            tracker.add_gnss(*data, LEVER)
        else:
            search(tracker, data)
    return tracker, rows


def rmse(rows):
    return float(np.sqrt(np.mean([row[2] ** 2 for row in rows])))


def tracked(rows):
    return [row for row in rows if row[1] in (TrackerState.TRACKING, TrackerState.DEGRADED)]
