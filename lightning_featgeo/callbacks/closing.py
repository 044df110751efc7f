"""Windows that are computed beside training: begun as they close, published later, finished when the run ends."""

from __future__ import annotations

from typing import Any

from lightning_featgeo.callbacks.publishing import publish
from lightning_featgeo.watch import pending


def publish_computed(run: Any, wait: bool = False) -> None:
    """Publish windows that were computed beside training, and act on their alarms.

    Args:
        run: the ``LightningRun``.
        wait: for all of them, as training is over. Else those that are done: in a run of one process, where nobody
            has to agree on it.
    """
    while run.background is not None and (run.background.is_done or (wait and run.background.jobs)):
        _publish_next(run)


def begin(run: Any, stage: str, first_number: int, epoch: float, step: int) -> None:
    """Compute the stage's windows beside training from now on; those before them are published: every process does it
    here."""
    while run.background.holds(stage):
        _publish_next(run)
    run.background.begin(run.watcher.of_stage(stage), first_number, epoch, step)


def go_on(run: Any) -> None:
    """Of windows that were being computed when the checkpoint was written, the curves; before training goes on."""
    for state in run.saved.pending if run.saved is not None else ():
        with run.guard.around("computing a window of before the checkpoint", lost="it has no values"):
            window, closed = pending.computed(run.watcher, state, run.trainer.strategy.root_device)
            run.saved.add_earlier(window)
            publish(run, [window], closed, inside_epoch=True)


def publish_alone(run: Any) -> None:
    """The run has died: what is being computed is written down by this process, without the others."""
    while run.background is not None and run.background.jobs:
        with run.guard.around("writing down the last windows", lost="they are lost"):
            window, closed = run.background.take(together=False)
            if not run.watcher.ranks.several:
                publish(run, [window], closed, inside_epoch=True)
            elif run.watcher.ranks.rank == 0:
                for one in closed:
                    run.history.append(one.record)


def _publish_next(run: Any) -> None:
    window, closed = run.background.take()
    publish(run, [window], closed, inside_epoch=True)
    if run.stoppers.stoppers:
        run.stoppers.act()
