"""What the page's script draws from: numbers in columns, each axis and each reason once, few enough for one page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning_featgeo.metrics.reading_order import compared_with
from lightning_featgeo.report.curves import Curve, Panel
from lightning_featgeo.report.layouts import evenly, sequences
from lightning_featgeo.report.matrices import matrices
from lightning_featgeo.report.runs import Run

MOST_NUMBERS = 120_000  # values and standard errors on a page; beyond, windows are thinned evenly, and the page says so
MOST_SPECTRA = 24  # lines in a chart of spectra
MOST_LINES = 400  # in all of them


class Data:
    """What the script draws from: numbers in columns, each axis and reason once."""

    def __init__(self, runs: Sequence[Run], found: Sequence[Panel], show: Callable[..., Any]) -> None:
        self.notes: list[str] = []
        self._axes: dict[tuple[int, int], int] = {}
        self._reasons: dict[str, int] = {}
        curves = [curve for panel in found for curve in panel.curves]
        total = sum(len(curve.values) + sum(map(math.isfinite, curve.errors)) for curve in curves)
        self.stride = max(1, math.ceil(total / MOST_NUMBERS))
        if self.stride > 1:
            self.notes.append(
                f"{total:,} numbers are too many for one page: one window in {self.stride} is drawn, beside the last "
                "one and the latest with an alarm. The history files have them all."
            )
        marked = {(i, event.get("epoch")) for i, run in enumerate(runs) for event in run.history.events}
        axes: list[dict[str, Any]] = []
        shown = [self._panel(panel, axes, marked) for panel in show(found, desc="curves", unit="curve")]
        charts = sum(len({(r.stage, r.layer) for r in run.records if r.spectrum}) for run in runs)
        lines = max(3, min(MOST_SPECTRA, MOST_LINES // max(1, charts)))
        self.spectra = [each for i, run in enumerate(runs) for each in _spectra(i, run, lines)]
        self.layouts = sequences(runs)
        self.matrices = matrices(runs)
        self.page: dict[str, Any] = {
            "runs": [{"name": run.name} for run in runs],
            "panels": shown,
            "axes": axes,
            "reasons": list(self._reasons),
            "spectra": [{"lines": each["lines"]} for each in self.spectra],
            "layouts": self.layouts,
            "matrices": self.matrices,
            "marks": [mark for i, run in enumerate(runs) for mark in _marks(i, run)],
        }

    def _panel(self, panel: Panel, axes: list[dict[str, Any]], marked: set[Any]) -> dict[str, Any]:
        curves = []
        for curve in panel.curves:
            kept = self._kept(curve, marked)
            key = (id(curve.records[0]), len(kept))
            if key not in self._axes:
                self._axes[key] = len(axes)
                axes.append(
                    {
                        "epoch": [_round(curve.records[i].epoch) for i in kept],
                        "step": [curve.records[i].step for i in kept],
                    }
                )
            errors = [_round(curve.errors[i], 3) for i in kept]
            curves.append(
                {
                    "run": curve.run,
                    "axis": self._axes[key],
                    "value": [_round(curve.values[i]) for i in kept],
                    "error": errors if any(error is not None for error in errors) else None,
                    "gaps": {at: self._reason(curve.gaps[i]) for at, i in enumerate(kept) if i in curve.gaps},
                }
            )
        against = compared_with(panel.signal)[1]
        return {
            "signal": panel.signal, "stage": panel.stage, "layer": panel.layer, "against": against, "curves": curves,
        }  # fmt: skip

    def _kept(self, curve: Curve, marked: set[Any]) -> list[int]:
        last = len(curve.records) - 1
        return [
            i
            for i, record in enumerate(curve.records)
            if i % self.stride == 0 or i == last or (curve.run, record.epoch) in marked
        ]

    def _reason(self, text: str) -> int:
        return self._reasons.setdefault(text, len(self._reasons))


def _round(value: float, digits: int = 6) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    if not math.isfinite(short):  # the largest numbers there are, rounded up
        return value
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _marks(index: int, run: Run) -> list[dict[str, Any]]:
    found = []
    for event in run.history.events:
        parts = str(event.get("monitor", "")).split("/")
        if event.get("kind") in ("stop", "alarm", "notice") and isinstance(event.get("epoch"), (int, float)):
            stage, layer = parts[1] if len(parts) > 1 else None, parts[2] if len(parts) > 3 else None
            found.append(
                {"run": index, "stage": stage, "layer": layer, "epoch": _round(event["epoch"]),
                 "step": event.get("step"), "kind": event["kind"], "text": str(event.get("reason", ""))[:400]}
            )  # fmt: skip
    return found


def _spectra(index: int, run: Run, most: int) -> list[dict[str, Any]]:
    """A chart for each stage and layer that has spectra: evenly chosen windows, first and last among them."""
    series: dict[tuple[str, str | None], list[Any]] = {}
    for record in run.records:
        if any(value > 0 for _, value in record.spectrum):
            series.setdefault((record.stage, record.layer), []).append(record)
    found = []
    for (stage, layer), records in series.items():
        n = len(records)
        chosen = evenly(n, most)
        lines = [
            {
                "epoch": _round(records[i].epoch),
                "rank": [int(rank) for rank, _ in records[i].spectrum],
                "value": [_round(value, 4) for _, value in records[i].spectrum],
            }
            for i in chosen
        ]
        found.append({"run": index, "stage": stage, "layer": layer, "lines": lines, "of": n})
    return found
