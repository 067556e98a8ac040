"""Play a drive in a loop into the real node for hours, and judge whether memory and latency stay what they were.

Node and player are processes of their own, over DDS, as in `cvloc demo`; this one looks on, as a viewer with RViz
open does. Every few seconds a row goes to OUT/soak.csv; at the end (or when it is interrupted) OUT/soak.png shows
memory, latency and errors over time with every loop marked, and OUT/verdict.txt says, one line each, whether

- the node's memory stayed within 50 MB of what it was after the warm-up (of a tenth of the time, at most ten minutes),
- the time from image to pose did not grow: the median of the last third is at most 1.25 times that of the first,
- every loop localized: as large a share of its images was accepted, within 5 %, as in the first whole one.

The exit status is 0 if all of it is so.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from matplotlib.figure import Figure
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from cvloc_ros.cli.demo import make_world
from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.events import TruthEvent
from cvloc_ros.evaluation.records import FrameRecord, pose_track
from cvloc_ros.ros import frame_status, qos
from cvloc_ros.ros.environment import local_environment
from cvloc_ros.ros.processes import Process, node_command, player_command, start, stop
from cvloc_ros.ros.visuals.scene import TOPICS

FLAT_MB = 50.0
MOST_GROWTH = 1.25
SHARE_SLACK = 0.05
WARM_UP = 600.0  # seconds, at most


@dataclass
class Row:
    """What was seen since the row before.

    Attributes:
        seconds: since the start.
        loop: passes of the bag that are complete.
        memory_mb: of the node, resident.
        player_mb: of the player, resident.
        cpu_ms: of the node, for every image.
        load: of the machine, mean of a minute.
        state: the tracker's.
        frames: images that the node looked at.
        accepted: of these.
        dropped: images that came while it was busy.
        median_ms: from image to pose.
        p95_ms: the same.
        error_m: median error of the track's position; not a number without truth or track.
        complaints: statuses that are not OK.

    """

    seconds: float
    loop: int
    memory_mb: float
    player_mb: float
    cpu_ms: float
    load: float
    state: str
    frames: int
    accepted: int
    dropped: int
    median_ms: float
    p95_ms: float
    error_m: float
    complaints: str


class Watcher(Node):
    """Listens to everything that the node says, and keeps what a row needs."""

    def __init__(self, bag: Bag, *, context: Context) -> None:
        """Read the bag's truth, and subscribe."""
        super().__init__("cvloc_soak", context=context)
        self.truth = pose_track([(event.stamp, event.T_map_base) for event in bag if isinstance(event, TruthEvent)])
        self.values: dict[str, str] = {}
        self.bad: list[str] = []
        self.frames: list[FrameRecord] = []
        self.loop = 0
        self.dropped = self._dropped_before = self._newest = 0
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, qos.OUTPUT)
        self.create_subscription(DiagnosticArray, "/cvloc/frame_status", self._frame, qos.OUTPUT)
        for topic, (message_type, profile) in TOPICS.items():
            self.create_subscription(message_type, f"/cvloc/{topic}", lambda message: None, profile)

    def _diagnostics(self, message: DiagnosticArray) -> None:
        self.values = {entry.key: entry.value for status in message.status for entry in status.values}
        self.bad = [status.name.removeprefix("cvloc: ") for status in message.status if status.level != b"\x00"]
        dropped = int(self.values["dropped"])  # since the last reset
        self.dropped += dropped - self._dropped_before if dropped >= self._dropped_before else dropped
        self._dropped_before = dropped

    def _frame(self, message: DiagnosticArray) -> None:
        frame = frame_status.decode(message)
        if frame.reason == "reset":  # it was under way when the bag began again
            return
        self.loop += frame.stamp < self._newest - 1_000_000_000
        self._newest = frame.stamp
        self.frames.append(frame)

    def row(self, seconds: float, loop: int, player: Process, cpu_seconds: float) -> Row:
        """Return what came since the last call, and forget it."""
        frames, dropped = self.frames, self.dropped
        self.frames, self.dropped = [], 0
        times = [frame.milliseconds["total"] for frame in frames if frame.milliseconds] or [np.nan]
        errors = [
            float(np.hypot(frame.fused.x - truth.x, frame.fused.y - truth.y))
            for frame in frames
            if frame.tracked and (truth := self.truth.at(frame.stamp)) is not None
        ]
        return Row(
            seconds=round(seconds, 1),
            loop=loop,
            memory_mb=float(self.values["memory_mb"]),
            player_mb=round(memory(player), 1),
            cpu_ms=round(1e3 * cpu_seconds / max(1, len(frames)), 1),
            load=os.getloadavg()[0],
            state=self.values.get("state", ""),
            frames=len(frames),
            accepted=sum(frame.accepted for frame in frames),
            dropped=dropped,
            median_ms=round(float(np.median(times)), 1),
            p95_ms=round(float(np.percentile(times, 95)), 1),
            error_m=round(float(np.median(errors)), 3) if errors else np.nan,
            complaints=" ".join(self.bad),
        )


def memory(process: Process) -> float:
    """Return the resident memory of a process, MB."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu(process: Process) -> float:
    """Return the seconds that the processor has spent on a process."""
    values = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def soak(bag: Bag, imagery: str, out: Path, *, seconds: float, period: float) -> list[Row]:
    """Run node and player, and return the rows; ended early by an interrupt, those that there are."""
    environment = local_environment(os.environ)
    os.environ.update(environment)
    context = Context()
    rclpy.init(context=context)
    watcher = Watcher(bag, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(watcher)
    rows: list[Row] = []
    node = player = None
    with (out / "node.log").open("wb") as log, (out / "soak.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Row)])
        writer.writeheader()
        try:
            node = start(node_command(bag, imagery, bag.datum, {}), environment, log)
            player = start(player_command(bag, loop=True), environment, log)
            while not watcher.frames:
                executor.spin_once(timeout_sec=0.2)
                alive(node, player)
            began = last = time.monotonic()
            loop, spent = 0, cpu(node)
            while last - began < seconds:
                executor.spin_once(timeout_sec=0.2)
                alive(node, player)
                now = time.monotonic()
                if not watcher.values or (now - last < period and watcher.loop == loop):
                    continue
                rows.append(watcher.row(now - began, loop, player, cpu(node) - spent))
                last, loop, spent = now, watcher.loop, cpu(node)
                writer.writerow(asdict(rows[-1]))
                table.flush()
                print(" ".join(f"{key}={value}" for key, value in asdict(rows[-1]).items()), flush=True)
        except KeyboardInterrupt:
            print("interrupted: judging what there is")
        finally:
            for process in (player, node):
                stop(process)
            executor.shutdown()
            watcher.destroy_node()
            rclpy.try_shutdown(context=context)
    return rows


def alive(*processes: Process) -> None:
    """Raise SystemExit if a process has ended."""
    if any(process.poll() is not None for process in processes):
        raise SystemExit("node or player ended early: see node.log")


def judge(rows: list[Row]) -> tuple[bool, list[str]]:
    """Return whether all is well, and a line for each thing that was looked at."""
    length = rows[-1].seconds
    warm = [row for row in rows if row.seconds > min(WARM_UP, length / 10)]
    settled = np.array([row.memory_mb for row in warm])
    slope = np.polyfit([row.seconds / 3600 for row in warm], settled, 1)[0]
    thirds = [
        np.nanmedian([row.median_ms for row in part]) for part in (warm[: len(warm) // 3], warm[-len(warm) // 3 :])
    ]
    frames, accepted = Counter[int](), Counter[int]()
    for row in rows:
        frames[row.loop] += row.frames
        accepted[row.loop] += row.accepted
    shares = [accepted[loop] / max(1, frames[loop]) for loop in range(rows[-1].loop)]  # the last one is incomplete
    worst = min(shares, default=0.0)
    drift = float(np.abs(settled - settled[0]).max())
    errors = [row.error_m for row in warm]
    verdicts = [
        (drift <= FLAT_MB, f"memory: {settled[0]:.0f} MB after the warm-up, at most {drift:.0f} MB away from it since, "
         f"{slope:+.1f} MB an hour (fit); player {warm[0].player_mb:.0f} -> {warm[-1].player_mb:.0f} MB"),
        (thirds[1] <= MOST_GROWTH * thirds[0], f"latency: median {thirds[0]:.0f} ms in the first third, "
         f"{thirds[1]:.0f} ms in the last; CPU an image {np.median([row.cpu_ms for row in warm]):.0f} ms"),
        (bool(shares) and worst >= shares[0] - SHARE_SLACK, f"loops: {len(shares)} whole ones; {100 * worst:.0f} % of "
         f"the images accepted in the worst, {100 * (shares or [0.0])[0]:.0f} % in the first; "
         f"median error {np.nanmedian(errors):.2f} m"),
    ]  # fmt: skip
    lines = [f"{'good' if good else 'BAD '}  {text}" for good, text in verdicts]
    seen = sum(frames.values())
    dropped = sum(row.dropped for row in rows)
    lines.append(f"      {length / 3600:.2f} h, {seen} images looked at, {dropped} dropped while the node was busy")
    return all(good for good, _ in verdicts), lines


def plot(rows: list[Row], path: Path, *, title: str) -> None:
    """Draw memory, latency and error over time, with a line where the bag begins again."""
    hours = np.array([row.seconds for row in rows]) / 3600
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].plot(hours, [row.memory_mb for row in rows], label="node")
    axes[0].plot(hours, [row.player_mb for row in rows], label="player")
    axes[0].set(ylabel="resident memory (MB)", ylim=(0, None))
    axes[1].plot(hours, [row.p95_ms for row in rows], label="95th percentile", color="tab:orange", linewidth=0.8)
    axes[1].plot(hours, [row.median_ms for row in rows], label="median")
    axes[1].plot(hours, [row.cpu_ms for row in rows], label="CPU an image", color="tab:green", linewidth=0.8)
    axes[1].set(ylabel="image to pose (ms)", ylim=(0, None))
    axes[2].plot(hours, [row.error_m for row in rows], label="fused position, median")
    axes[2].set(ylabel="error (m)", xlabel="hours", ylim=(0, None))
    for axis in axes:
        for before, after in zip(rows, rows[1:], strict=False):
            if after.loop > before.loop:
                axis.axvline(after.seconds / 3600, color="0.85", linewidth=0.8, zorder=0)
        axis.legend(loc="lower right")
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line, soak, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder for the results")
    parser.add_argument("--hours", type=float, default=2.0, help="how long")
    parser.add_argument("--period", type=float, default=5.0, help="seconds between two rows")
    parser.add_argument("--bag", type=Path, help="a rosbag2 to play; without one the demo's unseen town is made")
    parser.add_argument("--imagery", help="the bag's satellite image")
    arguments = parser.parse_args()
    if (arguments.bag is None) != (arguments.imagery is None):
        parser.error("expected --bag and --imagery together")
    arguments.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    source, imagery = arguments.bag, arguments.imagery
    if source is None:
        print("making the town and its drive, unless they are there")
        imagery, source = make_world(arguments.out / "world", lambda share: None)
    bag = Bag.open(source)
    rows = soak(bag, str(imagery), arguments.out, seconds=3600 * arguments.hours, period=arguments.period)
    if len(rows) < 10:
        raise SystemExit(f"too short to judge: {len(rows)} rows")
    good, lines = judge(rows)
    plot(
        rows,
        arguments.out / "soak.png",
        title=f"{rows[-1].loop} loops of a drive of {(bag.end - bag.start) / 1e9:.0f} s",
    )
    (arguments.out / "verdict.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
