"""Histories of runs that were never trained: curves of known shape, for the report's tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.report.runs import Run, distinct, find, load

SIGNALS = ("feature_std", "effective_rank", "id_two_nn", "knn_accuracy", "nc1")
FACTS = {
    "layer": "fc", "dim": 64, "k": 20, "knn_vote_k": 200, "bank_size": 4096, "pool": "mean", "views": "auto",
    "skip_tokens": 0, "spectrum_rows": "all", "every_n_batches": 1,
}  # fmt: skip


def record(i: int, signals: tuple[str, ...] = SIGNALS, gap: tuple[str, ...] = (), **given: Any) -> Record:
    """Window ``i``: curves that saturate, with a ripple; ``gap``: signals without a value."""
    values = {
        name: (j + 1) * (1 - math.exp(-(i + 1) / 5)) + 0.02 * math.sin(i * (j + 2))
        for j, name in enumerate(signals)
        if name not in gap
    }
    defaults: dict[str, Any] = {
        "window": i,
        "stage": "val",
        "layer": None,
        "epoch": float(i + 1),
        "step": 20 * (i + 1),
        "values": {**values, "n_samples": 500.0},
        "standard_errors": {"id_two_nn": 0.1} if "id_two_nn" in values else {},
        "gaps": dict.fromkeys(gap, Gap(GapKind.UNDEFINED, "the rows were all the same")),
        "counts": {"seen": 500, "batches": 2},
        "facts": FACTS,
        "spectrum": [[float(r), 10.0 / r**2 * (1 + i / 10)] for r in (1, 2, 4, 8, 16, 32, 64)],
    }
    return Record(**{**defaults, **given})


def write(
    path: Path, windows: int = 12, name: str | None = None, end: str | None = "finished",
    identity: str | None = None, **given: Any,
) -> History:  # fmt: skip
    """A history file of so many windows; ``given``: of its records."""
    history = History(path)
    signals = given.get("signals", SIGNALS)
    history.describe(
        {
            "name": name,
            "id": identity,
            "described": "featgeo: watching the input of 'fc', 64 dimensions",
            "definitions": {s: CATALOG[s].version for s in signals if s in CATALOG},
        }
    )
    for i in range(windows):
        history.append(record(i, **given))
    if end is not None:
        history.end(end)
    return history


def stop(history: History, epoch: float, kind: str = "stop", text: str = "total collapse at epoch 5.00") -> None:
    """Add a stop or an alarm as the monitor does."""
    history.event(
        kind=kind, monitor="featgeo/val/feature_std", epoch=epoch, step=int(20 * epoch), reason=text,
        alarm={"title": "total collapse", "text": "fell 10% of the way to 0", "limit": "5%", "disagree": [],
               "causes": ["no stop-gradient"], "steps": ["look at the loss"], "agree": ["rankme 13 → 11"]},
    )  # fmt: skip


def runs_below(folder: Path) -> tuple[list[Run], list[str]]:
    return distinct(list(load(find([folder]))))


def data_of(path: Path) -> dict[str, Any]:
    """What a report's script draws from."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])
