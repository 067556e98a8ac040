"""The literature's numbers beside our own, and what has to be said of them."""

from dataclasses import replace

import numpy as np
import pytest
from test_eval_items import drawn_frames, localizer

from cvloc_ros.datasets.kitti import Kitti, prior_to_vehicle
from cvloc_ros.datasets.protocols import PROTOCOLS
from cvloc_ros.evaluation.item_report import published_caption
from cvloc_ros.evaluation.item_summary import summarize_items
from cvloc_ros.evaluation.item_tables import COLUMNS, PUBLISHED_COLUMNS, own_rows, published_rows
from cvloc_ros.evaluation.protocol_notes import protocol_notes
from cvloc_ros.evaluation.published import PUBLISHED, caveat_of
from cvloc_ros.geometry import SE2


class TestPublished:
    def test_rows_are_of_protocols_that_exist_and_name_their_source(self):
        assert set(PUBLISHED) <= set(PROTOCOLS)
        for rows in PUBLISHED.values():
            assert rows
            for row in rows:
                assert row.source and any(v is not None for v in (*row.position, *row.yaw, *row.recall))

    def test_numbers_of_the_papers(self):
        cross = {row.method: row for row in PUBLISHED["kitti-cross"]}
        assert cross["dense-flow"].position == (7.97, 3.52) and cross["FG2"].recall == (37.89, 21.98, 23.03)
        assert {row.method: row.position for row in PUBLISHED["vigor-cross-unaligned"]}["dense-flow"] == (7.67, 3.67)
        assert {row.method: row.position for row in PUBLISHED["oxford-test2"]}["MCC"] == (1.95, 1.33)

    def test_rows_say_what_to_know(self):
        """Of weights that were picked on the test split, of depth, of what nobody can check."""
        for protocol, rows in PUBLISHED.items():
            caveats = {row.method: row.caveat for row in rows}
            assert "picks weights on the test split" in caveats["dense-flow"], protocol
            for method, words in (("Loc2", "monocular depth"), ("ViewBridge", "no code"), ("BevSplat", "weakly")):
                assert words in caveats.get(method, words), protocol
            if protocol.startswith(("kitti", "ford")):
                assert "picks weights on the test split" in caveats["LM"]
        same = {row.method: row for row in PUBLISHED["kitti-same"]}["Ze, Song and Shi"]
        assert (same.position, same.yaw) == ((0.73, None), (0.43, None)) and "one to three images" in same.caveat

    def test_a_right_position_is_right_whatever_the_heading_where_scripts_measure_in_the_map(self):
        """10 m from the prior with a heading that is 90 degrees off: 14 m by the scripts for KITTI."""
        frames = drawn_frames(1)
        truth = SE2(10.0, 0.0, 0.0)
        frames = replace(frames, prior=[SE2()], truth=[truth], estimate=[replace(truth, yaw=np.pi / 2)])
        summary = summarize_items(frames)
        means = {protocol: float(published_rows(protocol, "m", summary)[0][1]) for protocol in PROTOCOLS}
        for protocol, mean in means.items():
            body = protocol.startswith(("kitti", "ford"))
            assert mean == (14.14 if body else 0.0), protocol
            assert ("vehicle's own frame" if body else "distance in the map") in published_caption(protocol)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_the_own_row_comes_first_in_the_scripts_measure(self, protocol):
        summary = summarize_items(drawn_frames(30))
        rows = published_rows(protocol, "vote_flow", summary)
        assert all(len(row) == len(PUBLISHED_COLUMNS) + 1 for row in rows)
        assert all(len(row) == len(COLUMNS) + 1 for row in own_rows("vote_flow", summary))
        own = summary["highly_accurate" if protocol.startswith(("kitti", "ford")) else "estimate"]
        assert rows[0][1] == f"{own['position_error_m']['mean']:.2f}"
        if protocol == "kitti-cross-clean":
            assert len(rows) > 10 and "all of kitti-cross" in caveat_of(protocol)


class TestNotes:
    def test_truths_beyond_the_search_are_counted(self):
        """KITTI's box is turned by the heading's error: 3.9 % of uniform shifts lie over 20 m off along an axis."""
        frames = drawn_frames(20000)
        assert not any("reach" in note for note in protocol_notes("pairs", frames, localizer(), share=1.0))
        shifts = np.random.default_rng(1).uniform(-1, 1, (20000, 3))
        pairs = zip(frames.truth, shifts, strict=True)
        frames = replace(frames, prior=[truth @ prior_to_vehicle(*shift).inverse() for truth, shift in pairs])
        (note,) = protocol_notes("pairs", frames, localizer(), share=1.0)
        assert 3.5 < float(note.split(" % of the frames")[0].split()[-1]) < 4.3
        assert "up to 23 m and 10° off" in note

    @pytest.mark.shared_data
    @pytest.mark.parametrize(("split", "share"), [("same", "3.9 %"), ("cross", "3.9 %")])
    def test_of_the_published_lists(self, shared_data, split, share):
        if not (shared_data / "kitti/splits").is_dir():
            pytest.skip(f"{shared_data / 'kitti/splits'} is absent")
        shifts = Kitti("nowhere", split, splits=shared_data / "kitti/splits").shifts
        frames = replace(
            drawn_frames(1),
            prior=[SE2()] * len(shifts),
            truth=[prior_to_vehicle(*shift) for shift in shifts],
        )
        assert share in protocol_notes("kitti-cross", frames, localizer(), share=1.0)[-1]

    def test_of_a_given_heading_the_search_knows_less(self):
        """KNOWN_YAW's three sigmas are less than the least that is searched."""
        for protocol in PROTOCOLS:
            said = [note for note in protocol_notes(protocol, drawn_frames(2), localizer(), share=1.0) if "4°" in note]
            given = protocol.startswith(("vigor", "oxford")) and not protocol.endswith("unaligned")
            assert [note.startswith("The heading is given") for note in said] == [True] * given, protocol

    def test_a_part_is_no_figure(self):
        for protocol in ("pairs", "bag"):
            (note,) = protocol_notes(protocol, drawn_frames(1), localizer(), share=0.25)
            assert note == "25.0 % of the frames, spread evenly."
        note = protocol_notes("ford-log3", drawn_frames(1), localizer(), share=0.25)[1]
        assert note == "25.0 % of the protocol's frames, spread evenly: no figure for the literature."
