"""The pairs set: a table and its images give back the town's truth, for every kind of camera."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from painted_town import FINE, assert_pictures_agree, assert_same_pose, painted_town, write_image, write_text
from rasterio.errors import NotGeoreferencedWarning
from test_messages import huge_png

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.pairs import FILES, NUMBERS, Pairs, read_camera
from cvloc_ros.geometry import SE2, EquirectangularCamera, FisheyeCamera, PinholeCamera, camera_extrinsics

SIZE, PIXEL = 800, 0.15  # of the satellite pictures
OFFSET = (12.0, -9.0)  # metres east and north, from the picture's middle to the camera
PRIOR = SE2(18.0, -15.0, 0.06)  # of the vehicle, relative to the truth's position and heading
CAMERAS = {
    "pinhole.yaml": PinholeCamera(
        640, 360, np.array([[400.0, 0, 313], [0, 403, 173], [0, 0, 1]]), (-0.1, 0.02, 1e-3, -5e-4, 0.0)
    ),
    "fisheye.yaml": FisheyeCamera(
        1280, 960, np.array([[420.0, 0, 645], [0, 421, 470], [0, 0, 1]]), (0.02, -0.01, 0.003, -0.0005)
    ),
    "equirectangular": EquirectangularCamera(2048, 1024),
}
HEIGHTS = {"pinhole.yaml": 1.5, "fisheye.yaml": 1.7, "equirectangular": 2.4}
MOUNTS = {"pinhole.yaml": {"pitch_deg": 3.0}, "fisheye.yaml": {"yaw_deg": 5.0, "pitch_deg": 10.0, "roll_deg": -2.0}}


def mount_of(name: str) -> np.ndarray:
    angles = {key.removesuffix("_deg"): np.radians(value) for key, value in MOUNTS.get(name, {}).items()}
    return camera_extrinsics(height=HEIGHTS[name], **angles)


def calibration(name: str) -> str:
    camera = CAMERAS[name]
    content = {
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_name": "front",
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.K.ravel().tolist()},
        "distortion_model": "equidistant" if isinstance(camera, FisheyeCamera) else "plumb_bob",
        "distortion_coefficients": {
            "rows": 1, "cols": len(camera.distortion), "data": list(camera.distortion),
        },
        "mount": MOUNTS[name],
    }  # fmt: skip
    return yaml.safe_dump(content)


def truth() -> SE2:
    """In the frame around the satellite picture's middle."""
    return SE2(*OFFSET, painted_town().pose.yaw)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    folder, world = tmp_path_factory.mktemp("pairs"), painted_town()
    pose = world.pose
    along = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL
    satellite = world.paint(*np.meshgrid(pose.x - OFFSET[0] + along, pose.y - OFFSET[1] - along))
    write_image(folder / "above.png", satellite)
    prior = SE2(truth().x + PRIOR.x, truth().y + PRIOR.y, truth().yaw + PRIOR.yaw)
    rows = []
    for k, (name, camera) in enumerate(CAMERAS.items()):
        if name.endswith(".yaml"):
            write_text(folder / name, calibration(name))
        write_image(folder / f"ground/{k}.png", world.ground(pose, camera, mount_of(name)))
        values = [
            PIXEL,
            HEIGHTS[name],
            *OFFSET,
            np.degrees(truth().yaw),
            prior.x,
            prior.y,
            np.degrees(prior.yaw),
            20,
            10,
        ]
        row = dict(zip(NUMBERS, values, strict=True))
        rows.append(row | {"ground": f"ground/{k}.png", "satellite": "above.png", "camera": name, "comment": "night"})
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["comment", *FILES, *NUMBERS])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "pairs.csv"


@pytest.mark.parametrize("index", range(3), ids=list(CAMERAS))
def test_the_truth_comes_back(table, index):
    pairs = Pairs(table)
    item, name = pairs[index], list(CAMERAS)[index]
    assert len(pairs) == 3
    assert_same_pose(item.truth, truth())
    np.testing.assert_allclose(item.frame.T_base_camera, mount_of(name), atol=1e-9)
    assert type(item.frame.camera) is type(CAMERAS[name])
    T = item.prior.T_map_base
    np.testing.assert_allclose([T.x - OFFSET[0], T.y - OFFSET[1]], [PRIOR.x, PRIOR.y])
    np.testing.assert_allclose(np.sqrt(3 * np.diag(item.prior.covariance)), [20, 20, np.radians(10)])


@pytest.mark.parametrize(("index", "far"), [(0, 18.0), (1, 15.0), (2, 14.0)], ids=list(CAMERAS))
def test_pictures_agree_at_the_truth(table, index, far):
    assert_pictures_agree(Pairs(table, grid=FINE)[index], far=far)


def test_north_is_up_and_the_origin_is_the_pictures_middle(tmp_path):
    """A white spot 30 m east and 15 m north of the middle is ahead and to the left of who heads east."""
    above = np.zeros((400, 400, 3), np.uint8)
    above[200 - 60 - 2 : 200 - 60 + 2, 200 + 120 - 2 : 200 + 120 + 2] = 255  # 0.25 m a pixel
    write_image(tmp_path / "above.png", above)
    write_image(tmp_path / "ground.png", np.zeros((64, 128, 3), np.uint8))
    values = [0.25, 2.0, 0, 0, 0, 10, 5, 0, 20, 10]
    write_text(
        tmp_path / "pairs.csv",
        f"{','.join([*FILES, *NUMBERS])}\nground.png,above.png,equirectangular,{','.join(map(str, values))}\n",
    )
    patch = Pairs(tmp_path / "pairs.csv")[0].patch
    rows, columns = np.nonzero(patch.image[..., 0] > 100)
    x, y = patch.grid.to_metres(np.array([rows.mean(), columns.mean()]))
    assert (x, y) == pytest.approx((20, 10), abs=0.1)
    # from the prior the patch reaches 57.6 m, the picture 40 m to the right and 45 m to the left
    assert patch.coverage[144, 36] and not patch.coverage[144, 21]


def rewritten(table: Path, tmp_path: Path, **changes: str) -> Path:
    """The table with a cell of its first line changed, beside the same images."""
    for path in table.parent.iterdir():
        if path != table:
            (tmp_path / path.name).symlink_to(path)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= changes
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "pairs.csv"


@pytest.mark.parametrize("changes", [{"east_m": "1.5"}, {"camera": "fisheye.yaml"}, {"comment": "day"}])
def test_the_digest_tells_tables_apart_by_what_is_used_of_them(table, tmp_path, changes):
    same = Pairs(rewritten(table, tmp_path, **changes)).digest == Pairs(table).digest
    assert same == ("comment" in changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ground": "absent.png"}, "a ground image at .*absent.png"),
        ({"satellite": "absent.png"}, "a satellite picture at .*absent.png"),
        ({"camera": "absent.yaml"}, "a camera's calibration at .*absent.yaml"),
        ({"camera": "equirectangular"}, "twice as wide as high, got 640 x 360"),
        ({"camera": "fisheye.yaml"}, "expected 1280 x 960 pixels .* has 640 x 360"),
        ({"east_m": "far"}, "line 2: expected numbers in"),
        ({"yaw_deg": "nan"}, "line 2: expected finite numbers"),
        ({"meters_per_pixel": "0"}, "a positive meters_per_pixel in line 2"),
    ],
)
def test_a_wrong_cell_is_named(table, tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        Pairs(rewritten(table, tmp_path, **changes))[0]


def picture_pairs(tmp_path: Path, name: str) -> Pairs:
    """A panorama and a satellite picture of that name, 1 m a pixel."""
    write_image(tmp_path / "ground.png", np.zeros((64, 128, 3), np.uint8))
    values = [1.0, 2.0, 0, 0, 0, 0, 0, 0, 20, 10]
    row = f"ground.png,{name},equirectangular,{','.join(map(str, values))}"
    write_text(tmp_path / "pairs.csv", f"{','.join([*FILES, *NUMBERS])}\n{row}\n")
    return Pairs(tmp_path / "pairs.csv")


def write_tiff(path: Path, bands: np.ndarray, *, palette=None, transform=None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
            dtype=bands.dtype, transform=transform,
        ) as raster:  # fmt: skip
            raster.write(bands)
            if palette:
                raster.write_colormap(1, palette)


def test_a_palette_is_looked_up(tmp_path):
    """Its colours, not its numbers."""
    numbers = np.full((1, 200, 200), 7, np.uint8)
    numbers[..., :100] = 8
    write_tiff(tmp_path / "a.tif", numbers, palette={7: (10, 20, 200, 255), 8: (1, 2, 3, 255)})
    patch = picture_pairs(tmp_path, "a.tif")[0].patch  # heads east: that is up
    assert patch.image[20, 128].tolist() == [10, 20, 200]
    assert patch.image[240, 128].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("transform", "refused"),
    [
        (Affine(0.2, 0, 600000, 0, -0.2, 5300000), False),
        (Affine(0.2, 1e-5, 600000, 1e-5, -0.2, 5300000), False),  # as tools round
        (Affine(0.2, 0, 600000, 0, 0.2, 5300000), True),
        (Affine.translation(600000, 5300000) @ Affine.rotation(20) @ Affine.scale(0.2, -0.2), True),
    ],
)
def test_a_picture_whose_coordinates_are_not_north_up_is_refused(tmp_path, transform, refused):
    write_tiff(tmp_path / "a.tif", np.full((3, 200, 200), 90, np.uint8), transform=transform)
    pairs = picture_pairs(tmp_path, "a.tif")
    if refused:
        with pytest.raises(DatasetError, match=r"north up at .*a.tif, but .* turned or mirrored .*gdalwarp"):
            pairs[0]
    else:
        assert pairs[0].patch.covered > 0.9


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_picture_of_16_bits_is_refused(tmp_path, name):
    """Of 11 bits in 16, the upper byte would be nearly black."""
    pixels = np.full((200, 200, 3), 1500, np.uint16)
    if name == "a.png":
        assert cv2.imwrite(str(tmp_path / name), pixels)
    else:
        write_tiff(tmp_path / name, np.moveaxis(pixels, -1, 0))
    with pytest.raises(DatasetError, match=f"8 bits at .*{name}, got uint16: gdal_translate"):
        picture_pairs(tmp_path, name)[0]


@pytest.mark.parametrize("name", ["a.png", "ground.png"])
def test_an_image_that_claims_more_pixels_than_can_be_read_is_named(tmp_path, name):
    pairs = picture_pairs(tmp_path, "a.png")
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / name).write_bytes(huge_png().tobytes())
    with pytest.raises(DatasetError, match=f"at .*{name}, but its .* too large"):
        pairs[0]


def test_a_table_in_another_encoding_is_named(table, tmp_path):
    path = rewritten(table, tmp_path, comment="Straße")
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(DatasetError, match=r"expected UTF-8 in .*pairs.csv, line 2 is in another encoding"):
        Pairs(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a table of pairs at"),
        ("ground,satellite\na,b\n", "the columns ground, .* meters_per_pixel, .* missing"),
        (",".join([*FILES, *NUMBERS]) + "\n", "no lines below its header"),
        (",".join([*FILES, *NUMBERS]) + "\na,b,c,0.2\n", "line 2 of .* is cut off"),
        (",".join([*FILES, *NUMBERS]) + "\n" + 200_000 * "a", r"a table in .*pairs.csv, line 2: field larger than"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(DatasetError, match=message):
        Pairs(tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_matrix": None}, "describes no camera"),
        ({"image_width": "wide"}, "describes no camera"),
        ({"distortion_model": "mei"}, "plumb_bob, rational_polynomial or equidistant, got 'mei'"),
        ({"mount": {"pitch": 3}}, "expected yaw_deg, pitch_deg and roll_deg in mount, got pitch"),
    ],
)
def test_a_wrong_calibration_is_named(tmp_path, change, message):
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(calibration("pinhole.yaml")) | change))
    with pytest.raises(DatasetError, match=message):
        read_camera(path)
    path.write_text("image_width: 640\n")
    with pytest.raises(DatasetError, match="'image_height' is missing"):
        read_camera(path)
    path.write_text("image_width: [640\n")
    with pytest.raises(DatasetError, match="does not parse: [^\n]*$"):
        read_camera(path)
