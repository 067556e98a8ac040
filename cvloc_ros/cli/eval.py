"""`cvloc eval`: accuracy of single frames, of synthetic towns or published data sets, and of whole drives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cvloc_ros.datasets.item import Dataset
    from cvloc_ros.localization.localizer import Localizer

_TOWNS = ("town", "town-drives")
_DATASETS = ("kitti", "ford", "vigor", "oxford", "pairs")
_OF_DATASETS, _OF_TOWNS, _OF_DRIVES = "Data sets", "town", "town-drives"
_TAKES = {  # besides those that all take
    "town": ("pairs",),
    "town-drives": ("count", "scenario", "image_rate", "workers"),
    **dict.fromkeys(_DATASETS, ("root", "protocol", "frames")),
}


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            help="Synthetic, nothing to download: town (single frames) or town-drives (whole drives with biased and "
            "cut GNSS, wrong initial poses and black images). Published, at ROOT: kitti, ford, vigor, oxford. Your "
            "own: pairs (see cvloc_ros/datasets/pairs.py)."
        ),
    ] = "town",
    root: Annotated[
        Path | None, typer.Argument(help="The data set's folder in its published layout; for pairs the CSV file.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for tables and reports; of a data set, one in it a protocol.")
    ] = Path("out/eval"),
    method: Annotated[str, typer.Option(help="Matching method.")] = "vote_flow",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file other than the shipped weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; town-drives run on the CPU.")] = "auto",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this one, such as kitti-cross; may be given several times. kitti-same, kitti-cross, "
            "kitti-cross-clean (over 100 m from all training frames); ford-log1 to -log6; vigor-same, vigor-cross, "
            "both also with -unaligned; oxford-test1 to -test3. Default: all that ROOT has the lists of.",
            rich_help_panel=_OF_DATASETS,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many, spread evenly over the protocol.", rich_help_panel=_OF_DATASETS),
    ] = None,
    pairs: Annotated[int, typer.Option(min=4, help="Pairs of each set.", rich_help_panel=_OF_TOWNS)] = 300,
    count: Annotated[
        int, typer.Option(min=1, help="How many drives, each in a town of its own.", rich_help_panel=_OF_DRIVES)
    ] = 20,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="Only this scenario; may be given several times.", rich_help_panel=_OF_DRIVES),
    ] = None,
    image_rate: Annotated[
        float, typer.Option(min=1.0, max=25.0, help="Images a second.", rich_help_panel=_OF_DRIVES)
    ] = 5.0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; a drive is run by one.", rich_help_panel=_OF_DRIVES)
    ] = 2,
) -> None:
    """Measure accuracy where the truth is known. Chance and a blind model (the image blanked) stand beside it.

    kitti, ford, vigor, oxford, pairs: single frames by the literature's protocols, from the priors that these state.
    Tables with 95 % intervals, also as the literature's scripts measure, beside the published rows with their sources
    and caveats. Writes for each protocol frames.csv (a row a frame), summary.json, table.md and report.html with the
    worst cases as pictures. Stopped, it is resumed by the same command; results do not depend on that.

    town: single frames from priors uniform in ±20 m and ±10°; pairs of towns that training never saw, and as many in
    a style that it never saw.

    town-drives: whole drives through towns that training never saw. The table says for each drive and scenario how
    accurate the fused pose was, for how long it was far off and yet TRACKING, and how soon it was recovered.
    """
    if dataset not in (*_TOWNS, *_DATASETS):
        raise typer.BadParameter(
            f"expected one of: {', '.join((*_TOWNS, *_DATASETS))}; got {dataset!r}", param_hint="DATASET"
        )
    _refuse_what_it_does_not_take(dataset, context)
    chosen = str(weights) if weights else None
    if dataset == "town":
        _frames(out, pairs=pairs, method=method, weights=chosen, device=device)
    elif dataset == "town-drives":
        _drives(out, count=count, names=scenario, rate=image_rate, workers=workers, method=method, weights=chosen)
    else:
        if root is None:
            raise typer.BadParameter(f"expected where {dataset} is: cvloc eval {dataset} ROOT", param_hint="ROOT")
        _protocols(
            _choose(dataset, protocol or []),
            root,
            out,
            count=frames,
            required=bool(protocol),
            method=method,
            weights=chosen,
            device=device,
        )


def _refuse_what_it_does_not_take(dataset: str, context: typer.Context) -> None:
    def shown(name: str) -> str:
        return "ROOT" if name == "root" else f"--{name.replace('_', '-')}"

    takes = _TAKES[dataset]
    others = {name for names in _TAKES.values() for name in names if name not in takes}
    given = [name for name in context.params if name in others and context.params[name] is not None]
    # by its name: newer versions of typer have a click of their own
    given = [name for name in given if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        raise typer.BadParameter(
            f"{dataset} takes {', '.join(map(shown, takes))} and the options of all data sets, got "
            f"{', '.join(map(shown, given))}"
        )


def _choose(dataset: str, wanted: list[str]) -> list[str]:
    """Return the protocols of a data set that were asked for, all if none; raises typer.BadParameter."""
    from cvloc_ros.datasets.protocols import PROTOCOLS

    known = [name for name in PROTOCOLS if name.split("-")[0] == dataset]
    names = [name if name in known else f"{dataset}-{name}" for name in wanted]
    unknown = [name for name, full in zip(wanted, names, strict=True) if full not in known]
    if unknown:
        raise typer.BadParameter(f"expected of: {', '.join(known)}; got {', '.join(unknown)}", param_hint="--protocol")
    return names or known


def _protocols(
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
    from rich.console import Console
    from rich.markup import escape

    from cvloc_ros.datasets.files import DatasetError
    from cvloc_ros.datasets.protocols import open_protocol
    from cvloc_ros.localization.localizer import load_localizer
    from cvloc_ros.models.weights import choose_device

    console, device = Console(), choose_device(device)
    localizer = load_localizer(None, method=method, weights=weights, device=device)
    absent: list[DatasetError] = []
    for name in names:
        try:
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
) -> None:
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cvloc_ros.evaluation.item_console import print_tables
    from cvloc_ros.evaluation.item_frames import evaluate_items, spread_over
    from cvloc_ros.evaluation.item_report import write_item_report
    from cvloc_ros.evaluation.item_summary import summarize_items
    from cvloc_ros.evaluation.protocol_notes import identify, protocol_notes

    method = localizer.matcher.name
    indices = spread_over(len(items), count)
    identity = identify(name, root, items, method=method, weights=weights, device=device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as bar:
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
    notes = protocol_notes(name, found, localizer, share=len(indices) / len(items))
    write_item_report(found, summary, out, identity=identity, notes=notes, localizer=localizer, items=items)
    print_tables(name, method, summary, console=console)
    for note in notes:
        console.print(f"[yellow]note:[/] {note}", soft_wrap=True, highlight=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)


def _frames(out: Path, *, pairs: int, method: str, weights: str | None, device: str) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.town import ROW, evaluate_towns, table_rows, write_accuracy
    from cvloc_ros.localization.localizer import load_localizer

    localizer = load_localizer(None, method=method, weights=weights, device=device)
    console = Console()
    with Progress(console=console) as bar:
        task = bar.add_task("rendering and localizing", total=6 * pairs)
        accuracy = evaluate_towns(localizer, count=pairs, progress=lambda: bar.advance(task))
    table = Table("set", "model", *ROW, title=f"{method}, {pairs} pairs a set, priors in ±20 m ±10°")
    for row in table_rows(accuracy.tables):
        table.add_row(*row)
    console.print(table)
    write_accuracy(accuracy, out)
    console.print(f"written to {out}/accuracy.json, .md, .csv and honesty.png")


def _drives(
    out: Path, *, count: int, names: list[str] | None, rate: float, workers: int, method: str, weights: str | None
) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.town_drives import COLUMNS, LEGEND, DriveRow, run_drives, table_rows, write_drives
    from cvloc_ros.evaluation.town_scenarios import SCENARIOS

    unknown = set(names or []) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        known = ", ".join(scenario.name for scenario in SCENARIOS)
        raise typer.BadParameter(f"expected of: {known}; got {', '.join(unknown)}", param_hint="--scenario")
    scenarios = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    console = Console()
    done: list[DriveRow] = []
    with Progress(console=console) as bar:
        task = bar.add_task("driving", total=count)

        def finished(rows: list[DriveRow]) -> None:
            done.extend(rows)
            write_drives(done, out)  # after each drive: an interrupted run leaves what it has
            worst = max(row.wrong for row in rows)
            bar.console.print(f"town {rows[0].seed}: RMSE {max(row.rmse for row in rows):.2f} m, wrong {worst:.1f} s")
            bar.advance(task)

        run_drives(
            count,
            workers=workers,
            progress=finished,
            scenarios=scenarios,
            image_rate=rate,
            method=method,
            weights=weights,
        )
    table = Table(title=f"{method}, {count} drives of unseen towns, {rate:g} images a second", caption=LEGEND)
    for name in COLUMNS:
        table.add_column(name, no_wrap=name in ("scenario", "seed"))
    for cells in table_rows(done):
        table.add_row(*cells)
    console.print(table)
    console.print(f"written to {out}/town_drives.json, .md")
