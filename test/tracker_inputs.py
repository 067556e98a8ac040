"""A simulated drive as the tracker sees it: what odometry, GNSS and the localizer say, and how far off it then is."""

from dataclasses import replace

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.search_box import search_box
from cvloc_ros.localization.tracker import Tracker, TrackerState
from cvloc_ros.localization.types import Localization, Matches, Posterior, Prior

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


class Street:
    """What a matcher answers in streets that look alike every 14 m: mostly the truth, where the box holds it.

    Some stretches of 12 m are matched one house further, again and again. Where the truth is outside the box, the
    next place that looks alike is taken for it. In the dark the answer is the middle of the box, more or less.
    """

    PERIOD, STRETCH = 14.0, 12.0

    def __init__(self, drive, *, seed=0, wrong=0.1, dark=(0.0, 0.0)):
        self._drive, self._dark = drive, dark
        self._rng = np.random.default_rng(seed)
        self._shift = self._rng.choice([0, -1, 1], 1000, p=[1 - wrong, wrong / 2, wrong / 2])

    def answer(self, stamp, prior, *, travelled):
        rng, box = self._rng, search_box(prior, LARGEST)
        if self._dark[0] <= (stamp - START) / SECOND < self._dark[1]:
            step, quality = SE2(*rng.normal(0, [2.0, 2.0, np.radians(2)])), rng.uniform(0.05, 0.55)
        else:
            order = [self._shift[int(travelled // self.STRETCH)], 0, -1, 1, -2, 2]
            truth = prior.T_map_base.inverse() @ self._drive.truth[stamp]
            steps = [truth @ SE2(self.PERIOD * k, 0.0, 0.0) for k in order]
            steps = [step for step in steps if (np.abs(step.vector()) < box).all()]
            step, quality = SE2(*rng.uniform(-1, 1, 3) * box), rng.uniform(0.1, 0.6)
            if steps and rng.random() > 0.05:
                sure = (0.45, 0.95) if self._right(steps[0], truth) else (0.3, 0.8)
                step, quality = steps[0] @ SE2(*rng.normal(0, [0.6, 0.4, np.radians(0.7)])), rng.uniform(*sure)
        found = localization(stamp, prior.T_map_base @ step, sigma=0.6)
        accepted = quality > 0.5
        return replace(
            found,
            prior=prior,
            search_box=box,
            quality=quality,
            accepted=accepted,
            reason="" if accepted else "low_quality",
            posterior=peak_at(step),
        )

    @staticmethod
    def _right(step, truth):
        return np.hypot(step.x - truth.x, step.y - truth.y) < 1.0


def peak_at(step):
    """A posterior with nine tenths of its mass about a step from the prior."""
    axis, turns = np.linspace(-20, 20, 26), np.radians(np.linspace(-10, 10, 11))
    yaw, x, y = np.meshgrid(turns, axis, axis, indexing="ij")
    p = np.exp(-((x - step.x) ** 2 + (y - step.y) ** 2) / 2 - (yaw - step.yaw) ** 2 / (2 * np.radians(1.0) ** 2))
    return Posterior(0.9 * p / max(p.sum(), 1e-9) + 0.1 / p.size, axis, axis, turns)


def drive_street(drive, street, tracker, *, image_period=2, gnss=True, each=lambda seconds: None):
    """Feed a drive whose images a `Street` answers; return rows (seconds, state, error m) by image.

    Every ``image_period``-th of the ten images a second is localized.
    """
    rows, travelled, last = [], 0.0, None
    for kind, data in drive.events():
        if kind == "odometry":
            tracker.add_odometry(*data)
        elif kind == "fix":
            if gnss:
                tracker.add_gnss(*data, LEVER)
        else:
            truth, seconds = drive.truth[data.stamp], (data.stamp - START) / SECOND
            if last is not None:
                travelled += np.hypot(truth.x - last.x, truth.y - last.y)
            last = truth
            if round(seconds * 10) % image_period:
                continue
            each(seconds)
            priors = tracker.priors(data.stamp)
            assert len(priors) <= 2
            for prior in priors:
                tracker.add_localization(street.answer(data.stamp, prior, travelled=travelled))
            known = tracker.pose(data.stamp)
            error = np.nan if known is None else np.hypot(known[0].x - truth.x, known[0].y - truth.y)
            rows.append((seconds, tracker.state, error))
    return rows


def found_after(rows, start):
    """Seconds from ``start`` to the first image at which the state is TRACKING, within 2 m of the truth."""
    found = [row[0] for row in rows if row[0] >= start and row[1] is TrackerState.TRACKING and row[2] < 2]
    return found[0] - start if found else np.inf


def longest_sure_and_wrong(rows):
    """The longest time in seconds for which the state was TRACKING, over 5 m off."""
    since, worst = None, 0.0
    for seconds, state, error in rows:
        if state is not TrackerState.TRACKING or error <= 5:
            since = None
        else:
            since = seconds if since is None else since
            worst = max(worst, seconds - since)
    return worst
