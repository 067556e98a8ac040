"""`cvloc eval` on data sets: what is measured, what an interruption costs, and what the tables say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from test_kitti_dataset import imu_poses, root  # noqa: F401 (fixtures: a town in KITTI's layout)
from test_localizer import KnownMatcher
from test_protocols import CALIBRATION, items
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.kitti import Kitti
from cvloc_ros.evaluation.item_frames import ItemFrames, evaluate_items, read_frames, spread_over
from cvloc_ros.evaluation.item_report import choose_cases
from cvloc_ros.evaluation.item_summary import highly_accurate_metrics, intervals, summarize_items
from cvloc_ros.evaluation.item_tables import COLUMNS, own_rows
from cvloc_ros.evaluation.metrics import PoseErrors
from cvloc_ros.evaluation.protocol_notes import identify
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.localizer import Localizer

IDENTITY = {"protocol": "pairs", "method": "known", "weights": "1"}


def localizer() -> Localizer:
    return Localizer(KnownMatcher([3.0, 2.0, 0.1]), CALIBRATION, None)


def drawn_frames(count: int, *, sigma=(0.8, 0.4, 0.02), seed=0) -> ItemFrames:
    """Estimates that are off by normal errors along and across the truth, from priors in the box."""
    rng = np.random.default_rng(seed)
    truth = [SE2(*rng.uniform(-50, 50, 2), rng.uniform(-3, 3)) for _ in range(count)]
    box = (rng.uniform(-1, 1, (count, 3)) * [20, 20, np.radians(10)]).tolist()
    return ItemFrames(
        index=np.arange(count),
        name=[f"drive/{k:06d}.png" for k in range(count)],
        prior=[pose @ SE2(*shift).inverse() for pose, shift in zip(truth, box, strict=True)],
        truth=truth,
        estimate=[pose @ SE2(*(rng.normal(size=3) * sigma)) for pose in truth],
        blind=truth,
        covariance=np.array([np.diag(np.square(sigma))] * count),
        quality=rng.uniform(size=count),
        accepted=rng.uniform(size=count) > 0.2,
        milliseconds=np.ones(count),
    )


class Breaking:
    """Items of which one cannot be read."""

    def __init__(self, made, broken):
        self.made, self.broken, self.asked = made, broken, []

    def __len__(self):
        return len(self.made)

    def __getitem__(self, index):
        self.asked.append(index)
        if index == self.broken:
            raise DatasetError("no such file")
        return self.made[index]


class TestResuming:
    def test_interrupted_work_goes_on_where_it_was_and_gives_the_same(self, tmp_path):
        made = items(6)
        with pytest.raises(DatasetError):
            evaluate_items(localizer(), Breaking(made, 4), tmp_path / "a", indices=range(6), identity=IDENTITY)
        with (tmp_path / "a/frames.csv").open("a") as file:
            file.write("4,4.png,40.0,5.")  # the machine went off in the middle of a line
        again, told = Breaking(made, None), []
        resumed = evaluate_items(
            localizer(), again, tmp_path / "a", indices=range(6), identity=IDENTITY, progress=told.append
        )
        assert again.asked == [4, 5] and told == [4, 5, 6]
        straight = evaluate_items(localizer(), made, tmp_path / "b", indices=range(6), identity=IDENTITY)
        assert resumed.name == straight.name and resumed.estimate == straight.estimate
        assert without_times(tmp_path / "a/frames.csv") == without_times(tmp_path / "b/frames.csv")
        summaries = [summarize_items(replace(f, milliseconds=np.ones(6))) for f in (resumed, straight)]
        assert summaries[0] == summaries[1]

    def test_more_frames_are_added_to_those_there(self, tmp_path):
        made = items(7)
        few = evaluate_items(localizer(), made, tmp_path, indices=spread_over(7, 3), identity=IDENTITY)
        assert few.name == ["0.png", "3.png", "6.png"]
        counting = Breaking(made, None)
        everything = evaluate_items(localizer(), counting, tmp_path, indices=spread_over(7, None), identity=IDENTITY)
        assert counting.asked == [1, 2, 4, 5] and everything.name == [f"{k}.png" for k in range(7)]

    def test_results_of_other_weights_are_not_mixed(self, tmp_path):
        evaluate_items(localizer(), items(1), tmp_path, indices=[0], identity=IDENTITY)
        with pytest.raises(ValueError, match="weights: 1 before, 2 now.*choose another --out"):
            evaluate_items(localizer(), items(1), tmp_path, indices=[0], identity=IDENTITY | {"weights": "2"})

    def test_another_list_begins_anew_and_says_so(self, tmp_path):
        """Rows are known by their number alone: those of an edited or reordered list are not reported as its own."""
        first = items(3)
        evaluate_items(localizer(), first, tmp_path, indices=range(3), identity=IDENTITY | {"list": "1"})
        before, said = (tmp_path / "frames.csv").read_bytes(), []
        again = evaluate_items(
            localizer(), first[::-1], tmp_path, indices=range(3), identity=IDENTITY | {"list": "2"}, say=said.append
        )
        assert again.name == ["2.png", "1.png", "0.png"] and len(said) == 1
        assert (tmp_path / "frames_before.csv").read_bytes() == before and "frames_before.csv" in said[0]
        counting = Breaking(first, None)
        evaluate_items(localizer(), counting, tmp_path, indices=range(3), identity=IDENTITY | {"list": "2"})
        assert counting.asked == []
        both = IDENTITY | {"list": "1", "weights": "2"}
        with pytest.raises(ValueError, match="another evaluation"):
            evaluate_items(localizer(), first, tmp_path, indices=range(3), identity=both)

    def test_identity_tells_lists_and_devices_apart(self, root, tmp_path):  # noqa: F811
        """The same path may hold another list."""

        def identity(device="cpu"):
            return identify("kitti-same", root, Kitti(root, "same"), method="vote_flow", weights=None, device=device)

        before, path = identity(), root / "dataLoader/test1_files.txt"
        assert identity() == before != identity("cuda")
        right = path.read_text()
        for wrong in (right.replace("-0.25", "-0.26"), "".join(right.splitlines(keepends=True)[::-1])):
            path.write_text(wrong)
            found = identity()
            assert {key for key in found if found[key] != before[key]} == {"list"}
        path.write_text(right)

    def test_what_is_written_is_what_was_found(self, tmp_path):
        evaluate_items(localizer(), items(2), tmp_path, indices=[0, 1], identity=IDENTITY)
        frames = read_frames(tmp_path / "frames.csv", [1])
        item = items(2)[1]
        found = localizer().match(item.frame, item.prior, item.patch)
        np.testing.assert_allclose(frames.estimate[0].vector(), found.T_map_base.vector(), atol=1e-5)
        np.testing.assert_allclose(frames.covariance[0], found.covariance, rtol=1e-5, atol=1e-9)
        with (tmp_path / "frames.csv").open() as file:
            row = list(csv.DictReader(file))[1]
        assert float(row["lateral_error_m"]) == pytest.approx(np.cos(0.1), abs=1e-3)
        assert float(row["longitudinal_error_m"]) == pytest.approx(np.sin(0.1), abs=1e-3)


def without_times(path):
    with path.open() as file:
        return [row[:-1] for row in csv.reader(file)]


class TestMetrics:
    def test_highly_accurates_are_those_of_its_frames(self):
        """A shift of 20 m is found but for 2 degrees of heading: 0.7 m by its reckoning, 0 in the map."""
        frames = drawn_frames(1)
        prior, truth = SE2(5.0, 7.0, 1.0), SE2(5.0, 7.0, 1.0) @ SE2(20.0, 0.0, 0.0)
        frames = replace(frames, prior=[prior], truth=[truth], estimate=[replace(truth, yaw=truth.yaw + np.radians(2))])
        found = highly_accurate_metrics(frames)
        assert found["position_error_m"]["mean"] == pytest.approx(2 * 20 * np.sin(np.radians(1)))
        assert found["lateral_error_m"]["mean"] == pytest.approx(20 * np.sin(np.radians(2)))
        assert found["yaw_error_deg"]["median"] == pytest.approx(2)
        assert summarize_items(frames)["estimate"]["position_error_m"]["mean"] == pytest.approx(0)

    def test_highly_accurates_agree_where_the_heading_is_right(self):
        frames = drawn_frames(200, sigma=(0.8, 0.4, 1e-9))
        own, theirs = summarize_items(frames)["estimate"], highly_accurate_metrics(frames)
        for name in ("position_error_m", "lateral_error_m", "longitudinal_error_m"):
            assert own[name]["median"] == pytest.approx(theirs[name]["median"])

    def test_chance_is_what_the_priors_score(self):
        chance = summarize_items(drawn_frames(4000))["chance"]
        assert chance["position_error_m"]["mean"] == pytest.approx(15.3, abs=0.3)
        assert chance["recall"]["lateral_1m"] == pytest.approx(0.05, abs=0.01)
        assert chance["recall"]["longitudinal_5m"] == pytest.approx(0.25, abs=0.03)

    def test_intervals_hold_the_true_value_as_often_as_they_claim(self):
        """The median of |N(0, 0.02)| is 0.6745 of its sigma."""
        true = np.degrees(0.6745 * 0.02)
        found = [intervals(drawn_frames(150, seed=seed))["yaw_error_deg.median"] for seed in range(30)]
        assert 26 <= sum(low < true < high for low, high in found) <= 30
        assert found[0] == intervals(drawn_frames(150, seed=0))["yaw_error_deg.median"]

    def test_all_statistics_and_shares_have_intervals(self):
        frames = drawn_frames(300)
        summary = summarize_items(frames)
        row, interval = own_rows("m", summary)[:2]
        for name, value, span in zip(COLUMNS, row[1:], interval[1:], strict=True):
            if name in ("NEES", "in 95 %"):
                continue
            low, high = (float(bound) for bound in span.removesuffix(" %").split("–"))
            assert low - 0.5 <= float(value.removesuffix(" %")) <= high + 0.5, name

    def test_frames_that_resemble_their_neighbours_count_less(self):
        """Each answer ten times over is no more evidence than once: blocks are longer than that."""
        frames = drawn_frames(200)
        repeated = ItemFrames(
            **{
                name: [v for v in value for _ in range(10)] if isinstance(value, list) else np.repeat(value, 10, axis=0)
                for name, value in vars(frames).items()
            }
        )
        width = [np.diff(intervals(f)["position_error_m.mean"])[0] for f in (frames, repeated)]
        assert width[1] == pytest.approx(width[0], rel=0.35)

    def test_few_frames_and_none_accepted(self):
        frames = drawn_frames(1)
        summary = summarize_items(replace(frames, accepted=np.array([False])))
        assert "accepted" not in summary and summary["frames"] == 1
        assert [row[0] for row in own_rows("m", summary)] == [
            "m",
            "  95 % interval",
            "blind (image blanked)",
            "chance (the prior)",
        ]


def test_worst_cases_are_the_worst():
    frames = drawn_frames(40)
    error = PoseErrors.between(frames.estimate, frames.truth).position
    cases = dict(choose_cases(frames))
    assert cases["Worst accepted 1"] == max(np.flatnonzero(frames.accepted), key=lambda k: error[k])
    assert cases["Best"] == error.argmin()
    assert len(set(cases.values())) == len(cases) == 8
    assert len(choose_cases(drawn_frames(1))) >= 2


class TestCommand:
    def test_kitti(self, root, tmp_path):  # noqa: F811
        """Both tables, the caveat, and everything on disk; the real matcher on the painted town."""
        command = ["eval", "kitti", str(root), "--protocol", "same", "--out", str(tmp_path), "--device", "cpu"]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "250"}, catch_exceptions=False)
        assert result.exit_code == 0
        for text in (
            "kitti-same",
            "2 frames",
            "chance (the prior)",
            "blind (image blanked)",
            "dense-flow",
            "0.1 s from",
        ):
            assert text in result.output
        out = tmp_path / "kitti-same"
        page = (out / "report.html").read_text()
        assert page.count("data:image/jpeg") >= 2 and "Beside the literature" in page
        summary = json.loads((out / "summary.json").read_text())
        assert summary["frames"] == 2 and summary["protocol"] == "kitti-same"
        assert summary["method"] == "vote_flow" and summary["estimate"]["position_error_m"]["median"] > 0
        assert "| FG2 |" in (out / "table.md").read_text()
        before = (out / "frames.csv").read_bytes(), (out / "table.md").read_bytes()
        again = CliRunner().invoke(app, command, catch_exceptions=False)
        assert again.exit_code == 0
        assert before == ((out / "frames.csv").read_bytes(), (out / "table.md").read_bytes())

    def test_what_is_not_there_is_left_out_unless_it_was_asked_for(self, tmp_path):
        (tmp_path / "dataLoader").mkdir()
        command = ["eval", "kitti", str(tmp_path), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, DatasetError) and "test1_files.txt" in str(result.exception)
        assert result.output.count("is left out") == 3

    def test_what_takes_long_to_open_shows_it(self, tmp_path):
        """kitti-cross-clean reads a file of each of 27 000 frames."""
        command = ["eval", "kitti", str(tmp_path), "--protocol", "cross-clean"]
        result = CliRunner().invoke(app, command, env={"FORCE_COLOR": "1"})  # as if on a terminal
        assert isinstance(result.exception, DatasetError) and "opening kitti-cross-clean" in result.output
        assert "opening" not in CliRunner().invoke(app, command).output  # nor in a log file

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["kitti"], "cvloc eval kitti ROOT"),
            (["kitti", "here", "--protocol", "log1"], "kitti-cross-clean"),
            (["mars"], "town-drives"),
            (
                ["town", "--protocol", "kitti-same"],
                "takes --pairs and the options of all data sets, got --protocol",
            ),
            (["town", "--frames", "9"], "got --frames"),
            (["town", "here"], "got ROOT"),
            (["town-drives", "here", "--pairs", "300"], "takes --count, --scenario, --image-rate, --workers and"),
            (["kitti", "here", "--pairs", "20"], "kitti takes ROOT, --protocol, --frames and"),
        ],
    )
    def test_wrong_arguments_are_told_the_right_ones(self, arguments, message):
        result = CliRunner().invoke(app, ["eval", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 2 and message in result.output
