"""Plots for notebooks, after torchmetrics' convention: ``fig, ax = metric.plot()``, an axes a signal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_featgeo._figure import axes_for, dress
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL
from lightning_featgeo.types import Tensor

Values = Mapping[str, Tensor | float | int]


def plot_signals(values: Values | Sequence[Values], ax: Any = None, steps: Sequence[float | int] | None = None) -> Any:
    """Draw values of signals: a point each, or a line over steps with its gaps.

    Args:
        values: signal -> value, as ``compute()`` returns it; or one such dict a step, where a missing signal is a gap.
        ax: matplotlib axes to draw into: one, or as many as there are signals. None: new ones.
        steps: of the dicts, for the x axis; None: 1, 2, ….

    Returns:
        The figure, and the axes: one, or an array where there are several signals.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ValueError: if there is no value, or not an axes for each signal.
    """
    several = not isinstance(values, Mapping)
    each: list[Values] = list(values) if not isinstance(values, Mapping) else [values]
    names = list(dict.fromkeys(name for one in each for name in one if name != COUNT_SIGNAL))
    if not names:
        raise ValueError("there is no value to plot: window().gaps has the reasons")
    figure, axes = axes_for(names, ax)
    x = list(steps) if steps is not None else list(range(1, len(each) + 1))
    for one, name in zip(axes, names, strict=True):
        y = [float(values_of[name]) if name in values_of else math.nan for values_of in each]
        one.plot(x, y, marker="o" if len(each) == 1 or any(map(math.isnan, y)) else None, ms=4)
        _dressed(one, name, several)
    if len(names) == 1:
        return figure, axes[0]
    import numpy

    return figure, numpy.array(axes)


def _dressed(axes: Any, name: str, several: bool) -> None:
    signal = CATALOG.get(name)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(signal.direction if signal else "none", "")
    dress(axes, name + arrow)
    if signal is not None and signal.unit != "1":
        axes.set_ylabel(signal.unit, fontsize=8)
    if not several:
        axes.set_xticks([])
        if signal is not None and all(map(math.isfinite, signal.bounds)):
            low, high = signal.bounds
            margin = 0.05 * (high - low)
            axes.set_ylim(low - margin, high + margin)
