"""What happened, in words: the headline of a run, and a sentence for each curve."""

from __future__ import annotations

import math
from collections import Counter

from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.report.curves import Curve, Panel
from lightning_featgeo.report.runs import Run

HEADLINES = ("feature_std", "effective_rank", "rankme", "id_two_nn", "knn_accuracy", "nc1", "uniformity", "nrc1")
MOST = 4  # curves in a headline
NO_END = (
    "The record says nothing of an end: the run is still going, was killed, or its loop did not say that it had ended."
)


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def headline(run: Run) -> tuple[str, str]:
    """(kind, sentence): kind is "stop", "alarm", "notice" or "quiet"."""
    stops = [event for event in run.history.events if event.get("kind") == "stop"]
    alarms = [event for event in run.history.events if event.get("kind") == "alarm"]
    notices = [event for event in run.history.events if event.get("kind") == "notice"]
    if stops:
        text = _sentence(stops[-1])
        also = f" Before that, {len(alarms)} alarm{'s' * (len(alarms) > 1)}." if alarms else ""
        return "stop", f"{text}.{also}"
    if alarms:
        more = f" {len(alarms) - 1} more alarm{'s' * (len(alarms) > 2)} after that." if len(alarms) > 1 else ""
        return "alarm", f"{_sentence(alarms[0])}.{more}"
    if notices:
        more = f" {len(notices) - 1} more after that." if len(notices) > 1 else ""
        return "notice", f"No alarm and no stop. To look at: {_sentence(notices[0])}.{more}"
    return "quiet", _quiet(run.history.run.get("alarms"))


def _quiet(alarms: object) -> str:
    if alarms is None:  # of an earlier version, or of a loop that has none
        return "No alarm and no stop was recorded (a run that no alarm watches has none)."
    if not isinstance(alarms, list) or not alarms:
        return "No alarm watched this run."
    return f"No alarm and no stop. Watched for {', '.join(map(str, alarms))}."


def _sentence(event: dict[str, object]) -> str:
    return str(event.get("reason") or event.get("monitor") or "without a reason").rstrip(".")


def ending(run: Run) -> str:
    """How the record ends."""
    last = max((record.epoch for record in run.records), default=0.0)
    count = len({(record.window, record.stage) for record in run.records})  # layers share theirs
    if run.history.closed > len(run.history.records):  # of a very long run not all are in memory
        count = max(record.window for record in run.records) + 1
    windows = f"{count} window{'s' * (count != 1)}, up to epoch {last:g}"
    end = run.history.run.get("end")
    if end:
        return f"{windows}. The run {end}."
    if run.history.run.get("format", 1) >= 2:
        return f"{windows}. {NO_END}"
    return f"{windows}."


def movements(run: Run) -> list[str]:
    """First and last values of the curves that one looks at first."""
    series: dict[str, list[float]] = {}
    stages = [record.stage for record in run.records if record.layer is None]
    stage = "val" if "val" in stages else stages[0] if stages else None
    for record in run.records:
        if record.layer is None and record.stage == stage:
            for name, value in record.values.items():
                if math.isfinite(value):
                    series.setdefault(name, []).append(value)
    chosen = [name for name in HEADLINES if name in series] or [name for name in series if name in CATALOG]
    return [f"{name} {number(series[name][0])} → {number(series[name][-1])}" for name in chosen[:MOST]]


def summary(panel: Panel, names: list[str]) -> str:
    """What a picture of the panel would tell, for those who can't see it."""
    direction = {"higher": "Higher is healthier.", "lower": "Lower is healthier."}
    row = CATALOG.get(panel.signal)
    parts = [f"{panel.signal}, stage {panel.stage}{f', layer {panel.layer}' if panel.layer else ''}."]
    parts += [f"{names[curve.run]}: {of_curve(curve)}." for curve in panel.curves]
    return " ".join([*parts, direction.get(row.direction, "") if row else ""]).strip()


def of_curve(curve: Curve) -> str:
    """First, last, best and gaps."""
    known = [(record.epoch, value) for record, value in zip(curve.records, curve.values, strict=True) if value == value]
    kinds = Counter(gap.kind.value for gap in curve.gaps.values())
    why = ", ".join(f"{kind} {count}" if len(kinds) > 1 else kind for kind, count in kinds.most_common())
    gaps = f"{len(curve.gaps)} of {len(curve.values)} windows without a value ({why})" if curve.gaps else ""
    if not known:
        return gaps or "no value"
    low, high = min(known, key=lambda kv: kv[1]), max(known, key=lambda kv: kv[1])
    text = f"{number(known[0][1])} → {number(known[-1][1])}"
    if len(known) > 2:
        text += f" (lowest {number(low[1])} at epoch {low[0]:g}, highest {number(high[1])} at epoch {high[0]:g})"
    return f"{text}; {gaps}" if gaps else text
