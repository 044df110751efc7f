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
    windows = run.watcher.of_stage(stage)
    run.background.begin(windows, first_number, epoch, step)
    for window in windows:  # what whoever looks now would take for its values
        run.publisher.forget_stale(f"featgeo/{window.plan.name}/")


def go_on(run: Any) -> None:
    """Of windows that were being computed when the checkpoint was written, the curves; before training goes on."""
    while run.saved is not None and run.saved.pending:
        window = pending.window_of(run.saved.pending[0])
        with run.guard.around("computing a window of before the checkpoint", window.fail):
            pending.fill(window, run.watcher, run.saved.pending[0], run.trainer.strategy.root_device)
        closed = pending.close(window, run.watcher, run.saved.pending.pop(0))
        run.saved.add_earlier(window)
        publish(run, [window], closed, inside_epoch=True)


def publish_alone(run: Any) -> None:
    """The run has died: what is being computed is written down by this process, without the others."""
    if not run.watcher.ranks.several:
        with run.guard.around("writing down the last windows", lost="they are lost"):
            go_on(run)
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
