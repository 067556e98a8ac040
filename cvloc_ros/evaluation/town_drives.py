"""Drives through unseen towns under hard conditions: how accurate, how soon recovered, how long wrong and sure of it.

Every drive is made from its seed: the town, the route, the light and every error of the sensors. Each is localized in
memory under every `Scenario`, by the very loop of `cvloc run`, and leaves one `DriveRow`.
"""

from __future__ import annotations

import heapq
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from cvloc_ros.datasets.events import Event, ImageEvent
from cvloc_ros.datasets.town import Town, write_orthophoto
from cvloc_ros.datasets.town.drive import Drive, record, simulate_drive
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.datasets.town.sensors import SECOND, GnssModel
from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.evaluation.run import run_bag
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.session import LocalizesFrames
from cvloc_ros.localization.types import Frame

DURATION = 100.0  # seconds
TOWN_SIZE = 600.0  # metres
FAR = 5.0  # metres: so wrong a pose must not be called TRACKING
FOUND = 2.0  # metres: within this, and TRACKING, a pose counts as recovered
_TROUBLE = (20.0, 80.0)  # seconds from the start
_BIASED = GnssModel(bias=8.0, outage=(0.0, 0.0))
_INITIAL_COVARIANCE = np.diag([0.5, 0.5, np.radians(15.0)]) ** 2  # what RViz sends


@dataclass(frozen=True)
class Scenario:
    """What a drive is put through.

    Attributes:
        name: for the table.
        gnss: the receiver.
        initial_error: (metres, degrees) by which an initial pose at the start is wrong; None for no initial pose.
        black: seconds from the start, first and last, in which the images are black.

    """

    name: str
    gnss: GnssModel
    initial_error: tuple[float, float] | None = None
    black: tuple[float, float] = (0.0, 0.0)


SCENARIOS = (
    Scenario("gnss-cut", replace(_BIASED, outage=_TROUBLE)),
    Scenario("initialpose", replace(_BIASED, outage=_TROUBLE), initial_error=(25.0, 20.0)),
    Scenario("initialpose-only", replace(_BIASED, outage=(0.0, np.inf)), initial_error=(25.0, 20.0)),
    Scenario("black", _BIASED, black=_TROUBLE),
)
"""GNSS is 8 m wrong in all of them, and in most of them cut for a minute, or altogether."""


@dataclass(frozen=True)
class DriveRow:
    """How one drive went.

    Attributes:
        seed: of the town and the drive.
        scenario: its name.
        metres: driven.
        rmse: metres, of the fused pose while it is TRACKING or DEGRADED; infinite if it never was.
        worst: metres, the largest error while TRACKING; 0 if it never was.
        wrong: the longest time, in seconds, that the state was TRACKING while the pose was over `FAR` off.
        recovery: seconds from the first good image to TRACKING within `FOUND`; infinite if that never came.
        tracking: share of the frames at which the state was TRACKING.
        accepted: share of the frames whose localization was accepted.

    """

    seed: int
    scenario: str
    metres: float
    rmse: float
    worst: float
    wrong: float
    recovery: float
    tracking: float
    accepted: float


class MemoryDrive:
    """A drive under a scenario, to be replayed like a bag."""

    def __init__(self, drive: Drive, images: Sequence[ImageEvent], scenario: Scenario) -> None:
        """Replay a drive's sensors, and its images, rendered before, but for those that the scenario makes black."""
        self._drive = drive
        self._start = int(drive.trajectory.stamps[0])
        dark = self._start + np.array(scenario.black) * SECOND
        black = ImageEvent(0, "", _black_jpeg(drive))
        self._images = [
            replace(image, data=black.data) if dark[0] <= image.stamp < dark[1] else image for image in images
        ]
        self.source = f"{scenario.name} {drive.datum}"
        self.gnss_lever_arm = np.array(drive.gnss.lever_arm[:2])

    @property
    def datum(self) -> LocalFrame | None:
        """Of the town's frame."""
        return self._drive.datum

    @property
    def start(self) -> int:
        """Stamp of the first message, nanoseconds."""
        return self._start

    @property
    def end(self) -> int:
        """Stamp of the last message, nanoseconds."""
        return int(self._drive.trajectory.stamps[-1])

    def __iter__(self) -> Iterator[Event]:
        """Yield the messages by stamp."""
        sources: list[Iterable[Event]] = [self._drive.truth(), self._drive.odometry, self._drive.fixes, self._images]
        return iter(heapq.merge(*sources, key=lambda event: event.stamp))

    def frame(self, event: ImageEvent) -> Frame:
        """Decode an image."""
        return Frame(event.stamp, event.image(), self._drive.camera, self._drive.T_base_camera)


def run_scenario(
    drive: Drive, images: Sequence[ImageEvent], localizer: LocalizesFrames, *, seed: int, scenario: Scenario
) -> tuple[DriveRow, list[FrameRecord]]:
    """Localize a drive, whose images were rendered before, under a scenario."""
    again = record(
        drive.trajectory,
        drive.renderer,
        drive.datum,
        seed,
        camera=drive.camera,
        T_base_camera=drive.T_base_camera,
        gnss=scenario.gnss,
    )
    initial = None
    if scenario.initial_error is not None:
        initial = _wrong_pose(drive, scenario.initial_error, np.random.default_rng([seed, 3])), _INITIAL_COVARIANCE
    bag = MemoryDrive(again, images, scenario)
    frames = run_bag(bag, localizer, datum=drive.datum, initial_pose=initial).frames
    good = bag.start + round(scenario.black[1] * SECOND)
    return judge(frames, good_from=good, seed=seed, scenario=scenario.name, metres=drive.trajectory.distance), frames


def judge(frames: Sequence[FrameRecord], *, good_from: int, seed: int, scenario: str, metres: float) -> DriveRow:
    """Sum a drive up; images are good from the stamp ``good_from`` on."""
    known = [frame for frame in frames if frame.truth is not None and frame.fused is not None]
    error = {f.stamp: float(np.hypot(f.fused.x - f.truth.x, f.fused.y - f.truth.y)) for f in known}  # type: ignore[union-attr]
    tracking = [frame.state == "tracking" and frame.stamp in error for frame in frames]
    wrong = longest = 0
    for before, frame, sure in zip([None, *frames], frames, tracking, strict=False):
        if not sure or error[frame.stamp] <= FAR:
            wrong = 0
        elif before is not None:
            wrong += frame.stamp - before.stamp
            longest = max(longest, wrong)
    found = [
        frame.stamp
        for frame, sure in zip(frames, tracking, strict=True)
        if sure and frame.stamp >= good_from and error[frame.stamp] <= FOUND
    ]
    fused = np.array([error[frame.stamp] for frame in known if frame.tracked])
    return DriveRow(
        seed=seed,
        scenario=scenario,
        metres=metres,
        rmse=float(np.sqrt((fused**2).mean())) if len(fused) else float("inf"),
        worst=max((error[f.stamp] for f, sure in zip(frames, tracking, strict=True) if sure), default=0.0),
        wrong=longest / SECOND,
        recovery=(found[0] - good_from) / SECOND if found else float("inf"),
        tracking=float(np.mean(tracking)),
        accepted=float(np.mean([frame.accepted for frame in frames])),
    )


def make_drive(seed: int, *, duration: float = DURATION, image_rate: float = 5.0) -> tuple[Town, Drive]:
    """Make the town of a seed, larger than `TOWN_SIZE` if it has no streets for so long a drive, and the drive."""
    size = TOWN_SIZE
    while True:
        town = Town.generate(seed, size=size)
        try:
            return town, simulate_drive(town, seed, duration=duration, image_rate=image_rate)
        except ValueError:
            size += 200.0
            if size > 1200.0:
                raise


def run_seed(
    seed: int,
    *,
    scenarios: Sequence[Scenario] = SCENARIOS,
    image_rate: float = 5.0,
    method: str = "vote_flow",
    weights: str | None = None,
    duration: float = DURATION,
) -> list[DriveRow]:
    """Make the town of a seed, render a drive through it, and localize it under each scenario."""
    import torch

    from cvloc_ros.localization.localizer import load_localizer

    torch.set_num_threads(1)  # one drive a process
    cv2.setNumThreads(1)
    town, drive = make_drive(seed, duration=duration, image_rate=image_rate)
    images = list(drive.images(workers=1))
    with tempfile.TemporaryDirectory() as folder:
        satellite_map = SatelliteMap.open(write_orthophoto(town, Path(folder) / "map.tif"), town.datum)
        localizer = load_localizer(satellite_map, method=method, weights=weights, device="cpu")
        return [run_scenario(drive, images, localizer, seed=seed, scenario=scenario)[0] for scenario in scenarios]


def run_drives(
    count: int,
    *,
    workers: int,
    progress: Callable[[list[DriveRow]], None] = lambda rows: None,
    scenarios: Sequence[Scenario] = SCENARIOS,
    image_rate: float = 5.0,
    method: str = "vote_flow",
    weights: str | None = None,
) -> list[DriveRow]:
    """Run the first ``count`` test towns in worker processes; ``progress`` is told the rows of each as it is done.

    Raises:
        WeightsError: the weights do not load.

    """
    context = multiprocessing.get_context("spawn")
    job = partial(run_seed, scenarios=scenarios, image_rate=image_rate, method=method, weights=weights)
    rows: list[DriveRow] = []
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(job, TEST_TOWNS + k) for k in range(count)]):
            rows += done.result()
            progress(done.result())
    return rows


COLUMNS = ("scenario", "seed", "RMSE m", "worst m", "wrong s", "found s", "sure", "used")
LEGEND = (
    f"worst: error while TRACKING; wrong: longest time TRACKING and over {FAR:g} m off; found: from the first good "
    f"image to TRACKING within {FOUND:g} m; sure: share of the images at which it was TRACKING; used: share accepted"
)


def table_rows(rows: Sequence[DriveRow]) -> list[list[str]]:
    """Return the table as rows of text under `COLUMNS`: by scenario, each drive and then the worst of each column."""
    table = []
    for name in dict.fromkeys(row.scenario for row in rows):
        of = sorted((row for row in rows if row.scenario == name), key=lambda row: row.seed)
        table += [_cells(row, str(row.seed)) for row in of]
        extremes = {key: max(getattr(row, key) for row in of) for key in ("rmse", "worst", "wrong", "recovery")}
        extremes |= {key: min(getattr(row, key) for row in of) for key in ("tracking", "accepted")}
        table.append(_cells(replace(of[0], **extremes), f"worst of {len(of)}"))
    return table


def _cells(row: DriveRow, label: str) -> list[str]:
    metres = [f"{value:.2f}" for value in (row.rmse, row.worst)]
    seconds = [f"{value:.1f}" for value in (row.wrong, row.recovery)]
    return [row.scenario, label, *metres, *seconds, f"{100 * row.tracking:.0f} %", f"{100 * row.accepted:.0f} %"]


def write_drives(rows: Sequence[DriveRow], out: Path) -> None:
    """Write ``town_drives.json``, where null stands for infinite, and ``town_drives.md`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    finite = [{key: None if value == float("inf") else value for key, value in asdict(row).items()} for row in rows]
    (out / "town_drives.json").write_text(json.dumps(finite, indent=1) + "\n")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells) + " |" for cells in table_rows(rows)]
    (out / "town_drives.md").write_text("\n".join([*lines, "", LEGEND]) + "\n")


def _wrong_pose(drive: Drive, error: tuple[float, float], rng: np.random.Generator) -> SE2:
    """Return the first pose, moved and turned in directions that ``rng`` chooses."""
    truth = drive.trajectory.at(int(drive.trajectory.stamps[0])).T_map_base
    angle, turn = rng.uniform(-np.pi, np.pi), rng.choice([-1, 1]) * np.radians(error[1])
    away = error[0] * np.array([np.cos(angle), np.sin(angle)])
    return SE2(truth.x + float(away[0]), truth.y + float(away[1]), truth.yaw + float(turn))


def _black_jpeg(drive: Drive) -> np.ndarray:
    picture = np.zeros((drive.camera.height, drive.camera.width, 3), np.uint8)
    return cv2.imencode(".jpg", picture)[1].ravel()
