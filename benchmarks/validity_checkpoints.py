"""Which label-free signal picks a checkpoint of a self-supervised run? Against a linear probe and neighbours' votes."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from measuring import table
from scipy.stats import kendalltau, rankdata, spearmanr
from validity_families import FAMILIES
from validity_runs import UNLABELLED

Run = dict[str, Any]
OF_VIEWS = ("lidar", "alignment")
TARGETS = ("probe", "knn_accuracy")
FIRST = 3  # checks at the start that are no candidates: an untrained network's features are good on small images


def series(run: Run, name: str) -> np.ndarray:
    """A signal's or an outcome's values, check by check; NaN for a gap."""
    if name in run["val"]["values"]:
        values = run["val"]["values"][name]
    else:
        values = [row.get(name) for row in run["outcomes"]]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def pairs(names: Iterable[str]) -> dict[str, Callable[[Run], np.ndarray]]:
    """Signals, and sums of the ranks of two of them."""
    single = {name: (lambda run, name=name: series(run, name)) for name in names}
    both = {
        f"{a} + {b}": (lambda run, a=a, b=b: _ranks(series(run, a)) + _ranks(series(run, b)))
        for a, b in itertools.combinations(names, 2)
    }
    return {**single, **both}


def _ranks(values: np.ndarray) -> np.ndarray:
    found = np.full(len(values), np.nan)
    known = np.isfinite(values)
    found[known] = rankdata(values[known])
    return found


def _correlated(x: np.ndarray, y: np.ndarray, least: int = 6) -> tuple[float, float] | None:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < least or len(set(x[both])) < 3 or len(set(y[both])) < 3:
        return None
    return float(spearmanr(x[both], y[both]).statistic), float(kendalltau(x[both], y[both]).statistic)


def self_supervised(runs: list[Run]) -> list[Run]:
    """Runs without labels, intact and failed: a signal must tell them apart."""
    return [run for run in runs if FAMILIES[run["family"]].label_free]


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):+.2f}" if values else "–"


def tables(runs: list[Run], most: int = 12) -> dict[str, str]:
    """Sections: within runs, across runs of a method, across methods, and points lost by what is picked."""
    chosen = self_supervised(runs)
    intact = [run for run in chosen if not run["fault"]]
    names = [n for n in (*UNLABELLED, *OF_VIEWS) if any(np.isfinite(series(r, n)).any() for r in intact if _has(r, n))]
    candidates = pairs(names)
    scores = {name: _scores(take, intact, chosen) for name, take in candidates.items()}
    single = [name for name in scores if " + " not in name]
    best = sorted((n for n in scores if n not in single), key=lambda n: -abs(scores[n]["within", "probe"]))[:4]
    order = sorted(single, key=lambda n: -abs(scores[n]["within", "probe"])) + best
    heads = [
        "signal", "within a run: probe (ρ, τ)", "neighbours (ρ)", "across runs of a family: probe (ρ, τ)",
        "across methods: probe (ρ)", "with failed runs: probe (ρ)",
    ]  # fmt: skip
    rows: list[list[object]] = [
        [
            name,
            f"{scores[name]['within', 'probe']:+.2f}, {scores[name]['within_tau', 'probe']:+.2f}",
            f"{scores[name]['within', 'knn_accuracy']:+.2f}",
            f"{scores[name]['family', 'probe']:+.2f}, {scores[name]['family_tau', 'probe']:+.2f}",
            f"{scores[name]['methods', 'probe']:+.2f}",
            f"{scores[name]['failed', 'probe']:+.2f}",
        ]
        for name in order
    ]
    return {
        f"Correlations ({len(intact)} intact and {len(chosen) - len(intact)} failed runs without labels)": table(
            heads, rows
        ),
        "What is lost by picking": _picking(intact, [*single, *best][: most + len(best)], candidates, scores),
    }


def _has(run: Run, name: str) -> bool:
    return name in run["val"]["values"] or any(name in row for row in run["outcomes"])


def _scores(take: Callable[[Run], np.ndarray], intact: list[Run], all_runs: list[Run]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for target in TARGETS:
        within = [c for r in intact if (c := _correlated(take(r)[FIRST:], series(r, target)[FIRST:])) is not None]
        found["within", target] = statistics.mean(c[0] for c in within) if within else 0.0
        found["within_tau", target] = statistics.mean(c[1] for c in within) if within else 0.0
        by_family: dict[str, list[Run]] = defaultdict(list)
        for run in intact:
            by_family[run["family"]].append(run)
        across = [
            c
            for of in by_family.values()
            if (c := _correlated(*(np.array([f(r)[-1] for r in of]) for f in (take, lambda r: series(r, target)))))
            is not None
        ]
        found["family", target] = statistics.mean(c[0] for c in across) if across else 0.0
        found["family_tau", target] = statistics.mean(c[1] for c in across) if across else 0.0
        for name, runs in (("methods", intact), ("failed", all_runs)):
            by_data: dict[str, list[Run]] = defaultdict(list)
            for run in runs:
                by_data[FAMILIES[run["family"]].data].append(run)
            pooled = [
                c
                for of in by_data.values()
                if (c := _correlated(*(np.array([f(r)[-1] for r in of]) for f in (take, lambda r: series(r, target)))))
                is not None
            ]
            found[name, target] = statistics.mean(c[0] for c in pooled) if pooled else 0.0
    return found


def _picking(
    runs: list[Run],
    names: list[str],
    candidates: dict[str, Callable[[Run], np.ndarray]],
    scores: dict[tuple[str, str], float] | dict[str, dict[tuple[str, str], float]],
) -> str:
    """Points of probe accuracy below the run's best checkpoint: of what a signal picks, of the last, of any."""

    def lost(pick: Callable[[Run, np.ndarray], int | None]) -> list[float]:
        found = []
        for run in runs:
            probe = series(run, "probe")[FIRST:]
            at = pick(run, probe)
            if at is not None and np.isfinite(probe).all():
                found.append(100 * float(probe.max() - probe[at]))
        return found

    rows: list[list[object]] = []

    def row(name: str, values: list[float]) -> None:
        low = sorted(values)
        rows.append([name, len(values), f"{statistics.mean(values):.2f}", f"{low[int(0.9 * (len(low) - 1))]:.1f}"])

    row("the last checkpoint", lost(lambda run, probe: len(probe) - 1))
    row("a random one (its mean)", [100 * float((p := series(r, "probe")[FIRST:]).max() - p.mean()) for r in runs])
    row("neighbours' votes (needs labels)", lost(lambda run, probe: _argmax(series(run, "knn_accuracy")[FIRST:], 1)))
    for name in names:
        sign = 1 if scores[name]["within", "probe"] >= 0 else -1  # type: ignore[index,call-overload]
        row(name, lost(lambda run, probe, name=name, sign=sign: _argmax(candidates[name](run)[FIRST:], sign)))
    rows[3:] = sorted(rows[3:], key=lambda each: float(str(each[2])))
    return table(["picked by", "runs", "points lost: mean", "9 of 10 below"], rows)


def _argmax(values: np.ndarray, sign: int) -> int | None:
    return int(np.nanargmax(sign * values)) if np.isfinite(values).any() else None
