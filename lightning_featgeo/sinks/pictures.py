"""Charts as pictures, drawn by matplotlib for loggers that take them. No global state: ``pyplot`` is not touched."""

from __future__ import annotations

import functools
import textwrap
from typing import TYPE_CHECKING, Any

from lightning_featgeo import _compat
from lightning_featgeo.sinks.tables import Chart, Lines, Matrix, Scatter, Units

if TYPE_CHECKING:
    import numpy
    from matplotlib.figure import Figure

_TOLD = {0.0: "0", 2**-6: "1/64", 2**-3: "1/8", 1.0: "1", 8.0: "8", 64.0: "64"}  # edges of bins with a number at them
HOW_TO = "pip install matplotlib"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return _compat.is_installed("matplotlib")


@functools.lru_cache(maxsize=1)  # the next logger is shown the same chart
def drawn(chart: Chart) -> numpy.ndarray[Any, Any]:
    """(height, width, 3) bytes: a chart's picture, drawn once for all loggers."""
    import numpy

    figure = (
        lines(chart)
        if isinstance(chart, Lines)
        else matrix(chart)
        if isinstance(chart, Matrix)
        else scatter(chart)
        if isinstance(chart, Scatter)
        else units(chart)
    )
    canvas: Any = figure.canvas
    canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[..., :3].copy()


def _new(width: float, height: float, title: str) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title("\n".join(textwrap.wrap(_plain(title), int(11 * width))), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def lines(chart: Lines) -> Figure:
    """A line a key, from dark (early) to bright (late)."""
    from matplotlib import colormaps

    figure, axes = _new(6.4, 4.0, chart.title)
    colours = colormaps["viridis"]
    for i, (key, (x, y)) in enumerate(chart.series.items()):
        shown = [value if value > 0 or not chart.logarithmic else float("nan") for value in y]
        axes.plot(x, shown, label=_plain(key), color=colours(0.9 * i / max(1, len(chart.series) - 1)), marker=".", ms=3)
    if chart.logarithmic and any(value > 0 for _, y in chart.series.values() for value in y):
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    return figure


def matrix(data: Matrix) -> Figure:
    """From −1 (blue) to 1 (red), or from 0 (dark) to 1 (bright)."""
    n = len(data.names)
    side = min(0.3 * n, 12.0)
    figure, axes = _new(2.5 + side, 2 + side, data.title)
    image = axes.imshow(data.values, vmin=data.lowest, vmax=1, cmap="RdBu_r" if data.lowest < 0 else "viridis")
    labels = [_plain(name[:18] + ("…" if len(name) > 18 else "")) for name in data.names]
    size = 7 if n <= 40 else 5
    axes.set_xticks(range(n), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(n), labels, fontsize=size)
    figure.colorbar(image, ax=axes, shrink=0.7, label=data.what)
    return figure


def scatter(data: Scatter) -> Figure:
    """Points coloured by group; more than twenty groups share colours."""
    from matplotlib import colormaps

    figure, axes = _new(5.5, 5.0, data.title)
    groups = sorted(set(data.groups))
    colours = colormaps["tab20"]
    for i, group in enumerate(groups):
        x, y = zip(*(p for p, g in zip(data.points, data.groups, strict=True) if g == group), strict=True)
        axes.scatter(x, y, s=8, color=colours(i % 20), label=_plain(group[:18]))
    axes.set_aspect("equal", "datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    if 1 < len(groups) <= 20:
        axes.legend(fontsize=7, frameon=False, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def units(data: Units) -> Figure:
    """A line a unit, bright where many of its values are; zero in the middle, larger values in ever wider bins."""
    from matplotlib.colors import PowerNorm

    figure, axes = _new(6.4, 6.4, data.title)
    image = axes.imshow(
        data.shares.numpy(), aspect="auto", origin="lower", cmap="magma",
        norm=PowerNorm(0.5, 0, float(data.shares.max())),
        interpolation="nearest" if len(data.shares) <= 64 else "antialiased",
    )  # fmt: skip
    told = [i for i, edge in enumerate(data.edges) if abs(edge) in _TOLD]
    names = [("−" if data.edges[i] < 0 else "") + _TOLD[abs(data.edges[i])] for i in told]
    axes.set_xticks([i + 0.5 for i in told], names, fontsize=8)
    axes.set_xlabel("value")
    axes.set_ylabel(data.y)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the unit's values")
    return figure


def _plain(text: str) -> str:
    """Matplotlib takes what is between dollar signs for mathematics, and labels that begin with _ for none."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
