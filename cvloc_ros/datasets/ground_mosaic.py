"""The ground of a drive as its own camera saw it: a georeferenced picture from above, and pairs to evaluate on it.

    python -m cvloc_ros.datasets.ground_mosaic kitti/odometry_06 out/mosaic
    cvloc eval pairs out/mosaic/pairs.csv

Real images can so be localized where there is no satellite image of the place. Every frame has a mosaic of its own,
from which it and its neighbours are left out. Mind what that shows and what not: mosaic and frame come from one camera,
one day and one light, and what stands on the street lies smeared behind its foot; the street itself, its kerbs, marks
and shadows are where they are. A mosaic covers only what the camera saw: less than the gate's ``min_coverage`` asks
for, so that no frame is accepted; look at the errors of all frames.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import rasterio
import typer
import yaml
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.kitti_odometry import KittiOdometry
from cvloc_ros.datasets.pairs import FILES, NUMBERS
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera

DATUM = LocalFrame(49.0, 8.4)  # somewhere: the poses do not say where they are
_REACH, _WIDTH = 40.0, 16.0  # metres ahead of a camera, and to each side of its way, that are taken from its image
_SHARPNESS = 3.0  # a view's weight falls with its distance to the power of this


@dataclass(frozen=True, eq=False)
class Mosaic:
    """A picture of the ground, north up.

    Attributes:
        rgb: (H, W, 3) uint8, black where nobody looked.
        covered: (H, W) bool.
        centre: (2,) metres east and north.
        cell: metres.

    """

    rgb: np.ndarray
    covered: np.ndarray
    centre: np.ndarray
    cell: float

    def write(self, path: Path, datum: LocalFrame) -> None:
        """Write it as a GeoTIFF with an alpha band in the map frame of a datum."""
        height, width = self.covered.shape
        west, north = self.centre + [-width * self.cell / 2, height * self.cell / 2]
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=4,
            dtype="uint8",
            crs=CRS.from_wkt(datum.crs.to_wkt()),
            transform=Affine(self.cell, 0, west, 0, -self.cell, north),
            photometric="RGB",
            compress="deflate",
        ) as raster:
            raster.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
            raster.write(np.moveaxis(self.rgb, -1, 0), [1, 2, 3])
            raster.write(255 * self.covered.astype(np.uint8), 4)


class MosaicBuilder:
    """Lays the frames of a drive on the ground, and adds any of them up."""

    def __init__(self, sequence: KittiOdometry, *, cell: float = 0.2) -> None:
        """Choose an area that holds all that the frames see.

        Args:
            sequence: with true poses in six degrees of freedom.
            cell: metres.

        """
        self.sequence, self.cell = sequence, cell
        self._places = sequence.T_map_base[:, :3, 3]
        low, high = self._places[:, :2].min(axis=0) - _REACH, self._places[:, :2].max(axis=0) + _REACH
        cols, rows = np.ceil((high - low) / cell).astype(int)
        self.centre = (low + high) / 2
        east = self.centre[0] + (np.arange(cols) - (cols - 1) / 2) * cell
        north = self.centre[1] - (np.arange(rows) - (rows - 1) / 2) * cell
        self._flat = np.stack(np.meshgrid(east, north), axis=-1)
        self._ground = np.concatenate([self._flat, self._heights()[..., None]], axis=-1)
        self._views = [self._view(k) for k in range(len(sequence))]

    def covered(self, frames: Iterable[int]) -> np.ndarray:
        """Return which cells (H, W) any of some frames sees."""
        found = np.zeros(self._flat.shape[:2], bool)
        for k in frames:
            rows, cols, weighted = self._views[k]
            found[rows, cols] |= weighted[..., 3] > 0
        return found

    def build(self, frames: Iterable[int], *, where: np.ndarray | None = None) -> Mosaic:
        """Return the ground as some of the frames see it, in some of the cells: the nearest views count most."""
        total = np.zeros((*self._flat.shape[:2], 4), np.float32)
        for k in frames:
            rows, cols, weighted = self._views[k]
            total[rows, cols] += weighted
        covered = total[..., 3] > 0
        if where is not None:
            covered &= where
            total[~covered] = 0
        rgb = total[..., :3] / np.where(covered, total[..., 3], 1)[..., None]
        return Mosaic((rgb + 0.5).astype(np.uint8), covered, self.centre, self.cell)

    def _heights(self) -> np.ndarray:
        """Return how high the ground is in each cell: the plane under the vehicle where it came nearest."""
        heights, nearest = np.zeros(self._flat.shape[:2]), np.full(self._flat.shape[:2], np.inf)
        for T in self.sequence.T_map_base:
            offset = self._flat - T[:2, 3]
            distance = np.square(offset).sum(axis=-1)
            height = T[2, 3] - offset @ T[:2, 2] / T[2, 2]
            closer = distance < nearest
            heights[closer], nearest[closer] = height[closer], distance[closer]
        return heights

    def _view(self, k: int) -> tuple[slice, slice, np.ndarray]:
        """Return where a frame sees the ground, and there its colours times their weight, and the weight."""
        T_base_map = np.linalg.inv(self.sequence.T_map_base[k])
        x, y = np.moveaxis(self._ground @ T_base_map[:2, :3].T + T_base_map[:2, 3], -1, 0)
        near = (x > 0) & (x < _REACH) & (np.abs(y) < _WIDTH)
        rows, cols = (slice(hit[0], hit[-1] + 1) for hit in (np.flatnonzero(near.any(axis=axis)) for axis in (1, 0)))
        T_camera_map = np.linalg.inv(self.sequence.T_base_camera) @ T_base_map
        optical = self._ground[rows, cols] @ T_camera_map[:3, :3].T + T_camera_map[:3, 3]
        pixels, visible = self.sequence.camera.project(optical)
        maps = np.where(visible[..., None], pixels, 0).astype(np.float32)
        colour = cv2.remap(self.sequence.image(k), maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)
        weight = np.where(visible & near[rows, cols], np.linalg.norm(optical, axis=-1) ** -_SHARPNESS, 0)
        weighted = np.concatenate([colour * weight[..., None], weight[..., None]], axis=-1)
        return rows, cols, weighted.astype(np.float32)


def write_mosaic_pairs(
    sequence: KittiOdometry,
    out: Path,
    *,
    left_out: int = 5,
    priors: int = 6,
    radius: float = 20.0,
    yaw_range: float = 10.0,
    cell: float = 0.2,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write a mosaic for every frame, and pairs.csv with a number of priors for each.

    Args:
        sequence: the drive.
        out: folder, made if it is not there.
        left_out: frames to each side of the frame under test that its mosaic does not have, besides itself.
        priors: for each frame, drawn uniformly in the box.
        radius: metres along each axis of the vehicle that a prior may be off.
        yaw_range: degrees.
        cell: metres of a mosaic's pixel.
        seed: of the priors.
        progress: is told how many frames are done.

    Returns:
        How many pairs were written.

    """
    (out / "mosaics").mkdir(parents=True, exist_ok=True)
    builder = MosaicBuilder(sequence, cell=cell)
    builder.build(range(len(sequence))).write(out / "all.tif", DATUM)
    others = [[other for other in range(len(sequence)) if abs(other - k) > left_out] for k in range(len(sequence))]
    if not all(others):
        raise DatasetError(f"expected more than {left_out + 1} frames in {sequence.path}, got {len(sequence)}")
    seen = np.logical_and.reduce([builder.covered(some) for some in others])  # a hole would tell who was left out
    (out / "camera.yaml").write_text(_camera_yaml(sequence))
    rng = np.random.default_rng(seed)
    rows = []
    for k, path in enumerate(sequence.images):
        name = f"mosaics/{path.stem}.tif"
        builder.build(others[k], where=seen).write(out / name, DATUM)
        truth = sequence.pose(k)
        for _ in range(priors):
            x, y = rng.uniform(-radius, radius, 2)
            prior = truth @ SE2(x, y, rng.uniform(-1, 1) * np.radians(yaw_range)).inverse()
            poses = {
                f"{prefix}{axis}": value
                for prefix, pose in (("", truth), ("prior_", prior))
                for axis, value in (
                    ("east_m", pose.x - builder.centre[0]),
                    ("north_m", pose.y - builder.centre[1]),
                    ("yaw_deg", np.degrees(pose.yaw)),
                )
            }
            rows.append(
                {"ground": str(path.resolve()), "satellite": name, "camera": "camera.yaml"}
                | {"meters_per_pixel": cell, "camera_height_m": sequence.T_base_camera[2, 3]}
                | {"prior_radius_m": radius, "prior_yaw_range_deg": yaw_range}
                | {column: f"{value:.4f}" for column, value in poses.items()}
            )
        progress(k + 1)
    with (out / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, (*FILES, *NUMBERS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _camera_yaml(sequence: KittiOdometry) -> str:
    """Return the camera as `pairs.read_camera` reads it."""
    camera: PinholeCamera = sequence.camera
    forward = sequence.T_base_camera[:3, 2]
    mount = {"yaw_deg": np.arctan2(forward[1], forward[0]), "pitch_deg": -np.arcsin(forward[2])}
    content = {
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.K.ravel().tolist()},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
        "mount": {name: float(np.degrees(angle)) for name, angle in mount.items()},
    }
    return yaml.safe_dump(content, sort_keys=False)


def main(
    sequence: Annotated[Path, typer.Argument(help="A KITTI odometry sequence: calib.txt, poses.txt, image_0/.")],
    out: Annotated[Path, typer.Argument(help="Folder for all.tif, mosaics/*.tif, camera.yaml and pairs.csv.")],
    left_out: Annotated[int, typer.Option(min=0, help="Frames to each side that a frame's mosaic does not have.")] = 5,
    priors: Annotated[int, typer.Option(min=1, help="Of each frame.")] = 6,
    radius: Annotated[float, typer.Option(min=0.1, help="A prior's largest error, metres along each axis.")] = 20.0,
    yaw_range: Annotated[float, typer.Option(min=0.1, help="The same, degrees.")] = 10.0,
    cell: Annotated[float, typer.Option(min=0.02, max=2.0, help="Metres of a pixel.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the priors.")] = 0,
) -> None:
    """Build ground mosaics of a drive with true poses, and pairs on which `cvloc eval pairs` localizes its frames."""
    from rich.progress import Progress

    try:
        drive = KittiOdometry(sequence)
        with Progress() as bar:
            task = bar.add_task("mosaics", total=len(drive))
            count = write_mosaic_pairs(
                drive,
                out,
                left_out=left_out,
                priors=priors,
                radius=radius,
                yaw_range=yaw_range,
                cell=cell,
                seed=seed,
                progress=lambda done: bar.update(task, completed=done),
            )
    except (DatasetError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    print(f"{out}: {len(drive)} mosaics, {count} pairs. Next: cvloc eval pairs {out / 'pairs.csv'}")


if __name__ == "__main__":
    typer.run(main)
