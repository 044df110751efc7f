"""What a report says, for scripts, pull requests and agents: as JSON, or as Markdown. Neither needs a library."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.report import links, words
from lightning_featgeo.report.curves import Curve, Panel, panels
from lightning_featgeo.report.outcome import Outcome, outcome_of
from lightning_featgeo.report.runs import Run
from lightning_featgeo.sinks.tables import Table, in_markdown

MOST_CURVES = 40  # rows of a run's table in Markdown
_KEPT = ("title", "text", "limit", "agree", "disagree", "checkpoint", "causes", "steps")  # of an alarm


def facts(runs: Sequence[Run], left_out: Sequence[str] = (), outcome: str | None = None) -> dict[str, Any]:
    """Everything as plain values: no NaN, no infinity.

    Returns:
        ``runs``: for each its name, file, outcome ("stop", "alarm", "notice" or "quiet") and what happened in words,
        curves with first, last, lowest and highest value and their gaps, alarms, notes, and what to look at next.
        ``apart``: curves that can't be compared between runs, and why. ``left_out``: files without a window.
        ``outcome``: if a metric of the runs' own was named, which curves went with it (``report.outcome``).

    Raises:
        ReportError: if no run has logged that metric.
    """
    found = panels(runs)
    told = _of_runs(runs, found, left_out)
    return told if outcome is None else {**told, "outcome": links.as_facts(outcome_of(runs, found, outcome))}


def _of_runs(runs: Sequence[Run], found: Sequence[Panel], left_out: Sequence[str]) -> dict[str, Any]:
    apart = [
        {
            "curve": links.name_of(panel),
            "runs": [runs[curve.run].name for curve in panel.curves],
            "differs_in": panel.apart,
        }
        for panel in found
        if panel.apart
    ]
    return {"runs": [_of_run(i, run, found) for i, run in enumerate(runs)], "apart": apart, "left_out": [*left_out]}


def as_json(runs: Sequence[Run], left_out: Sequence[str] = (), outcome: str | None = None) -> str:
    """:func:`facts` as JSON."""
    return json.dumps(facts(runs, left_out, outcome), indent=2, allow_nan=False) + "\n"


def as_markdown(runs: Sequence[Run], left_out: Sequence[str] = (), outcome: str | None = None) -> str:
    """:func:`facts` as Markdown that fits into a comment of a pull request."""
    found = panels(runs)
    told = _of_runs(runs, found, left_out)
    parts = [] if outcome is None else _outcome(outcome_of(runs, found, outcome))
    parts += [part for run in told["runs"] for part in _section(run)]
    if told["apart"]:
        lines = [
            f"- {in_markdown(each['curve'])} of {in_markdown(', '.join(each['runs']))}: "
            f"{in_markdown('; '.join(each['differs_in']))}"
            for each in told["apart"]
        ]
        parts += ["## Not to be compared", "\n".join(lines)]
    if left_out:
        parts += ["## Left out", "\n".join(f"- {in_markdown(each)}" for each in left_out)]
    return "\n\n".join(parts) + "\n"


def _of_run(index: int, run: Run, found: Sequence[Panel]) -> dict[str, Any]:
    outcome, sentence = words.headline(run)
    curves = [_of_curve(panel, curve) for panel in found for curve in panel.curves if curve.run == index]
    alarms = [_of_alarm(event) for event in run.history.events if event.get("kind") in ("stop", "alarm", "notice")]
    return {
        "name": run.name,
        "file": str(run.path),
        "outcome": outcome,
        "happened": sentence,
        "ended": words.ending(run),
        "end": run.history.run.get("end"),
        "curves": curves,
        "alarms": alarms,
        "notes": [*run.notes],
        "look_at": _look_at(run, curves, alarms),
    }


def _of_curve(panel: Panel, curve: Curve) -> dict[str, Any]:
    known = [(r.epoch, v) for r, v in zip(curve.records, curve.values, strict=True) if math.isfinite(v)]
    row = CATALOG.get(panel.signal)
    gaps: dict[str, dict[str, Any]] = {}
    for at in sorted(curve.gaps):
        gap = curve.gaps[at]
        entry = gaps.setdefault(gap.kind.value, {"windows": 0})
        entry["windows"] += 1
        entry["last_epoch"], entry["reason"] = curve.records[at].epoch, str(gap)
    points = {
        "first": known[0],
        "last": known[-1],
        "lowest": min(known, key=lambda point: point[1]),
        "highest": max(known, key=lambda point: point[1]),
    } if known else {}  # fmt: skip
    return {
        "curve": links.name_of(panel), "stage": panel.stage, "layer": panel.layer, "signal": panel.signal,
        "healthier": None if row is None or row.direction == "none" else row.direction,
        "windows": len(curve.values),
        **{name: {"epoch": epoch, "value": value} for name, (epoch, value) in points.items()},
        "gaps": gaps,
    }  # fmt: skip


def _of_alarm(event: dict[str, Any]) -> dict[str, Any]:
    alarm = event.get("alarm")
    more = {key: alarm[key] for key in _KEPT if alarm.get(key)} if isinstance(alarm, dict) else {}
    epoch = event.get("epoch")
    when = epoch if isinstance(epoch, (int, float)) and math.isfinite(epoch) else None
    return {"kind": event["kind"], "epoch": when, "reason": str(event.get("reason") or ""), **_plain(more)}


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are none become words."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _look_at(run: Run, curves: Sequence[dict[str, Any]], alarms: Sequence[dict[str, Any]]) -> list[str]:
    """What deserves a look, most urgent first."""
    found = []
    for alarm in [a for a in alarms if a["kind"] != "notice"] + [a for a in alarms if a["kind"] == "notice"]:
        when = f" at epoch {alarm['epoch']:g}" if alarm["epoch"] is not None else ""
        steps = alarm.get("steps")
        parts = [
            f"{alarm.get('title') or alarm['reason'] or alarm['kind']}{when}",
            *(steps if isinstance(steps, list) else []),
        ]
        found.append("; ".join(map(str, parts)))
    why: dict[tuple[str, str], list[str]] = {}
    for curve in curves:
        for kind, gap in curve["gaps"].items():
            why.setdefault((kind, gap["reason"]), []).append(curve["curve"])
    for (kind, reason), names in why.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        found.append(f"No value ({kind}): {shown}. {reason}")
    if not run.history.run.get("end"):
        found.append(words.NO_END)
    return found


def _outcome(outcome: Outcome) -> list[str]:
    parts = [f"## What went with {in_markdown(outcome.name)}"]
    for told, tried in ((links.across(outcome), outcome.across), (links.within(outcome), outcome.within)):
        parts.append(in_markdown(told))
        if tried:
            rows = [links.row(link, outcome.curves[link.panel]) for link in tried[: links.MOST_ROWS]]
            parts.append(Table([*rows[0]], [[*row.values()] for row in rows]).markdown().rstrip())
    return [*parts, f"{links.CHANCE.format(clear=links.CLEAR)} {outcome.note}".strip()]


def _section(run: dict[str, Any]) -> list[str]:
    parts = [f"## {in_markdown(run['name'])}", f"**{run['outcome']}**: {in_markdown(run['happened'])}"]
    parts.append(in_markdown(run["ended"]))

    def at(curve: dict[str, Any], name: str) -> str:
        point = curve.get(name)
        return "–" if point is None else f"{words.number(point['value'])} at {point['epoch']:g}"

    rows = [
        [
            curve["curve"], *(at(curve, name) for name in ("first", "last", "lowest", "highest")),
            "; ".join(f"{kind}: {gap['windows']} of {curve['windows']}" for kind, gap in curve["gaps"].items()) or "–",
        ]
        for curve in run["curves"][:MOST_CURVES]
    ]  # fmt: skip
    columns = ["curve", "first, at epoch", "last", "lowest", "highest", "windows without a value"]
    parts.append(Table(columns, rows).markdown().rstrip())
    if len(run["curves"]) > MOST_CURVES:
        parts.append(f"{len(run['curves']) - MOST_CURVES} more curves are in the JSON form.")
    if run["notes"]:
        parts.append("\n".join(f"- {in_markdown(note)}" for note in run["notes"]))
    looks = run["look_at"] or ["Nothing asks for a look: no alarm, no gap, and the run has ended."]
    return [*parts, "### What to look at next", "\n".join(f"- {in_markdown(each)}" for each in looks)]
