"""What a run has come to, by what it is for and not by any signal: intact, or of no more use."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Run = dict[str, Any]
ENDS, HOLDS = 0.7, 0.8
LEAST = 0.15  # above chance: families whose intact runs learn less have nothing to lose


def _above_chance(run: Run) -> np.ndarray:
    chance = 1 / run["classes"] if run["classes"] else 0.0
    return np.array([row["probe"] for row in run["outcomes"]]) - chance


def is_intact(run: Run) -> bool:
    """Whether a run without a fault did what it is for."""
    probe, losses = _above_chance(run), [row.get("loss") for row in run["outcomes"]]
    if np.median(probe[-3:]) >= HOLDS * probe.max():
        return True
    known = [loss for loss in losses if loss is not None]
    return not run["classes"] and len(known) == len(losses) and bool(np.isfinite(known).all()) and known[-1] <= known[0]


def reached(runs: Iterable[Run]) -> dict[str, float]:
    """What each family's intact runs reach: the median of their last probes, above chance."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if not run["fault"] and is_intact(run):
            found.setdefault(run["family"], []).append(float(_above_chance(run)[-1]))
    return {family: statistics.median(values) for family, values in found.items()}


def is_useless(run: Run, reach: Mapping[str, float]) -> bool:
    """Whether a planted fault has ended a run's usefulness."""
    probe, there = _above_chance(run), reach.get(run["family"], 0.0)
    return there >= LEAST and bool(np.median(probe[-3:]) < ENDS * min(there, float(probe.max())))
