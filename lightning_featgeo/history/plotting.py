"""Curves of a history as a figure, for notebooks: a panel a signal, a line for each stage and layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_featgeo._figure import axes_for, dress
from lightning_featgeo.errors import near_misses
from lightning_featgeo.history.logged import Metrics
from lightning_featgeo.history.record import Record

MOST_PANELS = 12  # where no names are given
_COUNT = "n_samples"
_MARKS = {"stop": ("#b00f36", "-"), "alarm": ("#9a5b00", "--"), "notice": ("#2d6a4f", ":")}


@dataclass
class Line:
    """One curve: NaN where a window has no value."""

    label: str
    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def lines_of(records: Sequence[Record], metrics: Metrics, names: Sequence[str]) -> dict[str, list[Line]]:
    """What is drawn in each panel.

    Args:
        records: closed windows.
        metrics: of the run's own.
        names: of signals, plain or as logged, or of the run's own metrics; none: the signals of the first layer.

    Raises:
        ValueError: if there is nothing of a name, with those that there are.
    """
    signals = list(dict.fromkeys(n for r in records for n in (*r.values, *r.gaps) if n != _COUNT))
    if not names:
        first = [r for r in records if r.layer is None]
        names = list(dict.fromkeys(n for r in first for n in r.values if n != _COUNT))[:MOST_PANELS]
    found: dict[str, list[Line]] = {}
    for name in names:
        lines: dict[tuple[str, str | None], Line] = {}
        for record in records:
            signal = name.removeprefix(record.prefix)
            if signal in record.values or signal in record.gaps:
                label = record.stage + (f"/{record.layer}" if record.layer else "")
                line = lines.setdefault((record.stage, record.layer), Line(label))
                line.epochs.append(record.epoch)
                line.values.append(record.values.get(signal, math.nan))
                line.errors.append(record.standard_errors.get(signal, math.nan))
        if not lines and name in metrics.names():
            times = sorted({(m.epoch, m.step) for m in metrics.moments} | {(r.epoch, r.step) for r in records})
            known = list(zip(times, metrics.at(name, times), strict=True))  # it stands until it is logged anew
            begin = next(i for i, (_, value) in enumerate(known) if not math.isnan(value))
            own = Line(name, [epoch for (epoch, _), _ in known[begin:]], [value for _, value in known[begin:]])
            own.errors = [math.nan] * len(own.values)
            lines["", None] = own
        if not lines:
            there = dict.fromkeys([*signals, *metrics.names()])
            raise ValueError(f"there is no {name!r} in this history.{near_misses(name, list(there))}")
        found[name] = list(lines.values())
    if not found:
        why = "records have the reasons in their gaps" if records else "no window has closed: train first"
        raise ValueError(f"there is no value to plot yet: {why}")
    return found


def plot(panels: dict[str, list[Line]], events: Sequence[dict[str, Any]], ax: Any = None) -> Any:
    """Draw panels, with bands of ±1 standard error, crosses where a value is missing, and marks of alarms.

    Args:
        panels: title -> lines.
        events: of the history.
        ax: matplotlib axes, as many as there are panels; None: new ones.

    Returns:
        The figure, and an array of the axes.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ValueError: if there are not enough axes.
    """
    import numpy

    figure, axes = axes_for([*panels], ax)
    for one, (name, lines) in zip(axes, panels.items(), strict=True):
        for line in lines:
            _draw(one, line, numpy)
        for event in events:
            if event.get("kind") in _MARKS and isinstance(event.get("epoch"), (int, float)):
                colour, style = _MARKS[event["kind"]]
                one.axvline(event["epoch"], color=colour, linestyle=style, linewidth=1.2)
        dress(one, name)
        one.set_xlabel("epoch", fontsize=8)
    several = next((one for one, lines in zip(axes, panels.values(), strict=True) if len(lines) > 1), None)
    if several is not None:
        several.legend(fontsize=7, frameon=False)
    return figure, numpy.array(axes)


def _draw(axes: Any, line: Line, numpy: Any) -> None:
    epochs, values, errors = (numpy.array(each, dtype=float) for each in (line.epochs, line.values, line.errors))
    missing = numpy.isnan(values)
    few = len(values) == 1 or bool(missing.any())
    (drawn,) = axes.plot(epochs, values, label=line.label, marker="o" if few else None, markersize=3)
    if numpy.isfinite(errors).any():
        axes.fill_between(epochs, values - errors, values + errors, color=drawn.get_color(), alpha=0.18, linewidth=0)
    if missing.any():
        bottom = axes.get_xaxis_transform()  # at the lower edge, whatever the values are
        axes.plot(
            epochs[missing], numpy.zeros(missing.sum()), "x", color=drawn.get_color(), transform=bottom, clip_on=False
        )
