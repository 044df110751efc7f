"""How alike a run's layers are, window after window: what the page's slider goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_featgeo.history.record import Record
from lightning_featgeo.report.layouts import evenly
from lightning_featgeo.report.runs import Run

MOST_FRAMES = 48  # windows of one matrix
MOST_CELLS = 100_000  # in all of them


def matrices(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One for each run and stage of which the history says how alike its layers are: their names, and frames.

    Windows are chosen evenly, the first and the last among them. Windows of other layers than the last one's are left
    out.
    """
    found = [(i, stage, own) for i, run in enumerate(runs) for stage, own in _by_stage(run.records).items()]
    cells = sum(len(one.layer_cka) ** 2 for _, _, own in found for one, _ in own)
    share = min(1.0, MOST_CELLS / max(cells, 1))
    return [_matrix(i, stage, own, share) for i, stage, own in found]


def _by_stage(records: Sequence[Record]) -> dict[str, list[tuple[Record, list[str]]]]:
    """The first layer's record of each window that has a matrix, and the names of all layers."""
    names: dict[tuple[str, int, float], list[str]] = {}
    for one in records:
        names.setdefault((one.stage, one.window, one.epoch), []).append(str(one.facts.get("layer") or one.layer))
    found: dict[str, list[tuple[Record, list[str]]]] = {}
    for one in records:
        of = names[one.stage, one.window, one.epoch]
        if len(one.layer_cka) == len(of) and all(len(row) == i for i, row in enumerate(one.layer_cka)):
            found.setdefault(one.stage, []).append((one, of))
    return {stage: [pair for pair in own if pair[1] == own[-1][1]] for stage, own in found.items()}


def _matrix(run: int, stage: str, own: Sequence[tuple[Record, list[str]]], share: float) -> dict[str, Any]:
    chosen = evenly(len(own), max(2, min(MOST_FRAMES, int(len(own) * share))))
    return {
        "run": run,
        "stage": stage,
        "layer": None,
        "of": len(own),
        "names": own[-1][1],
        "frames": [{"epoch": float(f"{own[i][0].epoch:.6g}"), "rows": own[i][0].layer_cka} for i in chosen],
    }
