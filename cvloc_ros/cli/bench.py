"""`cvloc bench`: where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    frames: Annotated[int, typer.Option(min=5, help="Frames to time.")] = 60,
    method: Annotated[str, typer.Option(help="Matching method: vote_flow or dense_flow.")] = "vote_flow",
    weights: Annotated[Path | None, typer.Option(help="Safetensors file; the shipped weights if omitted.")] = None,
    preset: Annotated[
        str, typer.Option(help="small: what is shipped; full: dense_flow in the paper's size, which is not trained.")
    ] = "small",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int,
        typer.Option(min=1, help="CPU threads of an image, and of a new patch; 1 is what the node takes."),
    ] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Time every stage from the encoded image to the pose's message, and the rendering of training pairs.

    Two variants take turns, frame by frame, in one process: "fast" is what drives, "eager" the network as it was
    trained, in fp32, with a patch of its own for every frame. Shown are medians and 95th percentiles; the ratio is
    eager's median to fast's.
    "ahead" is what fast does before an image comes, as the node does between images: where the next frame is expected,
    it cuts a new patch and describes it. That is no part of "total", which is from image to pose, but of the frames a
    second. Without ROS there are no messages, and no stage "publish". A GPU works behind the CPU: what it takes for
    eager's patch counts as "vote and solve", and so does all of the network where it is replayed as one.
    """
    import json

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.bench import COLUMNS, bench_localizers, bench_rendering, table_rows, untrained_localizer
    from cvloc_ros.localization.localizer import Localizer, load_localizer
    from cvloc_ros.models.weights import choose_device
    from cvloc_ros.ros.resources import set_up_process

    try:
        from cvloc_ros.ros.image_messages import serialize as publish
    except ImportError:  # no ROS
        publish = None  # type: ignore[assignment]

    file = None if weights is None else str(weights)
    if preset not in ("small", "full") or (preset == "full" and (method != "dense_flow" or file)):
        raise typer.BadParameter(
            "expected small, or full with --method dense_flow and no --weights, got "
            f"{preset} with {method}{' and weights' if file else ''}",
            param_hint="--preset",
        )
    set_up_process(threads)

    def load(fast: bool) -> Localizer:
        if preset == "full":
            return untrained_localizer(choose_device(device), fast=fast)
        return load_localizer(None, method=method, weights=file, device=device, fast=fast)

    variants = {name: load(name == "fast") for name in ("eager", "fast")}
    console = Console()
    with Progress(console=console) as bar:
        task = bar.add_task("timing", total=frames)
        rows = bench_localizers(variants, frames=frames, publish=publish, progress=lambda: bar.advance(task))
        bar.add_task("rendering training pairs", total=None)
        rendering = bench_rendering(pairs=96)
    eager, fast = (next(row for row in rows if (row["variant"], row["stage"]) == (name, "total")) for name in variants)
    memory = f"{fast['peak_mb']} MiB of the {'GPU, both networks in it' if fast['device'] == 'cuda' else 'process'}"
    table = Table(
        *COLUMNS,
        title=f"{method} on {fast['device']}: eager in {eager['precision']}, fast in {fast['precision']}",
        caption=f"fast: {fast['hz']:.0f} frames a second; peak memory {memory}",
    )
    for cells in table_rows(rows):
        table.add_row(*cells, style="bold" if cells[0] == "total" else None)
    console.print(table)
    console.print(f"a training pair is rendered in {rendering['median_ms']:.0f} ms by {rendering['variant']}")
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([*rows, rendering], indent=1) + "\n")
