"""Protocols by name, and one pass of a localizer over a data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from painted_town import write_text
from test_localizer import KnownMatcher

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.item import PATCH_GRID, Item, box_prior
from cvloc_ros.datasets.kitti import Kitti, far_from
from cvloc_ros.datasets.protocols import PROTOCOLS, Subset, open_protocol
from cvloc_ros.evaluation.items import localize_items
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.types import Frame

CALIBRATION = Calibration.constant((0.5, 0.5, 0.02), 0.9)


def test_all_of_the_literatures_protocols_are_there():
    expected = ["kitti-same", "kitti-cross", "kitti-cross-clean", *(f"ford-log{n}" for n in range(1, 7))]
    expected += ["vigor-same", "vigor-cross", "vigor-same-unaligned", "vigor-cross-unaligned"]
    expected += ["oxford-test1", "oxford-test2", "oxford-test3", "pairs"]
    assert list(PROTOCOLS) == expected
    with pytest.raises(ValueError, match="a protocol of kitti-same, .*, got 'kitti'"):
        open_protocol("kitti", "nowhere")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_folder_without_the_data_set_is_told_what_it_lacks(name, tmp_path):
    with pytest.raises(DatasetError, match=f"expected .* at {tmp_path}.*, but there is no such file: get it from"):
        open_protocol(name, tmp_path / "pairs.csv" if name == "pairs" else tmp_path)


def test_clean_frames_are_far_from_all_training_frames(tmp_path):
    """A frame 90 m from the nearest training frame is left out, one 110 m away stays."""
    datum = LocalFrame(49.0, 8.4)
    drives = {"train": "2011_09_26/2011_09_26_drive_0001_sync", "cross": "2011_09_26/2011_09_26_drive_0005_sync"}
    places = {"train": [(0, 0), (400, 0)], "cross": [(0, 90), (310, 0), (0, -110), (200, 200)]}
    for split, points in places.items():
        for k, (latitude, longitude) in enumerate(datum.to_wgs84(np.array(points, float))):
            record = [latitude, longitude, *[0.0] * 28]
            path = tmp_path / "raw_data" / drives[split] / f"oxts/data/{k:010d}.txt"
            write_text(path, " ".join(map(repr, map(float, record))))
        ending = "" if split == "train" else " 0 0 0"
        lines = [f"{drives[split]}/{k:010d}.png{ending}\n" for k in range(len(points))]
        write_text(
            tmp_path / "dataLoader" / {"train": "train_files.txt", "cross": "test2_files.txt"}[split], "".join(lines)
        )
    assert far_from(Kitti(tmp_path, "cross"), Kitti(tmp_path, "train"), 100.0) == [2, 3]
    clean = open_protocol("kitti-cross-clean", tmp_path)
    assert len(clean) == 2 and clean.indices == [2, 3]
    cross = clean.dataset
    assert len({cross.digest, clean.digest, Subset(cross, [3, 2]).digest}) == 3
    with pytest.raises(IndexError):
        clean[2]
    near = (tmp_path / "dataLoader/test2_files.txt").read_text().splitlines()[:2]
    write_text(tmp_path / "dataLoader/test2_files.txt", "\n".join(near))
    with pytest.raises(DatasetError, match="100 m from all training frames, but none of the 2 in"):
        open_protocol("kitti-cross-clean", tmp_path)


def items(count: int) -> list[Item]:
    camera = PinholeCamera.from_focal(416, 128, 240.0)
    made = []
    for k in range(count):
        prior = box_prior(SE2(10.0 * k, 5.0, np.pi / 2), radius=20.0, yaw=np.radians(10))
        side = PATCH_GRID.rows
        patch = Patch(np.zeros((side, side, 3), np.uint8), np.ones((side, side), bool), PATCH_GRID, prior.T_map_base)
        frame = Frame(k, np.full((128, 416, 3), 90, np.uint8), camera, camera_extrinsics(height=1.6))
        made.append(Item(f"{k}.png", frame, prior, prior.T_map_base @ SE2(3.0, 1.0, 0.1), patch))
    return made


class TestLocalizeItems:
    def test_answers_are_in_the_items_map(self):
        localizer = Localizer(KnownMatcher([3.0, 1.0, 0.1]), CALIBRATION, None)
        results = list(localize_items(localizer, Subset(items(4), [3, 1])))
        assert [result.name for result in results] == ["3.png", "1.png"]
        for result in results:
            np.testing.assert_allclose(result.localization.T_map_base.vector(), result.truth.vector(), atol=1e-9)

    def test_the_blind_model_sees_nothing(self):
        class Looking(KnownMatcher):
            def match(self, given):
                self.brightest = int(given.image.max())
                return super().match(given)

        matcher = Looking([0.0, 0.0, 0.0])
        localizer = Localizer(matcher, CALIBRATION, None)
        for blind, brightest in ((False, 90), (True, 0)):
            list(localize_items(localizer, items(1), blind=blind))
            assert matcher.brightest == brightest

    def test_patches_of_another_grid_are_refused(self):
        localizer = Localizer(KnownMatcher([0.0, 0.0, 0.0]), CALIBRATION, None)
        item = items(1)[0]
        other = replace(item, patch=replace(item.patch, grid=PATCH_GRID.coarser(2)))
        with pytest.raises(ValueError, match="patches on the matcher's grid"):
            list(localize_items(localizer, [other]))
