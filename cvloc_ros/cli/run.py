"""`cvloc run`: localize a recorded drive without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from cvloc_ros.geometry import SE2, LocalFrame

START_RADIUS, START_YAW = 20.0, 10.0  # metres and degrees by which a start may be wrong
MOUNT_HELP = (
    "Where the camera sits on base_link, instead of what the bag's TF says: metres forward, left and above the ground, "
    "then degrees of roll, pitch (down is positive) and yaw (left is positive) of its view."
)


def run(
    source: Annotated[
        Path,
        typer.Argument(
            help="A rosbag2 folder, a single .mcap, .db3 or ROS 1 .bag file, or a drive of KITTI raw or Oxford "
            "RobotCar, which is read as `cvloc convert` converts it without options."
        ),
    ],
    imagery: Annotated[
        str,
        typer.Option(
            help="Satellite imagery: a raster, a folder of tiles, a tile server's template; see doc/imagery.md."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.")] = Path("out/run"),
    method: Annotated[str, typer.Option(help="Matching method: vote_flow or dense_flow.")] = "vote_flow",
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file with its card beside it, instead of the shipped weights.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:i].")] = "auto",
    datum: Annotated[
        str | None,
        typer.Option(
            help="Origin of the map as 'latitude,longitude' in degrees. Default: the bag's datum topic, else its "
            "first fix, else the imagery's centre. A truth without a datum topic is taken to be in this map.",
            metavar="LAT,LON",
        ),
    ] = None,
    topics: Annotated[
        list[str] | None,
        typer.Option(
            help="Which topic is which where that cannot be guessed, once for each: image=/front/image_raw. Roles: "
            "image, camera_info, odom, fix, ground_truth, datum; an empty topic leaves a role out.",
            metavar="ROLE=TOPIC",
        ),
    ] = None,
    mount: Annotated[str | None, typer.Option(help=MOUNT_HELP, metavar="X,Y,Z,ROLL,PITCH,YAW")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Where the drive begins, as RViz's 2D Pose Estimate tells the node: metres east and north in the map "
            "of the datum (0,0 is the datum itself), degrees counter-clockwise from east; good to ±20 m and ±10°. "
            "With --topics fix= the drive then runs without GNSS.",
            metavar="EAST,NORTH,YAW",
        ),
    ] = None,
) -> None:
    """Localize a recorded drive, as the ROS node would, and write trajectory, report and bag.

    The images, camera info, odometry and GNSS of SOURCE go through the very objects that the node runs, in the order
    in which they were recorded. Writes to OUT: summary.json, trajectory.tum and, if it is known, truth.tum (for evo),
    frames.csv, run.mcap (opens in RViz, Foxglove, Lichtblick, Rerun) and report.html with its pictures.
    """
    import tempfile
    from dataclasses import replace

    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from cvloc_ros.evaluation.outputs import write_outputs
    from cvloc_ros.evaluation.run import localize_bag
    from cvloc_ros.evaluation.summary_table import print_summary

    map_datum, by_role, T_base_camera = parse_datum(datum), parse_topics(topics or []), parse_mount(mount)
    initial_pose = parse_start(start)
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".recording-", dir=out) as folder,
        Progress(console=console) as bar,
    ):
        bag = _as_bag(source, Path(folder), bar)
        task = bar.add_task("localizing", total=1.0)
        result = localize_bag(
            bag,
            imagery,
            datum=map_datum,
            topics=by_role,
            method=method,
            weights=str(weights) if weights else None,
            device=device,
            T_base_camera=T_base_camera,
            initial_pose=initial_pose,
            progress=lambda share: bar.update(task, completed=share),
        )
        result = replace(result, source=str(source))
        bar.add_task("writing the report", total=None)
        summary = write_outputs(result, out)
    print_summary(summary, console=console)
    for note in result.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True, highlight=False)
    if result.attribution:
        console.print(f"imagery: {escape(result.attribution)}", soft_wrap=True, highlight=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)
    if not summary["localized"]:
        raise typer.Exit(1)


def _as_bag(source: Path, folder: Path, bar: Progress) -> Path:
    """Return what `Bag` reads: the source itself, or a drive of a data set as a bag in a folder."""
    from cvloc_ros.datasets.bag_writing import write_bag
    from cvloc_ros.datasets.convert import NO_DRIVE, is_date, is_drive, open_recording
    from cvloc_ros.datasets.files import DatasetError

    if is_date(source):
        raise DatasetError(f"expected a bag or a drive at {source}, but {NO_DRIVE}")
    if not is_drive(source):
        return source
    recording = open_recording(source)
    task = bar.add_task(f"reading the {recording.kind}", total=max(1, recording.end - recording.start))
    write_bag(
        folder / source.resolve().name,
        recording.messages(),
        latched=recording.latched,
        notes=recording.notes,
        progress=lambda stamp: bar.update(task, completed=stamp - recording.start),
    )
    return folder / source.resolve().name


def parse_datum(text: str | None, option: str = "--datum") -> LocalFrame | None:
    """Read 'latitude,longitude' or 'latitude,longitude,altitude'; raises typer.BadParameter."""
    from cvloc_ros.geometry import LocalFrame

    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) not in (2, 3):
            raise ValueError("expected two or three numbers")
        return LocalFrame(*numbers)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected 'latitude,longitude' in degrees, such as 49.0125,8.4269; got {text!r}: {error}",
            param_hint=option,
        ) from None


def parse_topics(pairs: list[str]) -> dict[str, str]:
    """Read role=topic pairs; raises typer.BadParameter."""
    topics = {}
    for pair in pairs:
        role, separator, topic = pair.replace(":=", "=").partition("=")  # := is how ROS writes a remapping
        if not separator or not role:
            raise typer.BadParameter(
                f"expected ROLE=TOPIC, such as image=/front/image_raw; got {pair!r}", param_hint="--topics"
            )
        topics[role] = topic
    return topics


def parse_mount(text: str | None) -> np.ndarray | None:
    """Read 'x,y,z,roll,pitch,yaw' (m, degrees) as ``T_base_camera``; raises typer.BadParameter."""
    import numpy as np

    from cvloc_ros.geometry import camera_extrinsics

    if text is None:
        return None
    try:
        x, y, z, *degrees = (float(part) for part in text.split(","))
        roll, pitch, yaw = np.radians(degrees)
        if not (np.isfinite([x, y, z, roll, pitch, yaw]).all() and z > 0):
            raise ValueError("the camera must be above the ground")
    except ValueError as error:
        raise typer.BadParameter(
            f"expected six numbers x,y,z,roll,pitch,yaw in metres and degrees, such as 1.2,0,1.65,0,2,0; got {text!r}: "
            f"{error}",
            param_hint="--mount",
        ) from None
    return camera_extrinsics(x=x, y=y, height=z, roll=roll, pitch=pitch, yaw=yaw)


def parse_start(text: str | None) -> tuple[SE2, np.ndarray] | None:
    """Read 'east,north,yaw' (m, degrees) as ``T_map_base`` and its 3x3 covariance; raises typer.BadParameter."""
    import numpy as np

    from cvloc_ros.datasets.item import box_prior
    from cvloc_ros.geometry import SE2

    if text is None:
        return None
    try:
        east, north, yaw = (float(part) for part in text.split(","))
        if not np.isfinite([east, north, yaw]).all():
            raise ValueError("expected finite numbers")
    except ValueError as error:
        raise typer.BadParameter(
            f"expected three numbers east,north,yaw in metres and degrees, such as 12.5,-40,90; got {text!r}: {error}",
            param_hint="--start",
        ) from None
    T_map_base = SE2(east, north, float(np.radians(yaw)))
    return T_map_base, box_prior(T_map_base, radius=START_RADIUS, yaw=np.radians(START_YAW)).covariance
