"""A loader's first batch is looked at before its features are needed: settings that can't work end the run there."""

from __future__ import annotations

from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks import publishing
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.batches import select


def check(run: Any, stage: str, number: int, batch: Any) -> None:
    """Look at a batch for settings that can't work.

    Args:
        run: the ``LightningRun``.
        stage, number: of the loader.
        batch: as the step is given it. One that takes its batches itself has not got it yet.

    Raises:
        ConfigurationError: before anything was trained, if no loader of the stage has what was asked for.
    """
    loader = stage, number
    if loader in run.phase.looked or stage not in run.stages or _compat.takes_batches_itself(run.pl_module, stage):
        return
    run.phase.looked.add(loader)
    refuses = not run.phase.trained
    with run.guard.around(f"looking at a {stage} batch", run.watcher.failing(stage), refuses=refuses):
        if refuses and run.settings.display.id_key is not None:  # later, what is only shown must not cost a curve
            select(batch, run.settings.display.id_key, "id_key")
        try:
            has_labels = run.watcher.look(batch)
        except ConfigurationError:
            run.lacking.add(loader)
            if _may_be_elsewhere(run, stage):
                return  # its windows have gaps
            raise
        if run.settings.signals == "auto" and not has_labels:
            run.settle_names(loader, publishing.without_labels(run.also))


def _may_be_elsewhere(run: Any, stage: str) -> bool:
    """Whether another loader of the stage has what this one lacks, or is still to be looked at."""
    loaders = {(stage, number) for number in range(len(run.names(stage)))}
    return bool(loaders - run.lacking)
