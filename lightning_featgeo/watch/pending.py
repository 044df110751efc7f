"""A window that is being computed while a checkpoint is written: saved as it was closed, and computed on resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from lightning_featgeo.errors import GapKind
from lightning_featgeo.history.record import plain_gap, read_gap
from lightning_featgeo.watch.background import Job
from lightning_featgeo.watch.plan import ClosedWindow, Compared, Report, WindowPlan
from lightning_featgeo.watch.watcher import Watcher
from lightning_featgeo.watch.window import Window

_WITHOUT = ("serves",)  # of a plan: nothing is compared with it


def state_of(job: Job) -> dict[str, Any]:
    """Plain numbers, strings and tensors. What it is compared with is saved with the layers that go on."""
    plan, failed = job.copy.plan, job.copy.failed
    return {
        "plan": {name: value for name, value in asdict(plan).items() if name not in _WITHOUT},
        "number": job.number,
        "epoch": job.epoch,
        "step": job.step,
        "seconds": job.seconds,
        "failed": None if failed is None else plain_gap(failed),
        "reports": [list(told._replace(failed=None)) for told in job.reports or []],
        "parts": [
            {
                "failed": None if part.failed is None else plain_gap(part.failed),
                "pool": part.assembler.chosen_pool,
                "unlabelled": part.assembler.unlabelled,
                "needed": part.needed,
                "ran": part.ran,
                "metric": {**part.metric.checkpoint(), "earlier": {}},
            }
            for part in job.copy.layers
        ],
    }


def computed(watcher: Watcher, state: Mapping[str, Any], device: torch.device) -> tuple[Window, list[ClosedWindow]]:
    """A window from such a state, closed now. All ranks must call it.

    Rank 0 has its rows, which were those of all.
    """
    window = Window(WindowPlan(**state["plan"]))
    window.failed = None if state["failed"] is None else read_gap(state["failed"], GapKind.FAILED)
    window.seconds, window.layers = float(state["seconds"]), watcher.make_layers(window.plan)
    for part, kept in zip(window.layers, state["parts"], strict=True):
        part.failed = None if kept["failed"] is None else read_gap(kept["failed"], GapKind.FAILED)
        part.assembler.chosen_pool, part.assembler.unlabelled = kept["pool"], kept["unlabelled"]
        part.needed, part.ran = kept["needed"], bool(kept["ran"])
        part.metric.to(device)
        if watcher.ranks.rank == 0:
            part.metric.merge_state(kept["metric"])
    reports = [Report(*told) for told in state["reports"]]
    closed = window.close(
        int(state["number"]), float(state["epoch"]), int(state["step"]), watcher.ranks, reports, Compared()
    )
    watcher.tell([window], closed)
    return window, closed
