"""Lightning's hooks of training: a window opens, is fed and closes; and the head is found by what is trained."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from lightning_featgeo.callbacks import checkpointing, closing, train_batches
from lightning_featgeo.callbacks.first_batches import check
from lightning_featgeo.callbacks.lightning_types import LightningModule, Trainer
from lightning_featgeo.callbacks.run import LightningRun
from lightning_featgeo.callbacks.settings import MonitorSettings
from lightning_featgeo.types import Tensor


class TrainingHooks(Callback):
    """What a monitor does while a fit trains."""

    settings: MonitorSettings
    _run: LightningRun | None

    def _close(self, stage: str, inside_epoch: bool = False) -> None:
        raise NotImplementedError  # the monitor's: evaluation closes windows in the same way

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Last epoch's values are stale now; an epoch's training window opens."""
        run = self._run
        if run is None:
            return
        run.keep_metrics(float(trainer.current_epoch))  # of the epoch before
        run.publisher.forget_stale()
        run.train_loader_starts()
        if self.settings.windows.every_n_train_steps is None:
            run.open_if_due("train")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Catch this batch, for a window or to find the head."""
        run = self._run
        if run is None:
            return
        if run.background is not None:
            closing.publish_computed(run)
        check(run, "train", 0, batch)
        if not run.is_open("train") and (self.settings.windows.every_n_train_steps is not None or batch_idx == 0):
            run.open_if_due("train")  # after a resume, Lightning may leave out on_train_epoch_start
        elif not run.is_open("train") and not run.phase.trained and run.is_due("train"):
            run.open_late(checkpointing.RESTARTS)
        train_batches.begin(run, batch, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The forward is done: what backward runs again (activation checkpointing) is not caught."""
        if self._run is not None and self._run.phase.catching == "train":
            self._run.forward_done(loss)

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Comes between forward and backward."""
        if self._run is not None and self._run.phase.catching == "train" and pl_module.automatic_optimization:
            self._run.watcher.sources.pause(for_good=True)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Manual optimisation may run further forwards."""
        if self._run is not None and self._run.phase.catching == "train" and not pl_module.automatic_optimization:
            self._run.watcher.sources.resume()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stream what was caught; close a window of n steps."""
        run, steps = self._run, self.settings.windows.every_n_train_steps
        if run is None:
            return
        if run.phase.catching == "train":
            run.end_batch("train", 0, outputs, batch)
        else:
            train_batches.pass_over(run, batch)
        run.phase.trained, run.phase.moment = True, run.phase.moment + 1
        if steps is not None and run.is_open("train") and run.steps_open() >= steps:
            self._close("train", inside_epoch=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is still being computed is waited for."""
        if self._run is not None:
            closing.publish_computed(self._run, wait=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch's training window."""
        if self.settings.windows.every_n_train_steps is None and self._run is not None and self._run.is_open("train"):
            self._close("train")
