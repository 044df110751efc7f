"""What alarms would have said of stored runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from validity_runs import records

from lightning_featgeo.alarms import Detector, Kind, Watch
from lightning_featgeo.alarms.kinds import CLASSES

Run = dict[str, Any]


def unlabelled(watches: Iterable[Watch]) -> tuple[Watch, ...]:
    """As they judge a run without labels: no class signal is there to say that a loss is learning."""
    return tuple(
        replace(w, unless=tuple(s for s in w.unless if s not in CLASSES), confirmed_by=())
        for w in watches
        if w.signal not in CLASSES and not w.strictly
    )


def alarms(run: Run, watches: Sequence[Watch], grade: str = "") -> list[int]:
    """Checks (from 1) at which these watches raise an alarm (of a grade)."""
    detector = Detector(Kind("collapse", tuple(watches)))
    seen = [(record, detector.observe(record)) for record in records(run)]
    return [record.window + 1 for record, alarm in seen if alarm is not None and grade in ("", alarm.grade)]


NEVER = 10_000
FEW = 50  # runs that are asked in this process
READ = ("feature_std", "effective_rank", "knn_accuracy", "dead_fraction", "tail_min_angle")


def first_alarm(run: Run, watches: Sequence[Watch], grade: str = "", after: int = 0) -> int:
    """The first alarm after so many checks; ``NEVER`` if there is none."""
    return next((check for check in alarms(run, watches, grade) if check > after), NEVER)


def firsts(runs: Sequence[Run], watches: Sequence[Watch], grade: str = "") -> np.ndarray:
    """First alarms after each run's fault began, of many runs on all cores."""
    ask = partial(_first, watches=tuple(watches), grade=grade)
    if len(runs) < FEW:
        return np.array([ask(run) for run in runs])
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        return np.array(list(pool.map(ask, map(_slim, runs), chunksize=50)))


def _first(run: Run, watches: tuple[Watch, ...], grade: str) -> int:
    return first_alarm(run, watches, grade, run["begins"] or 0)


def _slim(run: Run) -> Run:
    """What a detector reads of a run."""
    kept = {"values": {}, "errors": {}}
    for part in kept:
        kept[part] = {name: run["val"][part][name] for name in READ if name in run["val"][part]}
    return {"begins": run["begins"], "val": {**run["val"], **kept}}
