"""Drives through unseen towns under hard conditions: how accurate, how soon recovered, how long wrong and sure of it.

Every drive is made from its seed: the town, the route, the light and every error of the sensors. Each is localized in
memory under every `Scenario`, by the very loop of `cvloc run`, and leaves one `DriveRow`.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town import write_orthophoto
from cvloc_ros.datasets.town.drive import Drive
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.datasets.town.sensors import SECOND
from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.evaluation.run import run_bag
from cvloc_ros.evaluation.town_scenarios import DURATION, SCENARIOS, MemoryDrive, Scenario, make_drive
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.session import LocalizesFrames

FAR = 5.0  # metres: so wrong a pose must not be called TRACKING
FOUND = 2.0  # metres: within this, and TRACKING, a pose counts as recovered


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


def run_scenario(
    drive: Drive, images: Sequence[ImageEvent], localizer: LocalizesFrames, *, seed: int, scenario: Scenario
) -> tuple[DriveRow, list[FrameRecord]]:
    """Localize a drive, whose images were rendered before, under a scenario."""
    bag = MemoryDrive(scenario.sensors(drive, seed), scenario.images(drive, images))
    frames = run_bag(bag, localizer, datum=drive.datum, initial_pose=scenario.initial_pose(drive, seed)).frames
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
