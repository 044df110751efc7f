"""Which label-free signal picks a checkpoint of a self-supervised run? Against a linear probe and neighbours' votes."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from measuring import table
from scipy.stats import kendalltau, rankdata, spearmanr
from validity_families import FAMILIES
from validity_runs import UNLABELLED

Run = dict[str, Any]
Take = Callable[[Run], np.ndarray]  # a run's values, check by check
OF_VIEWS = ("lidar", "alignment")
FIRST = 3  # checks at the start that are no candidates: an untrained network's features are good on small images
PAIRED = 7  # single signals of which pairs are made


def series(run: Run, name: str) -> np.ndarray:
    """A signal's or an outcome's values, check by check; NaN for a gap."""
    kept = run["val"]["values"]
    values = kept[name] if name in kept else [row.get(name) for row in run["outcomes"]]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _ranks(values: np.ndarray) -> np.ndarray:
    found, known = np.full(len(values), np.nan), np.isfinite(values)
    found[known] = rankdata(values[known])
    return found


def _of(name: str, run: Run) -> np.ndarray:
    return series(run, name)


def _pair(one: str, sign: int, other: str, other_sign: int, run: Run) -> np.ndarray:
    return sign * _ranks(series(run, one)) + other_sign * _ranks(series(run, other))


def correlation(x: np.ndarray, y: np.ndarray, least: int = 6) -> tuple[float, float] | None:
    """Spearman's ρ and Kendall's τ; None for too few values, or for hardly any different ones."""
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < least or min(len(set(x[both])), len(set(y[both]))) < 3:
        return None
    return float(spearmanr(x[both], y[both]).statistic), float(kendalltau(x[both], y[both]).statistic)


def _mean(found: Iterable[tuple[float, float] | None]) -> tuple[float, float]:
    known = [each for each in found if each is not None]
    return (statistics.mean(r for r, _ in known), statistics.mean(t for _, t in known)) if known else (0.0, 0.0)


def within(runs: list[Run], take: Take, target: str) -> tuple[float, float]:
    """Over the checkpoints of a run, on average over runs."""
    return _mean(correlation(take(run)[FIRST:], series(run, target)[FIRST:]) for run in runs)


def across(runs: list[Run], take: Take, by: Callable[[Run], str]) -> tuple[float, float]:
    """Over the last checkpoints of runs with the same ``by``, on average over those."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[by(run)].append(run)
    ends = [[(take(run)[-1], series(run, "probe")[-1]) for run in group] for group in groups.values()]
    return _mean(correlation(*map(np.array, zip(*pairs, strict=True))) for pairs in ends)


def tables(runs: list[Run]) -> dict[str, str]:
    """Two sections: correlations within and across runs, and points lost by what is picked."""
    chosen = [run for run in runs if FAMILIES[run["family"]].label_free]
    intact = [run for run in chosen if not run["fault"]]
    if not intact:
        return {}
    names = [n for n in (*UNLABELLED, *OF_VIEWS) if any(np.isfinite(series(r, n)).any() for r in intact)]
    takes: dict[str, Take] = {name: partial(_of, name) for name in names}
    inside = {name: within(intact, take, "probe") for name, take in takes.items()}
    order = sorted(names, key=lambda name: -abs(inside[name][0]))
    for a, b in itertools.combinations(order[:PAIRED], 2):
        signs = (1 if inside[name][0] >= 0 else -1 for name in (a, b))
        takes[f"{a} and {b}"] = partial(_pair, a, next(signs), b, next(signs))
    pairs = [name for name in takes if name not in names]
    inside |= {name: within(intact, takes[name], "probe") for name in pairs}
    order += sorted(pairs, key=lambda name: -abs(inside[name][0]))[:4]
    rows: list[list[object]] = []
    for name in order:
        take = takes[name]
        near = within(intact, take, "knn_accuracy")[0]
        family = across(intact, take, lambda run: run["family"])
        methods, failed = (across(of, take, lambda run: FAMILIES[run["family"]].data)[0] for of in (intact, chosen))
        both = (f"{r:+.2f}, {t:+.2f}" for r, t in (inside[name], family))
        rows.append([name, next(both), f"{near:+.2f}", next(both), f"{methods:+.2f}", f"{failed:+.2f}"])
    heads = [
        "signal", "within a run: probe (ρ, τ)", "neighbours (ρ)", "across runs of a family: probe (ρ, τ)",
        "across methods on the same data (ρ)", "the same, with failed runs (ρ)",
    ]  # fmt: skip
    count = f"{len(intact)} intact and {len(chosen) - len(intact)} failed runs without labels"
    return {
        f"Choosing a checkpoint without labels: correlations ({count})": table(heads, rows),
        "Choosing a checkpoint without labels: what is lost": _lost(intact, {n: takes[n] for n in order}, inside),
    }


def _lost(runs: list[Run], takes: dict[str, Take], inside: dict[str, tuple[float, float]]) -> str:
    """Points of probe accuracy below the run's best checkpoint, of what a signal picks."""
    probes = [series(run, "probe")[FIRST:] for run in runs]

    def row(name: str, picks: list[int | None]) -> list[object]:
        lost = sorted(100 * (p.max() - p[at]) for p, at in zip(probes, picks, strict=True) if at is not None)
        return [name, len(lost), f"{statistics.mean(lost):.2f}", f"{lost[int(0.9 * (len(lost) - 1))]:.1f}"]

    by_chance = sorted(100 * (probe.max() - probe.mean()) for probe in probes)
    rows = [
        row("the last checkpoint", [len(probe) - 1 for probe in probes]),
        ["any one (the mean)", len(probes), f"{statistics.mean(by_chance):.2f}", "–"],
        row("neighbours' votes, which take labels", [_best(series(run, "knn_accuracy"), 1) for run in runs]),
    ]
    of_signals = [
        row(name, [_best(take(run), 1 if inside[name][0] >= 0 else -1) for run in runs]) for name, take in takes.items()
    ]
    rows += sorted(of_signals, key=lambda each: float(str(each[2])))
    return table(["picked by", "runs", "points lost: mean", "9 of 10 below"], rows)


def _best(values: np.ndarray, sign: int) -> int | None:
    after = values[FIRST:]
    return int(np.nanargmax(sign * after)) if np.isfinite(after).any() else None
