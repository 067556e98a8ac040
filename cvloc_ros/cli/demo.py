"""`cvloc demo`: the main job from nothing: make a drive, play it over DDS into the node, judge what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cvloc_ros.ros.visuals.scene import Scene

DURATION = 75.0  # seconds
TOWN_SIZE = 500.0  # metres
VIEW_RADIUS = 50.0  # metres around the vehicle in markers.png
VIEW_AT = 0.8  # share of the drive after which overlay.png and markers.png are taken: GNSS is back


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the world (world/) and the results.")] = Path("out/demo"),
    rate: Annotated[float, typer.Option(min=0.1, max=4.0, help="Seconds of the drive in a second.")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:i].")] = "auto",
) -> None:
    """Watch a vehicle being localized: nothing to download, a few minutes on two cores.

    A town that the network was not trained on is made, with its orthophoto. A vehicle drives through it with a
    camera, GNSS that is more than five metres off and fails for a while, and odometry that drifts. The recording is
    played in real time over DDS into the node, and what the node publishes is compared with the truth.

    Writes OUT/world (map.tif and the bag, kept for the next time) and the same files as `cvloc run`: report.html,
    pictures/, summary.json, trajectory.tum, frames.csv, run.mcap. Moreover, from late in the drive, what viewers
    get of one image: overlay.png (the match picture) and markers.png (RViz's view from above).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from cvloc_ros.evaluation.outputs import write_outputs
    from cvloc_ros.evaluation.summary_table import print_summary
    from cvloc_ros.ros.live_run import Heard, run_live

    views: list[Scene] = []
    console = Console()
    world = out / "world"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("making the town and its drive", total=1.0, note="")
        imagery, bag = make_world(world, lambda share: bar.update(task, completed=share))
        task = bar.add_task("playing the drive into the node", total=1.0, note="node starts")

        def listen(share: float, heard: Heard) -> None:
            if heard.frames:
                accepted = sum(frame.accepted for frame in heard.frames)
                note = f"{heard.frames[-1].state}, {accepted}/{len(heard.frames)} frames"
                bar.update(task, completed=share, note=note)
            if share > VIEW_AT and not views and heard.scene.image_stamp() is not None:
                views.append(heard.scene.copy())

        parameters = {"device": device}
        result = run_live(bag, str(imagery), parameters=parameters, rate=rate, log=out / "node.log", progress=listen)
        bar.update(task, completed=1.0)
        task = bar.add_task("writing the report", total=None, note="")
        summary = write_outputs(result, out)
        for view in views:
            write_view(view, out)
        bar.update(task, total=1.0, completed=1.0)
    print_summary(summary, console=console)
    console.print(f"look at  {out / 'report.html'}", soft_wrap=True, highlight=False)
    console.print(f"again    cvloc run {bag} --imagery {imagery} --out out/run", soft_wrap=True, highlight=False)
    if not summary["localized"]:
        raise typer.Exit(1)


def write_view(scene: Scene, folder: Path) -> None:
    """Write what viewers get of one image: the match picture, and the markers from above."""
    import cv2

    from cvloc_ros.ros.visuals.render import draw_scene

    assert scene.overlay is not None
    vehicle = scene.markers["markers"]["estimate", 0].pose.position
    above = draw_scene(scene, x=vehicle.x, y=vehicle.y, radius=VIEW_RADIUS)
    for name, picture in (("overlay", scene.overlay), ("markers", above)):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def make_world(folder: Path, progress: Callable[[float], None]) -> tuple[Path, Path]:
    """Return imagery and bag of the demo's world, which is made unless it is there."""
    import json

    from cvloc_ros import __version__
    from cvloc_ros.datasets.town import Town, write_orthophoto
    from cvloc_ros.datasets.town.bag_writer import write_drive_bag
    from cvloc_ros.datasets.town.drive import simulate_drive
    from cvloc_ros.datasets.town.seeds import DEMO_TOWN

    imagery, bag, manifest = folder / "map.tif", folder / "drive", folder / "world.json"
    recipe = {"version": __version__, "seed": DEMO_TOWN, "duration": DURATION, "size": TOWN_SIZE}
    if manifest.exists() and json.loads(manifest.read_text()) == recipe:
        progress(1.0)
        return imagery, bag
    _remove(folder)
    folder.mkdir(parents=True)
    town = Town.generate(DEMO_TOWN, size=TOWN_SIZE)
    write_orthophoto(town, imagery)
    drive = simulate_drive(town, DEMO_TOWN, duration=DURATION)
    write_drive_bag(bag, drive, progress=lambda done, total: progress(done / total))
    manifest.write_text(json.dumps(recipe) + "\n")  # last: it says that all is there
    return imagery, bag


def _remove(folder: Path) -> None:
    """Remove a world that is incomplete or of another version."""
    import shutil

    for name in ("map.tif", "world.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "drive", ignore_errors=True)
    if folder.exists():
        folder.rmdir()
