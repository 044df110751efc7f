"""Which training batches are watched: all of a window's, or with ``every_n_batches`` the first and some others.

And those that may tell what the head is.
"""

from __future__ import annotations

from typing import Any

from lightning_featgeo.callbacks.run import LightningRun
from lightning_featgeo.rows.batches import batch_size
from lightning_featgeo.rows.scoring import EVERY


def begin(run: LightningRun, batch: Any, number: int) -> None:
    """Catch a training batch: for a window that takes it, or to find the head.

    Args:
        run: the run.
        batch: as the step is given it.
        number: of the batch in its epoch; with the first one, it is seen whether anything before the head trains.
    """
    if run.watcher.ranks.several and ("train", 0) not in run.watcher.shards:
        run.train_loader_starts(from_start=False)
    window = run.open_train_window()
    taken = window is not None and window.takes(f"{run.trainer.current_epoch}/{number}")
    sources, scoring = run.watcher.sources, run.watcher.sources.watched.scoring
    more = scoring.wants_more or (number % EVERY == 0 and scoring.made.is_watched)
    tells = number == 0 or sources.unsettled or (window is None and more)  # what is caught goes into an open window
    if taken or tells:
        run.begin_batch("train", 0, batch)


def pass_over(run: LightningRun, batch: Any) -> None:
    """A training batch was not watched."""
    window = run.open_train_window() if run.settings.windows.every_n_batches > 1 else None
    size = None if window is None else batch_size(batch)
    if window is not None and size is not None:
        window.pass_over(size)
    else:
        run.watcher.missed_batch(("train", 0))
