"""Which curves moved with a metric from window to window, within runs: the part of ``report.outcome`` on time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch

from lightning_featgeo.report.curves import Curve, Panel
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


def within(
    runs: Sequence[Run], tried: Sequence[Panel], name: str, kept: set[int]
) -> tuple[list[Link], int]:  # fmt: skip
    """Moves of curves from window to window with those of the metric in the same window, or some windows later.

    From each move, the mean of all runs at that window is taken. What chance makes of a link is seen by pairing each
    run's curves with another run's metric.
    """
    sizes: dict[tuple[int, int], torch.Tensor] = {}  # (panel, lag) -> a standard normal for each pairing, ours first
    told: dict[tuple[int, int], tuple[float, float, int]] = {}  # rho, weight, moves
    used: set[int] = set()
    for of_runs, metric, curves in _moving(runs, tried, name, kept):
        generator = torch.Generator().manual_seed(0)  # the same pairings for all curves
        pairing = torch.rand(PAIRINGS, len(of_runs), generator=generator).argsort(1)
        pairing = torch.cat([torch.arange(len(of_runs))[None], pairing])
        each = torch.arange(len(of_runs)).expand_as(pairing), pairing
        for lag in range(MOST_LAG + 1):
            later = metric.roll(-lag, 1)
            later[:, metric.shape[1] - lag :] = math.nan
            for i, own in curves.items():
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
        return [], 0
    highest = torch.stack([*sizes.values()]).abs().amax(0)[1:]
    best: dict[int, int] = {}
    for i, lag in sizes:
        if i not in best or abs(sizes[i, lag][0]) > abs(sizes[i, best[i]][0]):
            best[i] = lag
    links = []
    for i, lag in best.items():
        together, weight, moved = told[i, lag]
        chance = chances(sizes[i, lag][:1].abs(), highest)[0]
        links.append(Link(i, together, *interval(together, weight + 3), moved, chance, lag))
    return in_order(links), len(used)


def _moving(
    runs: Sequence[Run], tried: Sequence[Panel], name: str, kept: set[int]
) -> Iterator[tuple[list[int], torch.Tensor, dict[int, torch.Tensor]]]:
    """(runs, ranks of their metric's moves, ranks of their curves' moves by panel), for each stage and layer.

    A row a run, a column a move, as many as the shortest of them has; from each column its mean is taken first.
    """
    places: dict[tuple[str, str | None], list[int]] = {}
    for i, panel in enumerate(tried):
        places.setdefault((panel.stage, panel.layer), []).append(i)
    for indices in places.values():
        longest: dict[int, Curve] = {}
        for i in indices:
            for curve in tried[i].curves:
                if curve.run in kept and len(curve.values) > LEAST_MOVES:
                    longest.setdefault(curve.run, curve)
        if len(longest) < LEAST_RUNS:
            continue
        of_runs = sorted(longest)
        length = min(len(longest[run].values) for run in of_runs)

        def ranked(rows: Iterable[Sequence[float]], length: int = length) -> torch.Tensor:
            moved = torch.tensor([list(row[:length]) for row in rows], dtype=torch.float64).diff(dim=1)
            return torch.stack([ranks(row) for row in moved - moved.nanmean(0, keepdim=True)])

        metric = ranked(
            runs[run].history.metrics.at(name, [(r.epoch, r.step) for r in longest[run].records]) for run in of_runs
        )
        nothing = [math.nan] * length
        found = {}
        for i in indices:
            values = {curve.run: curve.values for curve in tried[i].curves if len(curve.values) >= length}
            own = ranked(values.get(run, nothing) for run in of_runs)
            if int((own.isfinite().sum(1) >= LEAST_MOVES).sum()) >= LEAST_RUNS:
                found[i] = own
        if found and int((metric.isfinite().sum(1) >= LEAST_MOVES).sum()) >= LEAST_RUNS:
            yield of_runs, metric, found
