"""The run's own metrics in its history: what is written, what of it stays, and what is read back."""

import math
import warnings
from pathlib import Path

import pytest

from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.history.history import History
from lightning_featgeo.history.logged import MOST_NAMES, MOST_TIMES, Logged, Metrics, is_ours


def test_what_has_changed_is_written_and_read_back(tmp_path: Path) -> None:
    history = History(tmp_path / "h.jsonl")
    history.log_metrics({"loss": 1.0, "val/loss": 2.0, "featgeo/val/nc1": 3.0}, 1.0, 5)
    history.log_metrics({"loss": 1.0, "val/loss": 2.0}, 1.5, 7)  # nothing new: no line
    history.log_metrics({"loss": math.nan, "val/loss": math.inf}, 2.0, 10)
    history.log_metrics({"loss": 0.5, "val/loss": math.nan}, 3.0, 15)
    assert len((tmp_path / "h.jsonl").read_text().splitlines()) == 3
    read = History.load(tmp_path / "h.jsonl")
    assert read.metrics.moments == history.metrics.moments
    assert read.series("loss") == history.series("loss") == [(1.0, 1.0), (3.0, 0.5)]
    assert read.metrics.names() == ["loss", "val/loss"]
    assert read.metrics.at("val/loss", [(0.5, 3), (1.0, 5), (1.9, 9), (2.0, 10)]) == pytest.approx(
        [math.nan, 2.0, 2.0, math.nan], nan_ok=True
    )


def test_a_metric_stands_as_of_its_epoch_and_step() -> None:
    metrics = Metrics()
    for epoch, step, value in ((1.0, 0, 1.0), (2.0, 0, 2.0), (2.0, 9, 3.0)):
        metrics.add(Logged(epoch, step, {"loss": value}))
    assert metrics.at("loss", [(1.0, 0), (2.0, 0), (2.0, 8), (2.0, 9)]) == [1.0, 2.0, 2.0, 3.0]


def test_names_and_moments_are_bounded() -> None:
    history = History()
    history.log_metrics({f"m{i}": 1.0 for i in range(2 * MOST_NAMES)}, 1.0, 1)
    assert len(history.metrics.names()) == MOST_NAMES
    assert history.metrics.is_full
    metrics = Metrics()
    for i in range(3 * MOST_TIMES):
        metrics.add(Logged(float(i), i, {"even" if i % 2 == 0 else "odd": float(i)}))
    assert MOST_TIMES // 2 < len(metrics.moments) <= MOST_TIMES
    last = 3 * MOST_TIMES - 1
    assert metrics.at("odd", [(float(last), last)]) == [float(last)]
    assert metrics.at("even", [(float(last), last)]) == [float(last - 1)]
    steps = [moment.step for moment in metrics.moments]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    "line",
    [
        '{"metrics": 3}', '{"metrics": {"epoch": 1}}', '{"metrics": {"epoch": NaN, "step": 1, "values": {}}}',
        '{"metrics": {"epoch": 1, "step": 1, "values": {"a": "x"}}}',
        '{"metrics": {"epoch": 1, "step": 1, "values": 2}}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_left_out_and_said(tmp_path: Path, line: str) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(f'{{"run": {{}}}}\n{line}\n{{"metrics": {{"epoch": 1, "step": 1, "values": {{"a": 1}}}}}}\n')
    with pytest.warns(FeatureGeometryWarning, match="1 lines"):
        assert History.load(path).series("a") == [(1.0, 1.0)]


def test_a_history_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"run": {"format": 2}}\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert History.load(path).metrics.names() == []


def test_a_file_is_read_whole_and_tells_how_a_metric_ended(tmp_path: Path) -> None:
    history = History(tmp_path / "h.jsonl")
    for i in range(MOST_TIMES + 900):
        history.log_metrics({"loss": float(i)}, float(i), i)
    history.log_metrics({"val": math.nan, "featgeometry": 1.0}, 1e4, 10_000)
    read = History.load(tmp_path / "h.jsonl", thin=True).metrics
    assert read.at("loss", [(float(i), i) for i in range(MOST_TIMES + 900)]) == [
        float(i) for i in range(MOST_TIMES + 900)
    ]
    assert (read.last("loss"), read.last("none")) == (float(MOST_TIMES + 899), None)
    assert math.isnan(read.last("val") or 0.0)
    assert read.names() == ["loss", "featgeometry"]


def test_no_form_of_our_own_names_is_a_metric() -> None:
    ours = ("featgeo/val/nc1", "featgeo_monitor/val/gaps", "eval_featgeo/val/nc1", "eval_a_featgeo/a/nc1")
    assert [name for name in (*ours, "val/featgeo", "loss") if not is_ours(name)] == ["val/featgeo", "loss"]
