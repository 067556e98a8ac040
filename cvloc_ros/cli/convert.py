"""`cvloc convert`: recordings of other formats as rosbag2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A drive of KITTI raw (…/2011_09_26/2011_09_26_drive_0001_sync), a traversal of Oxford RobotCar "
            "(…/2015-08-14-14-54-57) or a ROS 1 .bag."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the new bag; it must not be there.")],
    odometry: Annotated[
        Path | None,
        typer.Option(
            help="KITTI: the trajectory that a visual odometry has found of the left colour camera, instead of the "
            "GPS/IMU's velocities; in KITTI's format (12 numbers a line, a line for each image) or TUM's (time x y z "
            "qx qy qz qw; seconds since 1970 or since the first image).",
            metavar="FILE",
        ),
    ] = None,
    gnss_error: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=100.0,
            help="KITTI: metres of error (standard deviation per axis) to add to the fixes, wandering within a minute. "
            "0 leaves them as recorded: that is the truth itself. Default: 5.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="KITTI: of that error. Default: 0.")] = None,
    sdk: Annotated[
        Path | None,
        typer.Option(
            help="Oxford: the RobotCar SDK's folder, with models/ and extrinsics/. Default: beside the traversal."
        ),
    ] = None,
) -> None:
    """Convert a recording to a rosbag2 (MCAP), which `cvloc run`, `cvloc play` and the node replay.

    KITTI raw: images as they are (PNG), the date's own calibration. Truth is the GPS/IMU's pose. Odometry is the
    GPS/IMU's velocities and yaw rate, integrated: never its poses, but better than wheels; say so with your results. Or
    it is your visual odometry's (--odometry), carried over to base_link by the calibration: poses of the camera (x
    right, y down, z forward) in metres. Those of the grey cameras differ by centimetres, in curves. Fixes: see
    --gnss-error. Not in the bag: the recorded orientation, which is the truth's.

    Oxford RobotCar: stereo/centre, colours restored and undistorted (JPEG). Odometry is always the visual odometry that
    was released with it (vo/vo.csv), fixes are the receiver's (gps/gps.csv), Imu the inertial sensor's attitude
    (gps/ins.csv). Truth is the RTK solution (rtk.csv in the traversal's folder); without that file the bag has none.

    ROS 1 bags: every topic whose type ROS 2 has, with its name and times.

    What odometry, fixes and truth are stands in the bag's metadata, and `cvloc run` repeats it beside its results.
    The bag appears when it is complete; interrupted work leaves nothing behind.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from cvloc_ros.datasets.bag_writing import write_bag
    from cvloc_ros.datasets.convert import open_recording

    console = Console(highlight=False, soft_wrap=True)
    try:
        recording = open_recording(source, odometry=odometry, gnss_error=gnss_error, seed=seed, sdk=sdk)
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"converting the {recording.kind}", total=max(1, recording.end - recording.start))
            counts = write_bag(
                out,
                recording.messages(),
                latched=recording.latched,
                notes=recording.notes,
                progress=lambda stamp: bar.update(task, completed=stamp - recording.start),
            )
    except KeyboardInterrupt:
        console.print("interrupted: no bag was written")
        raise typer.Exit(130) from None
    seconds = (recording.end - recording.start) * 1e-9
    console.print(f"{recording.kind}, {seconds:.1f} s, written to {out}")
    for topic, count in sorted(counts.items()):
        console.print(f"  {topic}  {count}")
    for note in recording.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
