"""Axes for small multiples, of whoever draws in a notebook: matplotlib is imported when the first one does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

COLUMNS = 4


def axes_for(titles: Sequence[str], ax: Any = None) -> tuple[Any, list[Any]]:
    """A figure and an axes for each title; those that are left over in a new grid are blank.

    Args:
        titles: of the panels.
        ax: matplotlib axes to draw into, one or several; None: a new figure.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ValueError: if there are not enough axes.
    """
    try:
        import matplotlib.pyplot as plt
        import numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot() needs matplotlib: pip install 'lightning-featgeo[notebook]'") from error

    if ax is not None:
        axes = list(numpy.atleast_1d(ax).flat)
        if len(axes) < len(titles):
            raise ValueError(f"{len(titles)} signals need an axes each, got {len(axes)}: {', '.join(titles)}")
        return axes[0].get_figure(), axes[: len(titles)]
    columns = min(COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for unused in axes[len(titles) :]:
        unused.set_axis_off()
    return figure, axes[: len(titles)]


def dress(axes: Any, title: str) -> None:
    """The look that all of them share."""
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
