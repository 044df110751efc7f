"""A window that is being computed while a checkpoint is written: saved as it was closed, and computed on resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from lightning_featgeo.errors import GapKind
from lightning_featgeo.history.record import plain_gap, read_gap
from lightning_featgeo.metrics.snapshot import Head, weights
from lightning_featgeo.watch.background import Job
from lightning_featgeo.watch.gaps import closed_as_gap
from lightning_featgeo.watch.plan import ClosedWindow, Compared, Report, WindowPlan
from lightning_featgeo.watch.sample_ids import SampleIds
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
        "ids": None if job.copy.ids is None else dict(job.copy.ids.known),
        "parts": [
            {
                "failed": None if part.failed is None else plain_gap(part.failed),
                "pool": part.assembler.chosen_pool,
                "unlabelled": part.assembler.unlabelled,
                "needed": part.needed,
                "notes": [text for text in part.assembler.notes if text not in part.noted],
                "evidence": [part.assembler.evidence.summary, part.assembler.evidence.changed],
                "frozen": part.frozen,
                "head": weights(part.metric.head),
                "ran": part.ran,
                "metric": {**part.metric.checkpoint(), "earlier": {}},
            }
            for part in job.copy.layers
        ],
    }


def window_of(state: Mapping[str, Any]) -> Window:
    """The window that such a state is of, without its rows."""
    window = Window(WindowPlan(**state["plan"]))
    window.seconds = float(state["seconds"])
    return window


def fill(window: Window, watcher: Watcher, state: Mapping[str, Any], device: torch.device) -> None:
    """Give it what it held when it was closed: on rank 0, the rows of all ranks."""
    window.failed = None if state["failed"] is None else read_gap(state["failed"], GapKind.FAILED)
    window.layers = watcher.make_layers(window.plan)
    if state["ids"] is not None and watcher.id_key is not None:
        window.ids = SampleIds(watcher.id_key, state["ids"])
    for part, kept in zip(window.layers, state["parts"], strict=True):
        part.failed = None if kept["failed"] is None else read_gap(kept["failed"], GapKind.FAILED)
        part.assembler.chosen_pool, part.assembler.unlabelled = kept["pool"], kept["unlabelled"]
        part.needed, part.ran = kept["needed"], bool(kept["ran"])
        part.assembler.notes.update(dict.fromkeys(kept["notes"]))
        part.assembler.evidence.summary, part.assembler.evidence.changed = kept["evidence"]
        part.frozen = bool(kept["frozen"])
        part.metric.to(device)
        if kept["head"]:
            part.metric.use_head(Head(**kept["head"]).to(device))
        if watcher.ranks.rank == 0:
            part.metric.merge_state(kept["metric"])


def close(window: Window, watcher: Watcher, state: Mapping[str, Any]) -> list[ClosedWindow]:
    """Its records; gaps if it could not be filled. All ranks must call it."""
    reports, at = [Report(*told) for told in state["reports"]], (state["number"], state["epoch"], state["step"])
    closed: list[ClosedWindow] | None = None
    if watcher.ranks.several or window.failed is None:
        with watcher.guard.around(f"computing the {window.plan.name} window", window.fail):
            closed = window.close(*at, watcher.ranks, reports, Compared())
    closed = closed_as_gap(window, *at, reports, watcher.settings) if closed is None else closed
    for one in closed:
        watcher.guard.warn_of(one.record)
    return closed
