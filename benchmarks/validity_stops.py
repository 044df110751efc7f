"""What a stop saves and costs on supervised runs: "converged" beside Lightning's own ``EarlyStopping``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from measuring import table
from validity_families import FAMILIES
from validity_runs import records

from lightning_featgeo.alarms import KINDS, Detector, Kind

Run = dict[str, Any]


def geometry_stop(run: Run, kind: Kind = KINDS["converged"]) -> int:
    """The check (from 1) at which a kind stops; the last one if it does not."""
    detector = Detector(kind)
    for record in records(run):
        if detector.observe(record) is not None:
            return record.window + 1
    return len(run["outcomes"])


def stock_stop(key: str, mode: str, patience: int) -> Callable[[Run], int]:
    """The same for Lightning's own ``EarlyStopping``, asked what it is asked in a run."""

    def stop(run: Run) -> int:
        stopper = EarlyStopping(monitor=key, mode=mode, patience=patience, check_finite=False)
        for check, outcome in enumerate(run["outcomes"], 1):
            if stopper._evaluate_stopping_criteria(torch.tensor(outcome[key]))[0]:
                return check
        return len(run["outcomes"])

    return stop


STOPS: dict[str, Callable[[Run], int]] = {
    'GeometryEarlyStopping("converged")': geometry_stop,
    "EarlyStopping(val loss, patience 3)": stock_stop("loss", "min", 3),
    "EarlyStopping(val loss, patience 5)": stock_stop("loss", "min", 5),
    "EarlyStopping(val accuracy, patience 3)": stock_stop("accuracy", "max", 3),
    "EarlyStopping(val accuracy, patience 5)": stock_stop("accuracy", "max", 5),
    "EarlyStopping(val accuracy, patience 10)": stock_stop("accuracy", "max", 10),
}


def tables(runs: list[Run]) -> dict[str, str]:
    """Epochs saved, and points lost against the run's end, pooled and in the worst family; then each family's."""
    chosen = [run for run in runs if not run["fault"] and "accuracy" in run["outcomes"][0]]
    if len(chosen) < 2:
        return {}
    rows: list[list[object]] = []
    own: list[list[object]] = []
    for name, stop in STOPS.items():
        by_family: dict[str, list[tuple[float, float]]] = {}
        for run in chosen:
            at, accuracy = stop(run), [row["accuracy"] for row in run["outcomes"]]
            lost = 100 * (accuracy[-1] - accuracy[at - 1])
            by_family.setdefault(run["family"], []).append((1 - at / len(accuracy), lost))
        every = [case for cases in by_family.values() for case in cases]
        saved, lost_by = [s for s, _ in every], [p for _, p in every]
        means = {family: statistics.mean(p for _, p in cases) for family, cases in by_family.items()}
        worst = max(means, key=means.__getitem__)
        error = statistics.stdev(lost_by) / len(lost_by) ** 0.5
        rows.append([
            name, len(every), f"{statistics.mean(saved):.0%}", f"{statistics.mean(lost_by):.2f} ± {error:.2f}",
            f"{means[worst]:.2f} ({worst})", f"{max(lost_by):.1f}",
        ])  # fmt: skip
        if name.startswith("Geometry"):
            own = [
                [family, f"{statistics.mean(s for s, _ in cases):.0%}", f"{means[family]:.2f}"]
                for family, cases in by_family.items()
                if family in FAMILIES
            ]
    heads = ["stop", "runs", "epochs saved", "points lost: mean ± se", "in the worst family", "in the worst run"]
    return {
        "What a stop saves": table(heads, rows),
        '"converged", family by family': table(["family", "epochs saved", "points lost"], own),
    }
