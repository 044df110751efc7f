"""Which curves went with an outcome, a metric that the runs themselves have logged: across runs, and within them.

Correlations of ranks, each with an interval and with how often shuffled data do as well. The shuffles look at all
curves (and lags) at once and take the best of them, so that the more curves are tried, the closer one has to follow
(Westfall & Young, 1993, single step).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.errors import near_misses
from lightning_featgeo.history.fingerprint import differences
from lightning_featgeo.report.curves import Curve, Panel
from lightning_featgeo.report.ranks import chances, correlations, fisher, independent, interval, moves, ranks
from lightning_featgeo.report.runs import ReportError, Run

LEAST_RUNS = 5  # that have both: of fewer, a correlation of ranks says next to nothing
LEAST_MOVES = 16  # from window to window, within a run
MOST_LAG = 3  # windows
SHUFFLES, SHIFTS = 9_999, 999


@dataclass(frozen=True)
class Link:
    """How one curve went with the outcome.

    ``panel``: index among the curves that were tried. ``rho``: correlation of ranks, with a 95 % interval ``low`` to
    ``high``. ``n``: runs, or moves from window to window. ``chance``: share of shuffles in which any of the curves that
    were tried does as well. ``lag``: windows by which the curve moves before the outcome; None across runs.
    """

    panel: int
    rho: float
    low: float
    high: float
    n: int
    chance: float
    lag: int | None = None


@dataclass
class Outcome:
    """What went with a metric.

    ``finals``: its last value in each run that has one, by the run's index. ``curves``: what was tried, which links
    refer to; ``note``: on what differs between the runs of a curve.
    """

    name: str
    finals: dict[int, float]
    curves: list[Panel]
    note: str = ""
    across: list[Link] = field(default_factory=list)
    within: list[Link] = field(default_factory=list)
    runs_within: int = 0


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
    series = {i: run.history.metrics.series(name) for i, run in enumerate(runs)}
    finals = {i: points[-1][1] for i, points in series.items() if points}
    if not finals:
        known = logged(runs)
        if not known:
            raise ReportError(
                f"no run has logged {name!r}: these histories hold no metric of the runs' own. What self.log writes is "
                "kept in those of new runs"
            )
        raise ReportError(f"no run has logged {name!r}.{near_misses(name, known)}")
    tried = [_joined(panels) for panels in _of_one_kind(found)]
    within, of_runs = _within(runs, tried, name)
    return Outcome(name, finals, tried, _note(tried), _across(tried, finals), within, of_runs)


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
    return Panel(first.signal, first.stage, first.layer, [curve for panel in panels for curve in panel.curves])


def _note(tried: Sequence[Panel]) -> str:
    widths = {dim for panel in tried for curve in panel.curves if isinstance(dim := curve.facts.get("dim"), int)}
    layers = {panel.layer for panel in tried}
    if len(widths) <= len(layers):
        return ""
    return (
        f"The runs' features have {min(widths):,} to {max(widths):,} dimensions: a curve that depends on their number "
        "goes with whatever that goes with."
    )


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
    return _in_order(links)


@dataclass
class _Sum:
    """What runs say together of one curve at one lag. ``z``: as seen, then for each shift; each run by its weight."""

    z: torch.Tensor
    weight: float = 0.0
    moves: int = 0
    shifts: float = 1.0  # that are different

    @property
    def sizes(self) -> torch.Tensor:
        """A standard normal each, where there is no link."""
        return self.z / self.weight**0.5


def _within(runs: Sequence[Run], found: Sequence[Panel], name: str) -> tuple[list[Link], int]:
    """Moves of curves from window to window with those of the metric in the same window, or some windows later.

    Moves have no trend: curves that rise all the time don't go together for that. What chance makes of a link is seen
    by turning each run's metric around by a number of windows.
    """
    sums: dict[tuple[int, int], _Sum] = {}
    used = set()
    for run, metric, curves in _moving(runs, found, name):
        possible = torch.arange(MOST_LAG + 1, len(metric) - MOST_LAG)
        generator = torch.Generator().manual_seed(run * 100_003 + len(metric))  # the same for all curves of a run
        drawn = possible[torch.randint(len(possible), (SHIFTS,), generator=generator)]
        by = torch.cat([torch.zeros(1, dtype=torch.int64), drawn])  # as it was, then turned around
        y = ranks(metric)
        x = torch.stack([ranks(own) for own in curves.values()])
        turned = y[(torch.arange(len(metric)) + by[:, None]) % len(metric)]
        for lag in range(MOST_LAG + 1):
            later = turned.roll(-lag, 1)
            later[:, len(metric) - lag :] = math.nan
            rho, n = correlations(x, later)
            pairs, weights = n[:, 0].tolist(), independent(x, y, n[:, 0]) - 3
            z = fisher(rho) * weights[:, None]
            for row, (i, weight) in enumerate(zip(curves, weights.tolist(), strict=True)):
                if weight > 1:
                    used.add(run)
                    of = sums.setdefault((i, lag), _Sum(torch.zeros(SHIFTS + 1, dtype=torch.float64)))
                    of.z += z[row]
                    of.weight, of.moves = of.weight + weight, of.moves + int(pairs[row])
                    of.shifts *= len(possible)
    if not sums:
        return [], 0
    highest = torch.stack([of.sizes.abs() for of in sums.values()]).amax(0)[1:]
    best: dict[int, int] = {}
    for i, lag in sums:
        if i not in best or abs(sums[i, lag].sizes[0]) > abs(sums[i, best[i]].sizes[0]):
            best[i] = lag
    links = []
    for i, lag in best.items():
        of = sums[i, lag]
        together = math.tanh(float(of.z[0]) / of.weight)
        chance = max(chances(of.sizes[:1].abs(), highest)[0], 1 / (1 + min(of.shifts, SHIFTS)))
        links.append(Link(i, together, *interval(together, of.weight + 3), of.moves, chance, lag))
    return _in_order(links), len(used)


def _moving(
    runs: Sequence[Run], found: Sequence[Panel], name: str
) -> Iterator[tuple[int, torch.Tensor, dict[int, torch.Tensor]]]:
    """(run, moves of the metric, moves of curves by their panel) wherever there are enough of them."""
    series: dict[tuple[int, int], list[tuple[int, Curve]]] = {}  # curves of the same windows
    for i, panel in enumerate(found):
        for curve in panel.curves:
            series.setdefault((curve.run, id(curve.records)), []).append((i, curve))
    for (run, _), curves in series.items():
        times = [(record.epoch, record.step) for record in curves[0][1].records]
        metric = torch.tensor(runs[run].history.metrics.at(name, times), dtype=torch.float64).diff()
        if moves(metric):
            own = {i: torch.tensor(curve.values, dtype=torch.float64).diff() for i, curve in curves}
            kept = {
                i: x for i, x in own.items() if moves(x) and (x.isfinite() & metric.isfinite()).sum() >= LEAST_MOVES
            }
            if kept:
                yield run, metric, kept


def _in_order(links: list[Link]) -> list[Link]:
    return sorted(links, key=lambda link: (link.chance, -abs(link.rho)))
