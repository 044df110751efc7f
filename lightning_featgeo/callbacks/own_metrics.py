"""What the run logs besides our curves (losses, accuracies), kept in the history to be compared with them."""

from __future__ import annotations

import torch

from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.history.history import History


def keep(trainer: Trainer, history: History, epoch: float) -> None:
    """Write down the metrics as they stand. Lightning has computed them by now: nothing is asked of other processes."""
    given = trainer.callback_metrics
    values = {
        name: value.detach().reshape(()).double()
        for name, value in given.items()
        if isinstance(value, torch.Tensor)
        and value.numel() == 1
        and not value.is_complex()
        # logged on steps and over epochs at once, a name stands now for the one and now for the other
        and not (f"{name}_step" in given or f"{name}_epoch" in given)
    }
    if values:
        device = next(iter(values.values())).device
        numbers = torch.stack([one.to(device) for one in values.values()]).tolist()  # one wait, not one for each
        history.log_metrics(dict(zip(values, numbers, strict=True)), epoch, int(trainer.global_step))
