"""`cvloc prefetch`: download imagery before a drive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvloc_ros.geometry import LocalFrame
    from cvloc_ros.imagery.prefetch import Box, Plan


def prefetch(
    imagery: Annotated[str, typer.Argument(help="Imagery as for `cvloc run`; its layers on this machine are skipped.")],
    track: Annotated[
        Path | None,
        typer.Option(
            help="Along a track: a bag with GNSS fixes, .gpx, .csv (latitude, longitude), .tum (with --datum)."
        ),
    ] = None,
    around: Annotated[str | None, typer.Option(help="Around a place, in degrees.", metavar="LAT,LON")] = None,
    box: Annotated[
        str | None, typer.Option(help="Within these edges, in degrees.", metavar="WEST,SOUTH,EAST,NORTH")
    ] = None,
    radius: Annotated[
        float, typer.Option(min=10.0, max=50e3, help="Metres to each side of the track or the place.")
    ] = 250.0,
    datum: Annotated[
        str | None,
        typer.Option(
            help="Origin of the map in which a .tum is. Default elsewhere: the first place.", metavar="LAT,LON"
        ),
    ] = None,
    cell: Annotated[float, typer.Option(min=0.05, help="Metres a pixel of the map; the node and `run` use 0.4.")] = 0.4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Tiles to ask for at once.")] = 4,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
) -> None:
    """Download the imagery of an area into the cache, so that a drive needs no network.

    Says first how many tiles are missing and about how large they are, and asks. What is in the cache is not
    downloaded again: after an interruption, run the same command to go on. A server that asks for time gets it.

    IMAGERY is a template such as 'https://tiles.example.org/{z}/{x}/{y}.jpg?key=${MAP_KEY}' (keys come from the
    environment; quote it), a WMS template with {bbox-epsg-3857}, WMTS:..., a COG's address; several with | between.

    With CVLOC_OFFLINE=1 the cache is all that is used. It lies in $XDG_CACHE_HOME/cvloc_ros, else ~/.cache/cvloc_ros.
    Check that the provider's terms allow tiles to be kept and to be analysed by machines; many do not.
    """
    from rich.console import Console

    from cvloc_ros.imagery.prefetch import plan_download

    frame, boxes = _area(track=track, around=around, box=box, radius=radius, datum=datum)
    console = Console(highlight=False, soft_wrap=True)
    plans = plan_download(imagery, frame, boxes, cell=cell)
    for plan in plans:
        layer = plan.layer
        console.print(
            f"[bold]{layer.name}[/]: zoom {layer.zoom}, {layer.resolution:.2f} m a pixel; {layer.attribution}"
        )
        console.print(
            f"  {plan.tiles} tiles, {plan.tiles - len(plan.missing)} in the cache, {len(plan.missing)} to download: "
            f"about {plan.megabytes:.1f} MB"
        )
    if not any(plan.missing for plan in plans):
        console.print("everything is there")
        return
    if not yes and not typer.confirm("Do the provider's terms allow it, and shall it be downloaded?"):
        raise typer.Exit(1)
    failures = [line for plan in plans if plan.missing for line in _download(plan, console=console, workers=workers)]
    if failures:
        console.print(f"{len(failures)} tiles did not come, e.g. {failures[0]}: run it again to try them again")
        raise typer.Exit(1)


def _download(plan: Plan, *, console, workers: int) -> list[str]:
    """Download a plan with a progress bar; return what failed."""
    from cvloc_ros.cli.progress import counting_bar
    from cvloc_ros.imagery.prefetch import download

    sizes: list[int] = []
    with counting_bar(console) as bar:
        task = bar.add_task(plan.layer.name, total=len(plan.missing))

        def came(size: int) -> None:
            sizes.append(size)
            bar.update(task, advance=1, description=f"{plan.layer.name}, {sum(sizes) / 1e6:.1f} MB")

        def waiting(why: str) -> None:
            bar.update(task, description=f"{plan.layer.name}: {why}; waiting")

        failures = download(plan, workers=workers, progress=came, waiting=waiting)
    absent = sizes.count(0)
    if absent:
        console.print(f"  {absent} tiles do not exist: no imagery there")
    return failures


def _area(
    *, track: Path | None, around: str | None, box: str | None, radius: float, datum: str | None
) -> tuple[LocalFrame, Iterable[Box]]:
    """Return the map frame and the boxes that were asked for; raises typer.BadParameter."""
    from cvloc_ros.cli.run import parse_datum
    from cvloc_ros.datasets.track import read_track
    from cvloc_ros.geometry import LocalFrame
    from cvloc_ros.imagery.prefetch import boxes_along

    if (track is not None) + (around is not None) + (box is not None) != 1:
        raise typer.BadParameter("say which area: one of --track, --around and --box")
    origin = parse_datum(datum)
    if track is not None:
        places = read_track(track, datum=origin)
        frame = origin or LocalFrame(*places[0])
        return frame, boxes_along(frame.to_enu(places[:, 0], places[:, 1]), radius)
    if around is not None:
        place = parse_datum(around, "--around")
        assert place is not None
        return place, [(-radius, -radius, radius, radius)]
    assert box is not None
    try:
        west, south, east, north = (float(part) for part in box.split(","))
        if not (west < east and south < north):
            raise ValueError("west must be less than east, and south less than north")
        frame = LocalFrame((south + north) / 2, (west + east) / 2)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected 'west,south,east,north' in degrees, such as 8.42,49.00,8.44,49.02; got {box!r}: {error}",
            param_hint="--box",
        ) from None
    corners = frame.to_enu([south, south, north, north], [west, east, west, east])
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    return frame, [(float(left), float(bottom), float(right), float(top))]
