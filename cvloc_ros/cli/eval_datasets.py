"""`cvloc eval` on data sets: single frames of published ones, of pairs, and of a bag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from rich.console import Console

    from cvloc_ros.datasets.item import Dataset
    from cvloc_ros.geometry import LocalFrame
    from cvloc_ros.localization.localizer import Localizer


def choose_protocols(dataset: str, wanted: list[str]) -> list[str]:
    """Return the protocols of a data set that were asked for, all if none; raises typer.BadParameter."""
    from cvloc_ros.datasets.protocols import PROTOCOLS

    known = [name for name in PROTOCOLS if name.split("-")[0] == dataset]
    names = [name if name in known else f"{dataset}-{name}" for name in wanted]
    unknown = [name for name, full in zip(wanted, names, strict=True) if full not in known]
    if unknown:
        raise typer.BadParameter(f"expected of: {', '.join(known)}; got {', '.join(unknown)}", param_hint="--protocol")
    return names or known


def load_for_frames(method: str, weights: str | None, device: str) -> Localizer:
    """Load the network for single frames: on a GPU as it was trained, since that takes batches, else the fast one."""
    from cvloc_ros.localization.localizer import load_localizer

    return load_localizer(None, method=method, weights=weights, device=device, fast=device == "cpu")


def evaluate_protocols(
    names: list[str],
    root: Path,
    out: Path,
    *,
    count: int | None,
    required: bool,
    method: str,
    weights: str | None,
    device: str,
) -> None:
    """Evaluate protocols of a data set, into a folder each; one whose files are absent is left out unless required."""
    from rich.console import Console
    from rich.markup import escape

    from cvloc_ros.datasets.files import DatasetError
    from cvloc_ros.datasets.protocols import open_protocol
    from cvloc_ros.models.weights import choose_device

    console, device = Console(), choose_device(device)
    localizer = load_for_frames(method, weights, device)
    absent: list[DatasetError] = []
    for name in names:
        try:
            with console.status(f"opening {name}"):  # kitti-cross-clean reads a file of each frame, training included
                items = open_protocol(name, root, grid=localizer.matcher.patch_grid)
        except DatasetError as error:
            if required:
                raise
            absent.append(error)
            console.print(f"[yellow]{name} is left out:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
            continue
        _protocol(
            name,
            root,
            out / name,
            items=items,
            localizer=localizer,
            count=count,
            weights=weights,
            device=device,
            console=console,
        )
    if len(absent) == len(names):
        raise absent[0]


def evaluate_bag(
    root: Path,
    imagery: str,
    out: Path,
    *,
    datum: LocalFrame | None,
    topics: dict[str, str],
    T_base_camera: np.ndarray | None,
    count: int | None,
    method: str,
    weights: str | None,
    device: str,
) -> None:
    """Evaluate the images of a bag."""
    from rich.console import Console
    from rich.progress import Progress

    from cvloc_ros.datasets.bag_frames import BagFrames
    from cvloc_ros.imagery import redacted
    from cvloc_ros.models.weights import choose_device

    console, device = Console(), choose_device(device)
    localizer = load_for_frames(method, weights, device)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("looking through the bag", total=1.0)
        items = BagFrames(
            root,
            imagery,
            datum=datum,
            topics=topics,
            T_base_camera=T_base_camera,
            grid=localizer.matcher.patch_grid,
            progress=lambda share: bar.update(task, completed=share),
        )
    _protocol(
        "bag",
        root,
        out,
        items=items,
        localizer=localizer,
        count=count,
        weights=weights,
        device=device,
        console=console,
        imagery=redacted(imagery),
        notes=lambda: items.notes,
    )


def _protocol(
    name: str,
    root: Path,
    out: Path,
    *,
    items: Dataset,
    localizer: Localizer,
    count: int | None,
    weights: str | None,
    device: str,
    console: Console,
    imagery: str | None = None,
    notes: Callable[[], list[str]] = list,
) -> None:
    from rich.markup import escape

    from cvloc_ros.cli.progress import counting_bar
    from cvloc_ros.evaluation.item_console import print_tables
    from cvloc_ros.evaluation.item_frames import evaluate_items, spread_over
    from cvloc_ros.evaluation.item_report import write_item_report
    from cvloc_ros.evaluation.item_summary import summarize_items
    from cvloc_ros.evaluation.protocol_notes import identify, protocol_notes

    method = localizer.matcher.name
    indices = spread_over(len(items), count)
    identity = identify(name, root, items, method=method, weights=weights, device=device, imagery=imagery)
    try:
        with counting_bar(console) as bar:
            task = bar.add_task(name, total=len(indices))
            found = evaluate_items(
                localizer,
                items,
                out,
                indices=indices,
                identity=identity,
                progress=lambda done: bar.update(task, completed=done),
                say=lambda line: bar.console.print(f"[yellow]note:[/] {escape(line)}", soft_wrap=True, highlight=False),
            )
    except KeyboardInterrupt:
        console.print(f"stopped: what was done is in {out / 'frames.csv'}; the same command goes on from there")
        raise typer.Exit(130) from None
    summary = summarize_items(found)
    remarks = [*protocol_notes(name, found, localizer, share=len(indices) / len(items)), *notes()]
    write_item_report(found, summary, out, identity=identity, notes=remarks, localizer=localizer, items=items)
    print_tables(name, method, summary, console=console)
    for remark in remarks:
        console.print(f"[yellow]note:[/] {escape(remark)}", soft_wrap=True, highlight=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)
