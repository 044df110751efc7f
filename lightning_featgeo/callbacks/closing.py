"""What comes of closed windows: stoppers are asked, records published; at once, or later where they are computed
beside training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lightning_featgeo.callbacks.stoppers import UNWATCHED
from lightning_featgeo.watch import pending
from lightning_featgeo.watch.plan import ClosedWindow
from lightning_featgeo.watch.window import Window


def publish(run: Any, windows: Sequence[Window], closed: Sequence[ClosedWindow], inside_epoch: bool) -> float:
    """Ask the stoppers of windows that have closed together, and send the records on; returns the seconds it took.

    Args:
        run: the ``LightningRun``.
        windows: of one stage.
        closed: what came of them.
        inside_epoch: see ``Publisher.publish``.
    """
    begin = time.perf_counter()
    judged = run.stoppers.judge(closed) if run.stoppers.stoppers else [UNWATCHED] * len(closed)
    for one, (due, state) in zip(closed, judged, strict=True):
        run.publisher.publish(run.pl_module, one, inside_epoch, due, state)
    if run.display.sinks:
        run.display.finish_windows([window.plan.name for window in windows])
    return time.perf_counter() - begin


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
