"""`cvloc eval`: accuracy of single frames, of synthetic towns or published data sets, and of whole drives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvloc_ros.cli.eval_datasets import choose_protocols, evaluate_bag, evaluate_protocols, load_for_frames
from cvloc_ros.cli.run import MOUNT_HELP, parse_datum, parse_mount, parse_topics

_DATASETS = ("kitti", "ford", "vigor", "oxford", "pairs")
_OF_DATASETS, _OF_BAGS, _OF_TOWNS, _OF_DRIVES = "Data sets", "bag", "town", "town-drives"
_TAKES = {  # besides those that all take
    "town": ("pairs",),
    "town-drives": ("count", "scenario", "image_rate", "workers"),
    "bag": ("root", "imagery", "frames", "datum", "topics", "mount"),
    **dict.fromkeys(_DATASETS, ("root", "protocol", "frames")),
}


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            help="Synthetic, nothing to download: town (single frames) or town-drives (whole drives with biased and "
            "cut GNSS, wrong initial poses and black images). Published, at ROOT: kitti, ford, vigor, oxford. Your "
            "own: bag (a recorded drive with the truth in it), pairs (see cvloc_ros/datasets/pairs.py)."
        ),
    ] = "town",
    root: Annotated[
        Path | None,
        typer.Argument(help="The data set's folder in its published layout; the bag; for pairs the CSV file."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for tables and reports; of a data set, one in it a protocol.")
    ] = Path("out/eval"),
    method: Annotated[str, typer.Option(help="Matching method: vote_flow or dense_flow.")] = "vote_flow",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file other than the shipped weights.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, or cuda, which takes frames in batches; town-drives run on the CPU.")
    ] = "auto",
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
    imagery: Annotated[
        str | None,
        typer.Option(
            help="Satellite imagery: a raster, a folder of tiles, a tile server's template; see doc/imagery.md.",
            rich_help_panel=_OF_BAGS,
        ),
    ] = None,
    datum: Annotated[
        str | None,
        typer.Option(
            help="Origin of the map as 'latitude,longitude' in degrees. Default: the bag's datum topic; without one it "
            "must be given, and is that of the truth.",
            metavar="LAT,LON",
            rich_help_panel=_OF_BAGS,
        ),
    ] = None,
    topics: Annotated[
        list[str] | None,
        typer.Option(
            help="Which topic is which where that cannot be guessed, once for each: ground_truth=/rtk/odometry. Roles: "
            "image, camera_info, ground_truth, datum.",
            metavar="ROLE=TOPIC",
            rich_help_panel=_OF_BAGS,
        ),
    ] = None,
    mount: Annotated[
        str | None, typer.Option(help=MOUNT_HELP, metavar="X,Y,Z,ROLL,PITCH,YAW", rich_help_panel=_OF_BAGS)
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
    bag: the images of a recorded drive, from priors uniform in ±20 m and ±10° around its own truth, on --imagery.
    Tables with 95 % intervals, also as the literature's scripts measure, beside the published rows with their sources
    and caveats. Writes for each protocol frames.csv (a row a frame), summary.json, table.md and report.html with the
    worst cases as pictures. Stopped, it is resumed by the same command; results do not depend on that.

    town: single frames from priors uniform in ±20 m and ±10°; pairs of towns that training never saw, and as many in
    a style that it never saw.

    town-drives: whole drives through towns that training never saw. The table says for each drive and scenario how
    accurate the fused pose was, for how long it was far off and yet TRACKING, and how soon it was recovered.
    """
    if dataset not in _TAKES:
        raise typer.BadParameter(f"expected one of: {', '.join(_TAKES)}; got {dataset!r}", param_hint="DATASET")
    _refuse_what_it_does_not_take(dataset, context)
    chosen = str(weights) if weights else None
    if dataset == "town":
        _frames(out, pairs=pairs, method=method, weights=chosen, device=device)
    elif dataset == "town-drives":
        _drives(out, count=count, names=scenario, rate=image_rate, workers=workers, method=method, weights=chosen)
    elif root is None:
        raise typer.BadParameter(f"expected where {dataset} is: cvloc eval {dataset} ROOT", param_hint="ROOT")
    elif dataset == "bag":
        if imagery is None:
            raise typer.BadParameter(
                "expected what shows the place from above: --imagery city.tif", param_hint="--imagery"
            )
        evaluate_bag(
            root,
            imagery,
            out / "bag",
            datum=parse_datum(datum),
            topics=parse_topics(topics or []),
            T_base_camera=parse_mount(mount),
            count=frames,
            method=method,
            weights=chosen,
            device=device,
        )
    else:
        evaluate_protocols(
            choose_protocols(dataset, protocol or []),
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


def _frames(out: Path, *, pairs: int, method: str, weights: str | None, device: str) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.town import ROW, evaluate_towns, table_rows, write_accuracy
    from cvloc_ros.models.weights import choose_device

    localizer = load_for_frames(method, weights, choose_device(device))
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
