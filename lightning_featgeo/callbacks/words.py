"""What a Lightning run says: of its first rows, and at its end."""

from __future__ import annotations

from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks import trainer as lightning
from lightning_featgeo.watch.announcement import Announcement, say
from lightning_featgeo.watch.window import Window


def announcement(run: Any, window: Window) -> Announcement:
    """What is said as soon as layer, dimension, classes, signals and memory are known; ``run``: a ``LightningRun``."""
    watcher, wanted = run.watcher, run.settings.reference
    windows = sum(len(run.names(stage)) for stage in run.logged_stages)
    reference = watcher.named(wanted) if wanted else None
    silent = reference if reference is not None and not reference.plan.logged else None
    held = sum(part.metric.memory_bytes for part in silent.layers) if silent is not None else 0
    told = Announcement(
        watcher.sources.layers, window, _stages(run), windows, watcher.ranks.size, held,
        name=lightning.run_name(run.trainer), doing=str(run.trainer.state.fn.value),
    )  # fmt: skip
    told.more = {"alarms": [str(name) for stopper in run.stoppers.stoppers for name in stopper.watched]}
    told.copies = run.background is not None
    run.display.describe(told.header)
    return told


def _stages(run: Any) -> tuple[str, ...]:
    """The stages, and what is not settled yet."""
    if not run.awaits_validation:
        every = run.settings.windows.every_n_batches
        part = f" (the first and one in {every} of the other batches)" if every > 1 else ""
        sets = ("probe sets " + ", ".join(run.probe_sets.sets),) if run.probe_sets.sets else ()
        return (*(stage + (part if stage == "train" else "") for stage in run.stages), *sets)
    return ("val, or train if validation doesn't run this (the first one tells)",)


def _of_unfilled_window(run: Any) -> None:
    steps = run.settings.windows.every_n_train_steps
    unfilled = run.open_train_window() is not None and not any(record.stage == "train" for record in run.history)
    if steps is not None and unfilled:
        run.guard.warn(f"training ended before a window of {steps} steps was full: there is no curve", "never filled")


def of_end_of_fit(run: Any) -> None:
    """Say what its user would look for in vain."""
    _of_unfilled_window(run)
    if "val" in run.stages and "val" not in run.closed and run.phase.trained:
        run.guard.warn(
            "no validation ran in this fit, so there is no curve of it: look at check_val_every_n_epoch and "
            'val_check_interval of the Trainer, or watch the training: FeatureGeometryMonitor(stages="train")',
            "never validated",
        )
    path = run.history.path
    if path is not None and run.history.closed and run.trainer.is_global_zero:
        say(f"featgeo: curves are in {path}; for a page of them: python -m lightning_featgeo.report {path}")
    if _compat.is_in_spawned_processes(run.trainer) and run.trainer.is_global_zero and path is not None:
        say(
            "featgeo: this fit ran in processes of its own, so monitor.history is empty in the one that started "
            f"them; read it back: from lightning_featgeo import History; History.load({str(path)!r})"
        )
