"""What the run logs besides our curves (losses, accuracies), kept in the history to be compared with them."""

from __future__ import annotations

from typing import Any

import torch

from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.callbacks.trainer import fractional_epoch
from lightning_featgeo.history.history import History
from lightning_featgeo.history.logged import MOST_NAMES, is_ours
from lightning_featgeo.watch.guard import Guard


def keep(trainer: Trainer, history: History, epoch: float, guard: Guard) -> None:
    """Write down the metrics as they stand. Lightning has computed them by now: nothing is asked of other processes.

    An error costs these metrics, and no curve.
    """
    with guard.around("keeping the run's own metrics", lost="the curves are not affected"):
        history.log_metrics(_numbers(trainer), epoch, int(trainer.global_step))
        if history.metrics.is_full:
            told = f"of the metrics that this run logs, the history keeps the first {MOST_NAMES:,} names"
            guard.warn(told, told)


def keep_after(trainer: Trainer, history: History, run: Any) -> None:
    """Those of a validation or a test; ``run``: what watches it, None where it is not watched (a test after a fit)."""
    nested = run is not None and run.trainer is not trainer  # its metrics are of another model
    if not nested and not trainer.sanity_checking and (run is not None or history.closed):
        keep(trainer, history, fractional_epoch(trainer), Guard("warn") if run is None else run.guard)


def keep_before_saving(run: Any) -> None:
    """Those of now, if ``run`` is a fit: an epoch's training metrics are there when its checkpoint is written."""
    if run.fits:
        step = int(run.trainer.global_step)
        at = (record.epoch for record in reversed(run.history.records) if record.step == step)  # of this moment
        run.keep_metrics(next(at, fractional_epoch(run.trainer)))


def _numbers(trainer: Trainer) -> dict[str, float]:
    given = trainer.callback_metrics
    values = {
        name: value.detach().reshape(())
        for name, value in given.items()
        if isinstance(value, torch.Tensor)
        and not is_ours(name)
        and value.numel() == 1
        and not value.is_complex()
        # logged on steps and over epochs at once, a name stands now for the one and now for the other
        and f"{name}_step" not in given
    }
    if not values:
        return {}
    device = next(iter(values.values())).device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs don't have
    together = torch.stack([one.to(device, dtype) for one in values.values()])  # one wait, not one for each
    return dict(zip(values, together.tolist(), strict=True))
