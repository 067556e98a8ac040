"""`cvloc bench`: where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

_VARIANTS = ("eager", "fast")


def bench(
    frames: Annotated[int, typer.Option(min=5, help="Frames to time.")] = 60,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="vote_flow or dense_flow; may be given twice.", show_default="vote_flow"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file of the one method; the shipped weights if omitted.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="small: what is shipped; full: dense_flow in the paper's size, which is not trained.")
    ] = "small",
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", help="auto, cpu or cuda; may be given twice.", show_default="auto"),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(min=1, help="CPU threads of an image, and of a new patch; 1 is what the node takes."),
    ] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows of all tables to this file.")] = None,
) -> None:
    """Time every stage from the encoded image to the pose's message, and the rendering of training pairs.

    Two variants take turns, frame by frame, in one process: "fast" is what drives, "eager" the network as it was
    trained, in fp32, with a patch of its own for every frame. Shown are medians and 95th percentiles; the ratio is
    eager's median to fast's. Each method on each device is a table.
    "ahead" is what fast does before an image comes, as the node does between images: where the next frame is expected,
    it cuts a new patch and describes it. That is no part of "total", which is from image to pose, but of the frames a
    second. Without ROS there are no messages, and no stage "publish". A GPU works behind the CPU: what it takes for
    eager's patch counts as "vote and solve", and so does all of the network where it is replayed as one.
    """
    import json
    from itertools import product

    from rich.console import Console
    from rich.progress import Progress

    from cvloc_ros.evaluation.bench import bench_localizers, rendering_time, untrained_localizer
    from cvloc_ros.localization.localizer import Localizer, load_localizer
    from cvloc_ros.models.weights import METHODS, choose_device
    from cvloc_ros.ros.resources import set_up_process

    try:
        from cvloc_ros.ros.image_messages import serialize as publish
    except ImportError:  # no ROS
        publish = None  # type: ignore[assignment]

    methods = methods or ["vote_flow"]
    for method in methods:
        if method not in METHODS:
            raise typer.BadParameter(f"expected one of {', '.join(METHODS)}, got {method}", param_hint="--method")
    devices = list(dict.fromkeys(choose_device(device) for device in devices or ["auto"]))
    file = None if weights is None else str(weights)
    if preset not in ("small", "full") or (preset == "full" and (methods != ["dense_flow"] or file)):
        raise typer.BadParameter(
            "expected small, or full with --method dense_flow and no --weights, got "
            f"{preset} with {', '.join(methods)}{' and weights' if file else ''}",
            param_hint="--preset",
        )
    if file and len(methods) > 1:
        raise typer.BadParameter(f"expected one --method with it, got {', '.join(methods)}", param_hint="--weights")
    set_up_process(threads)
    console = Console()

    def load(method: str, device: str, *, fast: bool) -> Localizer:
        if preset == "full":
            return untrained_localizer(device, fast=fast)
        return load_localizer(None, method=method, weights=file, device=device, fast=fast)

    def timed(method: str, device: str) -> list[dict]:
        variants = {name: load(method, device, fast=name == "fast") for name in _VARIANTS}
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"timing {method}", total=frames)
            return bench_localizers(variants, frames=frames, publish=publish, progress=lambda: bar.advance(task))

    rows = []
    for method, device in product(methods, devices):
        found = timed(method, device)
        console.print(_table(found))
        rows += found
    with Progress(console=console, transient=True) as bar:
        bar.add_task("rendering training pairs", total=None)
        rendering = rendering_time(pairs=96, workers=2)
    console.print(f"a training pair is rendered in {rendering:.0f} ms by 2 workers")
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(rows, indent=1) + "\n")


def _table(rows: list[dict]) -> Table:
    """Return what was found of a method on a device as a table."""
    from rich.table import Table

    from cvloc_ros.evaluation.bench import COLUMNS, table_rows

    eager, fast = (next(row for row in rows if (row["variant"], row["stage"]) == (name, "total")) for name in _VARIANTS)
    whose = "GPU, both networks in it" if fast["device"] == "cuda" else "process so far"
    table = Table(
        *COLUMNS,
        title=f"{fast['method']} on {fast['device']}: eager in {eager['precision']}, fast in {fast['precision']}",
        caption=f"fast: {fast['hz']:.0f} frames a second; peak memory {fast['peak_mb']} MiB of the {whose}",
    )
    for cells in table_rows(rows):
        table.add_row(*cells, style="bold" if cells[0] == "total" else None)
    return table
