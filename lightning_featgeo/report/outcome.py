"""Which curves went with an outcome, a metric that the runs themselves have logged: across runs, and within them.

Correlations of ranks, each with an interval and with how often shuffled data do as well. The shuffles look at all
curves (and lags) at once and take the best of them, so that the more curves are tried, the closer one has to follow
(Westfall & Young, 1993, single step). Runs are what is shuffled, in both: the shape that all learning curves share
(much happens early, little late) is in every pairing, the right one and the wrong ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.errors import near_misses
from lightning_featgeo.history.fingerprint import differences
from lightning_featgeo.history.logged import is_ours
from lightning_featgeo.report.curves import Panel
from lightning_featgeo.report.moves import within
from lightning_featgeo.report.origins import last_value, of_other_runs
from lightning_featgeo.report.ranks import (
    LEAST_RUNS,
    Link,
    chances,
    correlations,
    fisher,
    in_order,
    interval,
    moves,
    ranks,
)
from lightning_featgeo.report.runs import ReportError, Run

MOST_KNOWN = 20  # names in a message
SHUFFLES = 9_999


@dataclass
class Outcome:
    """What went with a metric.

    ``finals``: its last value in each run that has one, by the run's index. ``curves``: what was tried, which links
    refer to; ``note``: on what differs between the runs of a curve. ``why_not_within``: where no links are.
    """

    name: str
    finals: dict[int, float]
    curves: list[Panel]
    note: str = ""
    across: list[Link] = field(default_factory=list)
    within: list[Link] = field(default_factory=list)
    runs_within: int = 0
    why_not_within: str = ""


def logged(runs: Sequence[Run]) -> list[str]:
    """Metrics that some run has logged."""
    return list(dict.fromkeys(name for run in runs for name in run.history.metrics.names()))


def outcome_of(runs: Sequence[Run], found: Sequence[Panel], name: str) -> Outcome:
    """Which curves went with a metric.

    Args:
        runs: with their histories.
        found: their curves.
        name: of the metric, as it was logged.

    Raises:
        ReportError: if no run has logged it, with those that were.
    """
    name = _as_logged(runs, name)
    others = of_other_runs(runs)
    finals, diverged = {}, []
    for i, run in enumerate(runs):
        last = last_value(run, name)
        if last is None or any(i in which for which in others.values()):
            continue
        if math.isfinite(last):
            finals[i] = last
        else:
            diverged.append(run.name)
    tried = [_joined(panels) for panels in _of_one_kind(found)]
    of_time = within(runs, tried, name, set(finals))
    left_out = {why: [runs[i].name for i in which] for why, which in others.items()}
    if diverged:
        left_out[f"as their last {name} is no number"] = diverged
    notes = [f"Left out, {why}: {', '.join(names)}." for why, names in left_out.items()]
    notes += [*_notes(runs, tried, finals), of_time.note]
    across = _across(tried, finals)
    told = " ".join(filter(None, notes))
    return Outcome(name, finals, tried, told, across, of_time.links, of_time.runs, of_time.why)


def _as_logged(runs: Sequence[Run], name: str) -> str:
    """The metric's name in the histories: a value logged on steps and over epochs is there as the epochs'."""
    known = logged(runs)
    for given in (name, f"{name}_epoch"):
        if given in known:
            return given
    if is_ours(name):
        raise ReportError(f"{name!r} is a curve: the outcome is a metric that the runs log themselves{_some(known)}")
    if not known and not any(run.history.metrics.moments for run in runs):
        raise ReportError(
            f"no run has logged {name!r}: these histories hold no metric of the runs' own. What self.log writes is "
            "kept in those of new runs"
        )
    if any(name in moment.values for run in runs for moment in run.history.metrics.moments):
        raise ReportError(f"{name!r} was logged, but never as a number: it was NaN or infinite throughout")
    close = near_misses(name, known)
    raise ReportError(f"no run has logged {name!r}{f'.{close}' if 'Did you mean' in close else _some(known)}")


def _some(known: Sequence[str]) -> str:
    if not known:
        return ""
    more = f" and {len(known) - MOST_KNOWN} more" if len(known) > MOST_KNOWN else ""
    return f". They have logged: {', '.join(known[:MOST_KNOWN])}{more}"


def _notes(runs: Sequence[Run], tried: Sequence[Panel], finals: Mapping[int, float]) -> list[str]:
    """What differs between the runs."""
    found = []
    by_layer: dict[str | None, set[int]] = {}
    early: dict[int, None] = {}
    for panel in tried:
        for curve in panel.curves:
            if curve.run in finals:
                if isinstance(dim := curve.facts.get("dim"), int):
                    by_layer.setdefault(panel.layer, set()).add(dim)
                known = [r.epoch for r, v in zip(curve.records, curve.values, strict=True) if math.isfinite(v)]
                if known and known[-1] < 0.9 * curve.records[-1].epoch:
                    early[curve.run] = None
    widths = [dim for of_layer in by_layer.values() if len(of_layer) > 1 for dim in of_layer]
    if widths:
        found.append(
            f"The runs' features have {min(widths):,} to {max(widths):,} dimensions: a curve that depends on their "
            "number goes with whatever that goes with."
        )
    if early:
        found.append(
            "Of these runs a curve has its last value long before their end, and that one is taken: "
            f"{', '.join(runs[i].name for i in early)}."
        )
    ends = [max((record.epoch for record in runs[i].records), default=0.0) for i in finals]
    if ends and min(ends) < 0.9 * max(ends):
        found.append(
            f"The runs end at epoch {min(ends):g} to {max(ends):g}: whatever grows with training goes with their "
            "length. Compare runs of one length."
        )
    return found


def _of_one_kind(found: Sequence[Panel]) -> list[list[Panel]]:
    """Panels that differ in nothing but the layer's width and place: what a sweep may vary."""
    kinds: list[list[Panel]] = []
    for panel in found:
        key = (panel.signal, panel.stage, panel.layer)
        for kind in kinds:
            first = kind[0]
            same = key == (first.signal, first.stage, first.layer)
            if same and not differences(_fixed(first.curves[0].facts), _fixed(panel.curves[0].facts)):
                kind.append(panel)
                break
        else:
            kinds.append([panel])
    return kinds


def _fixed(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in ("dim", "layer")}


def _joined(panels: Sequence[Panel]) -> Panel:
    first = panels[0]
    curves = [curve for panel in panels for curve in panel.curves]
    return Panel(first.signal, first.stage, first.layer, curves, first.apart)


def _across(found: Sequence[Panel], finals: dict[int, float]) -> list[Link]:
    """Last values of curves with the last values of the metric, a pair a run."""
    runs = {run: i for i, run in enumerate(sorted(finals))}
    values = torch.full((len(found), len(runs)), math.nan, dtype=torch.float64)
    for i, panel in enumerate(found):
        for curve in panel.curves:
            known = [value for value in curve.values if math.isfinite(value)]
            if curve.run in runs and known:
                values[i, runs[curve.run]] = known[-1]
    outcome = torch.tensor([finals[run] for run in runs], dtype=torch.float64)
    here = values.isfinite()
    tried = [
        i for i in range(len(found))
        if here[i].sum() >= LEAST_RUNS and moves(values[i]) and moves(outcome[here[i]])
    ]  # fmt: skip
    if not tried:
        return []
    own, whole = torch.stack([ranks(values[i]) for i in tried]), ranks(outcome)
    generator = torch.Generator().manual_seed(0)  # the same table each time
    order = torch.rand(SHUFFLES, len(runs), generator=generator).argsort(1)
    seen, n = correlations(own, whole[None])
    weight = (n - 3).sqrt()
    shuffled = fisher(correlations(own, whole[order])[0]) * weight
    chance = chances((fisher(seen) * weight)[:, 0].abs(), shuffled.abs().amax(0))
    links = []
    for row, i in enumerate(tried):
        of_both = ranks(outcome.masked_fill(~here[i], math.nan))
        rho = float(correlations(own[row : row + 1], of_both[None])[0])
        links.append(Link(i, rho, *interval(rho, float(n[row])), int(n[row]), chance[row]))
    return in_order(links)
