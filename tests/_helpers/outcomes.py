"""Runs with a metric, of curves that a test plants."""

import math
import random
from pathlib import Path

from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.outcome import Outcome, outcome_of
from lightning_featgeo.report.ranks import Link
from lightning_featgeo.report.runs import Run

METRIC = "val/accuracy"


def run(
    name: str, curves: dict[str, list[float]], metric: list[float], dim: int = 8, epochs: list[float] | None = None,
    copied: str | None = None,
) -> Run:  # fmt: skip
    """NaN in a curve: a window without a value. ``copied``: the run whose records it began with."""
    history = History()
    seconds = random.Random(copied or name).random()
    for i, value in enumerate(metric):
        values = {signal: float(curve[i]) for signal, curve in curves.items() if math.isfinite(curve[i])}
        epoch = i + 1.0 if epochs is None else epochs[i]
        facts = {"layer": "fc", "dim": dim}
        history.append(Record(i, "val", None, epoch, 10 * i, values, facts=facts, seconds=seconds))
        history.log_metrics({METRIC: value}, epoch, 10 * i)
    return Run(name, Path(name), history)


def found(runs: list[Run]) -> tuple[Outcome, dict[str, Link], dict[str, Link]]:
    result = outcome_of(runs, panels(runs), METRIC)
    by_signal = [{result.curves[link.panel].signal: link for link in each} for each in (result.across, result.within)]
    return result, by_signal[0], by_signal[1]


def noise(seed: str, n: int) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.gauss(0, 1) for _ in range(n)]
