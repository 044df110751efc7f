"""A history's curves as a figure: what is drawn of values, gaps, errors, alarms and the run's own metrics."""

import math

import matplotlib
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record


@pytest.fixture
def history() -> History:
    history = History()
    for i in range(4):
        values = {"nc1": 4.0 - i, "n_samples": 100.0} if i != 2 else {"n_samples": 100.0}
        gaps = {} if i != 2 else {"nc1": Gap(GapKind.UNDEFINED, "one class")}
        for layer in (None, "deep"):
            errors = {"nc1": 0.5} if "nc1" in values else {}
            history.append(Record(i, "val", layer, i + 1.0, i, values, errors, gaps))
        history.log_metrics({"val/loss": 1 / (i + 1)}, i + 1.0, i)
    history.event(kind="alarm", epoch=3.0, monitor="featgeo/val/nc1")
    history.event(kind="note", epoch=2.0)
    return history


def test_lines_gaps_bands_and_alarms(history: History) -> None:
    figure, axes = history.plot("val/loss", "nc1")
    own, first = axes
    lines = {line.get_label(): line for line in first.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["val", "val/deep"]
    assert lines["val"].get_xdata().tolist() == [1.0, 2.0, 3.0, 4.0]
    assert lines["val"].get_ydata() == pytest.approx([4.0, 3.0, math.nan, 1.0], nan_ok=True)
    crosses = [line for line in first.get_lines() if line.get_marker() == "x"]
    assert [cross.get_xdata().tolist() for cross in crosses] == [[3.0], [3.0]]
    assert len(first.collections) == 2  # bands
    marks = [line for line in first.get_lines() if line.get_linestyle() == "--"]
    assert [mark.get_xdata()[0] for mark in marks] == [3.0]
    assert own.get_lines()[0].get_ydata().tolist() == [1.0, 1 / 2, 1 / 3, 1 / 4]
    assert not own.collections
    assert first.get_legend() is not None
    assert own.get_legend() is None
    plt.close(figure)


def test_a_logged_name_is_one_line(history: History) -> None:
    figure, axes = history.plot("featgeo/val/deep/nc1")
    assert [line.get_label() for line in axes[0].get_lines() if not line.get_label().startswith("_")] == ["val/deep"]
    plt.close(figure)


def test_without_names_the_first_layers_signals(history: History) -> None:
    history.append(Record(9, "val", "deep", 5.0, 9, {"cdnv": 1.0}))
    figure, axes = history.plot()
    assert [one.get_title() for one in axes] == ["nc1"]
    plt.close(figure)


def test_axes_of_ones_own_and_too_few_of_them(history: History) -> None:
    figure, given = plt.subplots(1, 2)
    assert history.plot("nc1", "val/loss", ax=given)[0] is figure
    with pytest.raises(ValueError, match="2 signals need an axes each, got 1"):
        history.plot("nc1", "val/loss", ax=given[0])
    plt.close(figure)


def test_what_is_not_there_is_named(history: History) -> None:
    with pytest.raises(ValueError, match=r"no 'nc2' in this history\. Did you mean 'nc1'"):
        history.plot("nc2")
    with pytest.raises(ValueError, match="no value to plot yet"):
        History().plot()


def test_a_notebooks_table_scrolls_and_has_no_empty_column(history: History) -> None:
    shown = History()
    shown.append(Record(0, "val", None, 1.0, 1, {"nc1": 2.0}))
    assert "layer" not in shown._repr_html_()
    table = history._repr_html_()
    assert "<th>layer</th>" in table
    assert table.count("<div style='overflow-x: auto'>") == table.count("</div>") == 1


def test_a_metric_stands_until_it_is_logged_anew_and_is_interrupted_where_it_is_no_number() -> None:
    history = History()
    for t in range(10):
        history.append(Record(t, "val", None, t + 1.0, t, {"nc1": 1.0}))
        history.log_metrics({"flat": 0.5 if t < 8 else 0.9, "late": 1.0 if t else math.nan}, t + 1.0, t)
        history.log_metrics({"broken": math.nan if 3 < t < 6 else float(t)}, t + 1.0, t)
    _, axes = history.plot("flat", "broken", "late")
    flat, broken, late = (one.get_lines()[0].get_ydata().tolist() for one in axes)
    assert flat == [0.5] * 8 + [0.9] * 2
    assert broken == pytest.approx([0, 1, 2, 3, math.nan, math.nan, 6, 7, 8, 9], nan_ok=True)
    assert late == [1.0] * 9  # from its first number on
    plt.close("all")
    with pytest.raises(ValueError, match="there is no 'nc'"):
        history.plot("nc")
