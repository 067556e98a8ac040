"""A drive over any georeferenced orthophoto: try your own city's imagery before a camera is mounted.

    python -m cvloc_ros.datasets.orthophoto_drive city.tif route.csv out/bag --terrain heights.tif --other-season
    cvloc run out/bag --imagery city.tif

The ground is a plane, or the terrain, with the orthophoto on it, seen through the vehicle's camera; houses and trees
lie flat, as they do in the image. What is measured on it is an upper bound of what a street shows, but camera, mount,
imagery, route and hills are the real ones.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cvloc_ros.datasets.height_map import HeightMap
from cvloc_ros.datasets.orthophoto_view import Ground, OrthophotoRenderer
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.drive import DEMO_CAMERA, DEMO_MOUNT, Drive, record
from cvloc_ros.datasets.town.motion import Trajectory, follow
from cvloc_ros.geometry import LocalFrame, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import ImageryError, raster_datum

_STEEPEST = 0.3  # of a street on a terrain


class RouteError(ValueError):
    """A route cannot be read or driven; the message says which line, what was expected and what came."""


def read_route(path: str | Path) -> np.ndarray:
    """Read a route's waypoints: lines of ``latitude,longitude`` in WGS84 degrees, with or without a header.

    Returns:
        (N, 2) latitude and longitude, N >= 2.

    Raises:
        RouteError: a line is no coordinate, or there are fewer than two.

    """
    path = Path(path)
    if not path.is_file():
        raise RouteError(f"expected a route file with lines 'latitude,longitude', but there is no file '{path}'")
    points: list[tuple[float, float]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or cells[0].startswith("#") or (not points and cells[:2] == ["latitude", "longitude"]):
                continue
            try:
                latitude, longitude = (float(cell) for cell in cells)
                LocalFrame(latitude, longitude)  # checks their range
            except ValueError:
                raise RouteError(
                    f"'{path}', line {number}: expected 'latitude,longitude' in degrees, such as 48.1852,16.3122; got "
                    f"'{','.join(row)}'"
                ) from None
            points.append((latitude, longitude))
    if len(points) < 2:
        raise RouteError(f"expected at least two waypoints 'latitude,longitude' in '{path}', got {len(points)}")
    return np.array(points)


def orthophoto_drive(
    imagery: str,
    waypoints: np.ndarray,
    *,
    duration: float | None = None,
    cruise: float = 8.0,
    seed: int = 0,
    camera: PinholeCamera = DEMO_CAMERA,
    T_base_camera: np.ndarray = DEMO_MOUNT,
    terrain: str | None = None,
    other_season: bool = False,
) -> Drive:
    """Return a drive along a route over an orthophoto, whose centre is the map's datum.

    Args:
        imagery: a path, a URL or a GDAL description of a georeferenced raster.
        waypoints: (N, 2) latitude and longitude, degrees.
        duration: seconds; None for the whole route.
        cruise: m/s where the route is straight.
        seed: of the sensors' errors and the camera's colours.
        camera: intrinsics.
        T_base_camera: 4x4, optical frame to base_link.
        terrain: a raster of heights in metres; None for flat ground.
        other_season: see `Ground.in_another_season`; the map stays as it is.

    Raises:
        ImageryError: the imagery or the terrain cannot be read.
        RouteError: the route leaves the imagery, or is too steep on the terrain.
        ValueError: the route is too short for the duration.

    """
    datum = raster_datum(imagery)
    route = datum.to_enu(waypoints[:, 0], waypoints[:, 1])
    extent = np.ptp(route, axis=0).max()
    if not extent < 1e5:
        raise RouteError(f"expected a route of some kilometres, got waypoints {extent / 1e3:.0f} km apart")
    ground = Ground.read(imagery, datum, route)
    outside = np.flatnonzero(~ground.covers(route))
    if len(outside):
        k = int(outside[0])
        raise RouteError(
            f"expected a route on the imagery '{imagery}' (around {datum.latitude:.5f},{datum.longitude:.5f}), but "
            f"{len(outside)} of {len(route)} waypoints are not, the first is number {k + 1}: "
            f"{waypoints[k, 0]:.5f},{waypoints[k, 1]:.5f}. Each line is latitude,longitude in this order"
        )
    trajectory = follow(route, duration=duration, cruise=cruise)
    heights = None
    if terrain is not None:
        south, east = ground.north - ground.rgb.shape[0] * ground.cell, ground.west + ground.rgb.shape[1] * ground.cell
        heights = HeightMap.read(terrain, datum, west=ground.west, north=ground.north, east=east, south=south)
        _check_slope(heights, trajectory, terrain)
    if other_season:
        ground = ground.in_another_season(seed)
    renderer = OrthophotoRenderer(ground, camera, T_base_camera, seed, heights)
    return record(trajectory, renderer, datum, seed, camera=camera, T_base_camera=T_base_camera)


def _check_slope(heights: HeightMap, trajectory: Trajectory, terrain: str) -> None:
    """Refuse a way that a vehicle cannot drive: terrain models have no bridges."""
    way = trajectory.poses[:, :2]
    metre = np.concatenate([[0], np.flatnonzero(np.diff(np.floor(np.hypot(*np.diff(way, axis=0).T).cumsum()))) + 1])
    way = way[metre]
    slope = np.abs(np.diff(heights(way))) / np.maximum(np.hypot(*np.diff(way, axis=0).T), 1e-6)
    if len(slope) and slope.max() > _STEEPEST:
        raise RouteError(
            f"expected a route that is never steeper than {100 * _STEEPEST:.0f} %, but on '{terrain}' it is "
            f"{100 * slope.max():.0f} % after {int(slope.argmax())} m: models of the terrain have no bridges; end the "
            "route before it (--duration), or leave the terrain out"
        )


def main(
    imagery: Annotated[str, typer.Argument(help="Orthophoto: a georeferenced raster (path, URL, GDAL description).")],
    route: Annotated[Path, typer.Argument(help="Waypoints: lines of latitude,longitude in degrees.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new rosbag2; must not exist.")],
    duration: Annotated[float | None, typer.Option(min=1.0, help="Seconds; default: the whole route.")] = None,
    speed: Annotated[float, typer.Option(min=1.0, help="Cruising speed, m/s.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sensors' errors and the camera's colours.")] = 0,
    width: Annotated[int, typer.Option(min=64, help="Pixels.")] = DEMO_CAMERA.width,
    height: Annotated[int, typer.Option(min=32, help="Pixels.")] = DEMO_CAMERA.height,
    fov: Annotated[float, typer.Option(min=10.0, max=140.0, help="Horizontal field of view, degrees.")] = 80.0,
    mount_height: Annotated[float, typer.Option(min=0.2, help="Camera above the ground, metres.")] = 1.65,
    mount_forward: Annotated[float, typer.Option(help="Camera ahead of base_link, metres.")] = 1.2,
    pitch: Annotated[float, typer.Option(help="Camera's pitch, degrees, down is positive.")] = 2.0,
    terrain: Annotated[str | None, typer.Option(help="Raster of the ground's heights, metres. Default: flat.")] = None,
    other_season: Annotated[
        bool, typer.Option(help="The camera sees faded green, wet streets and patchy light; the map does not.")
    ] = False,
) -> None:
    """Drive a simulated vehicle over an orthophoto and record camera, GNSS, odometry and truth as a rosbag2."""
    from rich.progress import Progress

    camera = PinholeCamera.from_focal(width, height, width / 2 / np.tan(np.radians(fov / 2)))
    mount = camera_extrinsics(height=mount_height, x=mount_forward, pitch=np.radians(pitch))
    try:
        drive = orthophoto_drive(
            imagery,
            read_route(route),
            duration=duration,
            cruise=speed,
            seed=seed,
            camera=camera,
            T_base_camera=mount,
            terrain=terrain,
            other_season=other_season,
        )
        with Progress() as bar:
            task = bar.add_task("rendering", total=len(drive.image_stamps))
            write_drive_bag(out, drive, progress=lambda done, total: bar.update(task, completed=done))
    except (RouteError, ImageryError, OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    metres = drive.trajectory.distance
    print(f"{out}: {metres:.0f} m, {len(drive.image_stamps)} images. Next: cvloc run {out} --imagery {imagery}")


if __name__ == "__main__":
    typer.run(main)
