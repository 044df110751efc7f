"""From histories to panels: one signal of one stage and layer each, with the runs that can be compared in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.fingerprint import differences, fingerprint, in_words, unknown
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import COUNT_SIGNAL, facts_not_read
from lightning_featgeo.metrics.reading_order import HEADINGS, OTHERS, heading
from lightning_featgeo.report.runs import Run


@dataclass
class Curve:
    """One run's values of a signal. NaN where a window has no value; ``gaps`` says why, by position."""

    run: int
    records: list[Record]
    values: list[float]
    errors: list[float]
    gaps: dict[int, Gap]
    facts: dict[str, Any]


@dataclass
class Panel:
    """What is drawn together. ``apart``: why these runs stand apart from the panel before."""

    signal: str
    stage: str
    layer: str | None
    curves: list[Curve]
    apart: list[str] = field(default_factory=list)

    @property
    def path(self) -> str | None:
        """The layer's module path, as far as it was written down."""
        return next((curve.facts.get("layer") for curve in self.curves if curve.facts.get("layer")), self.layer)


def panels(runs: Sequence[Run]) -> list[Panel]:
    """All panels, in the order of stages, layers, headings and signals; curves that can't be compared are apart."""
    by_key: dict[tuple[str, str | None, str], list[Curve]] = {}
    for index, run in enumerate(runs):
        for (stage, layer), records in _series(run).items():
            for signal in _signals(records):
                curve = _curve(index, signal, records, run.history.run.get("definitions") or {})
                by_key.setdefault((stage, layer, signal), []).append(curve)
    order = {title: i for i, title in enumerate([*HEADINGS, OTHERS])}
    stages = list(dict.fromkeys(stage for stage, _, _ in sorted(by_key, key=lambda key: _stage_rank(key[0]))))
    first_seen = {key: i for i, key in enumerate(by_key)}
    found: list[Panel] = []
    for stage, layer, signal in sorted(
        by_key,
        key=lambda k: (stages.index(k[0]), k[1] is not None, str(k[1] or ""), order[heading(k[2])], first_seen[k]),
    ):
        found += _parted(stage, layer, signal, by_key[stage, layer, signal])
    return found


def _stage_rank(stage: str) -> tuple[int, str]:
    known = ("val", "train", "test")
    return (next((i for i, name in enumerate(known) if stage.startswith(name)), len(known)), stage)


def _series(run: Run) -> dict[tuple[str, str | None], list[Record]]:
    found: dict[tuple[str, str | None], list[Record]] = {}
    for record in run.records:
        found.setdefault((record.stage, record.layer), []).append(record)
    for records in found.values():
        records.sort(key=lambda record: (record.epoch, record.window))
    return found


def _signals(records: Sequence[Record]) -> list[str]:
    """Those that have a value or a gap; the count only if nothing else is there."""
    names = dict.fromkeys(name for record in records for name in (*record.values, *record.gaps))
    names.pop(COUNT_SIGNAL, None)
    return [*names] or [COUNT_SIGNAL]


def _curve(index: int, signal: str, records: list[Record], definitions: Mapping[str, int]) -> Curve:
    values = [_finite(record.values.get(signal)) for record in records]
    errors = [_finite(record.standard_errors.get(signal)) for record in records]
    missing = Gap(GapKind.OTHER, "it was not computed in this window")
    gaps = {i: records[i].gaps.get(signal, missing) for i, value in enumerate(values) if math.isnan(value)}
    return Curve(
        index, records, values, errors, gaps, fingerprint(signal, records, definitions, facts_not_read(signal))
    )


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _parted(stage: str, layer: str | None, signal: str, curves: list[Curve]) -> list[Panel]:
    """Panels of curves that can be compared with their first one."""
    found: list[Panel] = []
    for curve in curves:
        for panel in found:
            if not differences(panel.curves[0].facts, curve.facts):
                panel.curves.append(curve)
                break
        else:
            apart = differences(found[0].curves[0].facts, curve.facts) if found else []
            found.append(Panel(signal, stage, layer, [curve], apart))
    return found


def made_of(panel: Panel) -> str:
    """The fingerprint in words, with what is not known."""
    facts = panel.curves[0].facts
    missing = unknown(facts)
    return in_words(facts) + (f"; not written down: {', '.join(missing)}" if missing else "")


def rows_vary(curve: Curve) -> str | None:
    """What to say where the number of rows changes along a curve: biases that depend on n move with it."""
    rows = [record.counts["seen"] for record in curve.records if record.counts.get("seen")]
    if not rows or max(rows) - min(rows) <= 0.01 * max(rows):
        return None
    return f"rows in a window vary from {min(rows):,} to {max(rows):,}"
