"""Plots of signals, drawn for real."""

import math
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.plotting import plot_signals

mpl.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def metric() -> GeometryMetric:
    made = GeometryMetric(["feature_std", "effective_rank", "id_two_nn"])
    made.update(torch.sin(torch.arange(200.0)[:, None] * torch.arange(1, 9)))
    return made


def test_a_metric_draws_an_axes_a_signal() -> None:
    made = metric()
    figure, axes = made.plot()
    figure.canvas.draw()
    values = made.compute()
    assert [one.get_title().split()[0] for one in axes] == ["feature_std", "effective_rank", "id_two_nn"]
    for one, name in zip(axes, ("feature_std", "effective_rank", "id_two_nn"), strict=True):
        assert one.lines[0].get_ydata()[0] == pytest.approx(float(values[name]))
    assert axes[0].get_ylim() == pytest.approx((-0.05, 1.05))  # of the catalogue


def test_several_steps_are_a_line_with_gaps() -> None:
    steps = [{"nc1": 1.0, "cdnv": 2.0}, {"cdnv": 3.0}, {"nc1": torch.tensor(0.5), "cdnv": 1.0}]
    _, axes = plot_signals(steps, steps=[10, 20, 30])
    nc1, cdnv = (one.lines[0] for one in axes)
    assert list(nc1.get_xdata()) == [10, 20, 30]
    assert [math.isnan(y) for y in nc1.get_ydata()] == [False, True, False]
    assert list(cdnv.get_ydata()) == [2, 3, 1]


def test_into_axes_that_are_there() -> None:
    figure = mpl.figure.Figure()
    mine = figure.subplots()
    got, axes = plot_signals({"nc1": 1.0, "n_samples": 9.0}, mine)
    assert (got, axes) == (figure, mine)
    with pytest.raises(ValueError, match="2 signals need an axes each, got 1: nc1, cdnv"):
        plot_signals({"nc1": 1.0, "cdnv": 1.0}, mine)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no value to plot"):
        plot_signals({})
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-featgeo\[notebook\]'"):
        plot_signals({"nc1": 1.0})
