"""Which curves moved with a metric from window to window, within runs: the part of ``report.outcome`` on time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lightning_featgeo.report.curves import Curve, Panel
from lightning_featgeo.report.origins import value_at
from lightning_featgeo.report.ranks import (
    LEAST_RUNS,
    Link,
    chances,
    correlations,
    fisher,
    in_order,
    independent,
    interval,
    ranks,
)
from lightning_featgeo.report.runs import Run

LEAST_MOVES = 8  # from window to window, that runs have in common
MOST_LAG = 3  # windows
PAIRINGS = 1_999
DIGITS = 6  # of an epoch, to tell whether two runs closed a window at the same one
NOISE = 2e-7  # of a value: what single precision makes of it is no difference between runs
IT_TAKES = f"it takes {LEAST_RUNS} runs of {LEAST_MOVES + 1} windows or more, at the same epochs"


@dataclass
class Within:
    """Links within runs, of how many runs; ``why``: there are none; ``note``: what was left out."""

    links: list[Link] = field(default_factory=list)
    runs: int = 0
    why: str = ""
    note: str = ""


@dataclass
class _Moving:
    """Of one stage and layer: a row a run, a column a move, as ranks; of the metric, and of each curve by its panel."""

    runs: list[int]
    metric: torch.Tensor
    curves: dict[int, torch.Tensor]


def within(runs: Sequence[Run], tried: Sequence[Panel], name: str, kept: set[int]) -> Within:
    """Moves of curves from window to window with those of the metric in the same window, or some windows later.

    Windows are those at epochs that all runs have. From each move, the mean of all runs at that window is taken. What
    chance makes of a link is seen by pairing each run's curves with another run's metric.
    """
    found = Within()
    sizes: dict[tuple[int, int], torch.Tensor] = {}  # (panel, lag) -> a standard normal for each pairing, ours first
    told: dict[tuple[int, int], tuple[float, float, int]] = {}  # rho, weight, moves
    used: set[int] = set()
    for moving in _moving(runs, tried, name, kept, found):
        generator = torch.Generator().manual_seed(0)  # the same pairings for all curves
        of_runs, metric = moving.runs, moving.metric
        pairing = torch.rand(PAIRINGS, len(of_runs), generator=generator).argsort(1)
        pairing = torch.cat([torch.arange(len(of_runs))[None], pairing])
        each = torch.arange(len(of_runs)).expand_as(pairing), pairing
        for lag in range(MOST_LAG + 1):
            later = metric.roll(-lag, 1)
            later[:, metric.shape[1] - lag :] = math.nan
            for i, own in moving.curves.items():
                rho, n = correlations(own, later)
                weights = (independent(own, metric, n) - 3).clamp(min=0)
                total = weights[each].sum(1)
                if float(total[0]) <= 1 or int((weights.diagonal() > 0).sum()) < LEAST_RUNS:
                    continue
                z = (fisher(rho) * weights)[each].sum(1)
                sizes[i, lag] = torch.where(total > 0, z / total.clamp(min=1e-9).sqrt(), 0.0)
                told[i, lag] = math.tanh(float(z[0] / total[0])), float(total[0]), int(n.diagonal().sum())
                used |= {run for run, w in zip(of_runs, weights.diagonal().tolist(), strict=True) if w > 0}
    if not sizes:
        found.why = found.why or "moves follow so closely on each other that too few of them are independent"
        return found
    highest = torch.stack([*sizes.values()]).abs().amax(0)[1:]
    best: dict[int, int] = {}
    for i, lag in sizes:
        if i not in best or abs(sizes[i, lag][0]) > abs(sizes[i, best[i]][0]):
            best[i] = lag
    for i, lag in best.items():
        together, weight, moved = told[i, lag]
        chance = chances(sizes[i, lag][:1].abs(), highest)[0]
        found.links.append(Link(i, together, *interval(together, weight + 3), moved, chance, lag))
    found.links, found.runs, found.why = in_order(found.links), len(used), ""
    return found


def _moving(
    runs: Sequence[Run], tried: Sequence[Panel], name: str, kept: set[int], found: Within
) -> list[_Moving]:  # fmt: skip
    """What moves, for each stage and layer; what can't be used is said in ``found``."""
    places: dict[tuple[str, str | None], list[int]] = {}
    for i, panel in enumerate(tried):
        places.setdefault((panel.stage, panel.layer), []).append(i)
    found.why, notes, every = IT_TAKES, dict[str, None](), []
    for indices in places.values():
        longest: dict[int, Curve] = {}
        for i in indices:
            for curve in tried[i].curves:
                if curve.run in kept and len(curve.values) > LEAST_MOVES:
                    longest.setdefault(curve.run, curve)
        of_runs, epochs = _in_common({run: _windows(curve) for run, curve in longest.items()})
        if not of_runs:
            continue
        if len(of_runs) < len(longest):
            out = ", ".join(runs[run].name for run in sorted(longest.keys() - set(of_runs)))
            notes[f"Within runs, these are left out for their few windows at epochs of the others: {out}."] = None
        if len(epochs) < max(len(longest[run].values) for run in of_runs):
            notes[f"Within runs, the {len(epochs)} windows at epochs that all of them have are compared."] = None
        times = {run: [(r.epoch, r.step) for r in longest[run].records] for run in of_runs}
        stood = {
            run: dict(zip(_keys(longest[run]), value_at(runs[run], name, times[run]), strict=True)) for run in of_runs
        }
        metric = _ranked([stood[run][epoch] for epoch in epochs] for run in of_runs)
        if _that_move(metric) < LEAST_RUNS:
            found.why = f"from window to window, {name} moves in fewer than {LEAST_RUNS} runs in a way of its own"
            continue
        curves = {}
        for i in indices:
            values = {c.run: dict(zip(_keys(c), c.values, strict=True)) for c in tried[i].curves}
            own = _ranked([values.get(run, {}).get(epoch, math.nan) for epoch in epochs] for run in of_runs)
            if _that_move(own) >= LEAST_RUNS:
                curves[i] = own
        if len(curves) < len(indices):
            few = (
                f"Within runs, {len(indices) - len(curves)} of {len(indices)} curves are left out: in too few runs they"
            )
            notes[f"{few} move, or have values at windows that follow each other."] = None
        if curves:
            every.append(_Moving(of_runs, metric, curves))
    found.note = " ".join(notes)
    if every:
        found.why = ""
    return every


def _keys(curve: Curve) -> list[float]:
    return [round(record.epoch, DIGITS) for record in curve.records]


def _windows(curve: Curve) -> set[float]:
    return set(_keys(curve))


def _in_common(windows: Mapping[int, set[float]]) -> tuple[list[int], list[float]]:
    """Runs, and the epochs at which all of them have a window: those that give the most moves in all.

    Runs of fewest windows are left out where the others have more in common without them.
    """
    left = sorted(windows, key=lambda run: len(windows[run]), reverse=True)
    best: tuple[int, list[int], set[float]] = (0, [], set())
    common: set[float] = set()
    for count, run in enumerate(left, 1):  # the longest ones first: each prefix is a choice
        common = windows[run] if count == 1 else common & windows[run]
        moves = len(common) - 1
        if count >= LEAST_RUNS and moves >= LEAST_MOVES and count * moves >= best[0]:
            best = count * moves, left[:count], common
    return sorted(best[1]), sorted(best[2])


def _that_move(ranked: torch.Tensor) -> int:
    """Rows that have enough moves, not all alike."""
    enough = ranked.isfinite().sum(1) >= LEAST_MOVES
    varied = ranked.nan_to_num(-1.0).amax(1) > ranked.nan_to_num(torch.inf).amin(1)
    return int((enough & varied).sum())


def _ranked(rows: Iterable[Sequence[float]]) -> torch.Tensor:
    """Ranks of each row's moves, without the mean of all rows; moves within rounding of it are equal."""
    values = torch.tensor([list(row) for row in rows], dtype=torch.float64)
    moved = values.diff(dim=1)
    moved = moved - moved.nanmean(0, keepdim=True)
    largest = values.abs().nan_to_num(0.0).amax(0)
    rounding = NOISE * torch.maximum(largest[1:], largest[:-1])
    return torch.stack([ranks(row) for row in torch.where(moved.abs() <= rounding, 0.0, moved)])
