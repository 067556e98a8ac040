"""One drive under each scenario of `cvloc eval town-drives`, over DDS through the real node and offline, side by side.

The town and the drive are those of a test seed. Offline is the loop of `cvloc run` on the same bag; live, node and
player are processes of their own and the bag is played in real time, or at `--rate` where the machine is too busy for
that. Writes OUT/live_drives.md after each scenario; exits with 1 if the node was TRACKING and over 5 m wrong for over
2 s, or did not recover within 10 s of good images.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.town import write_orthophoto
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.datasets.town.sensors import SECOND
from cvloc_ros.evaluation.run import run_bag
from cvloc_ros.evaluation.town_drives import COLUMNS, LEGEND, DriveRow, judge, table_rows
from cvloc_ros.evaluation.town_scenarios import SCENARIOS, make_drive
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.localizer import load_localizer
from cvloc_ros.ros.live_run import Heard, run_live

MOST_WRONG = 2.0  # seconds
MOST_RECOVERY = 10.0  # seconds


def main() -> None:
    """Parse the command line, run, judge."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/live_drives"), help="folder for bags, logs and table")
    parser.add_argument("--seed", type=int, default=0, help="which of the test towns, 0 and up")
    parser.add_argument("--image-rate", type=float, default=10.0, help="images a second")
    parser.add_argument("--rate", type=float, default=1.0, help="seconds of the drive in a second of real time")
    parser.add_argument("--scenario", choices=names, action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    seed, out = TEST_TOWNS + arguments.seed, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    print(f"making town {seed} and its drive")
    town, drive = make_drive(seed, image_rate=arguments.image_rate)
    images = list(drive.images(workers=2))
    imagery = write_orthophoto(town, out / "map.tif")
    localizer = load_localizer(SatelliteMap.open(imagery, town.datum), device="cpu")
    rows: list[DriveRow] = []
    for scenario in SCENARIOS:
        if arguments.scenario and scenario.name not in arguments.scenario:
            continue
        folder = out / scenario.name
        shutil.rmtree(folder, ignore_errors=True)
        write_drive_bag(folder, scenario.sensors(drive, seed), images=scenario.images(drive, images))
        bag, pose = Bag.open(folder), scenario.initial_pose(drive, seed)
        offline = run_bag(bag, localizer, datum=town.datum, initial_pose=pose)
        print(f"{scenario.name}: offline done, now live for {(bag.end - bag.start) / SECOND / arguments.rate:.0f} s")
        log = out / f"{scenario.name}.log"
        live = run_live(folder, str(imagery), initial_pose=pose, rate=arguments.rate, log=log, progress=_show)
        print(f"\n{scenario.name}: {live.dropped} of {len(images)} images dropped live, while the node was busy")
        good = bag.start + round(scenario.black[1] * SECOND)
        for name, result in (("offline", offline), ("live", live)):
            judged = {"seed": seed, "scenario": f"{scenario.name}, {name}", "metres": drive.trajectory.distance}
            rows.append(judge(result.frames, good_from=good, **judged))
        (out / "live_drives.md").write_text(_table(rows))  # after each: an interrupted run leaves what it has
    print(_table(rows))
    live_rows = [row for row in rows if row.scenario.endswith("live")]
    raise SystemExit(any(row.wrong > MOST_WRONG or row.recovery > MOST_RECOVERY for row in live_rows))


def _table(rows: list[DriveRow]) -> str:
    cells = [row for row in table_rows(rows) if not row[1].startswith("worst")]
    lines = ["| " + " | ".join(row) + " |" for row in (list(COLUMNS), ["---"] * len(COLUMNS), *cells)]
    return "\n".join([*lines, "", LEGEND]) + "\n"


def _show(share: float, heard: Heard) -> None:
    state = heard.frames[-1].state if heard.frames else "starting"
    print(f"\r{100 * share:3.0f} % {state:<14}", end="", flush=True)


if __name__ == "__main__":
    main()
