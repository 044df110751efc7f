"""One run in one piece, and the same run interrupted and resumed, for the tests that compare them and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.models import SAFELY, Classifier, loaders, trainer

SIGNALS = ["feature_std", "effective_rank", "id_two_nn", "knn_log_density", "nc1", "neighbor_churn", "n_samples"]


def everyone(**settings: Any) -> FeatureGeometryMonitor:
    return FeatureGeometryMonitor(**{"signals": SIGNALS, "stages": ("train", "val"), **settings})


class Stop(pl.Callback):
    """Ends the run with an error behind so many steps."""

    def __init__(self, step: int, error: type[BaseException] = RuntimeError) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error("stopped here")


def data(stateful: bool) -> tuple[DataLoader, DataLoader]:
    train, val = loaders(shuffle=False)
    return (StatefulDataLoader(train.dataset, 64) if stateful else train), val


def model() -> Classifier:
    torch.manual_seed(1)
    return Classifier()


def shown(monitor: FeatureGeometryMonitor) -> list[tuple[Any, ...]]:
    return [(r.window, r.stage, r.epoch, r.step, r.values, r.gaps, {**r.counts, "batches": 0}) for r in monitor.history]


def uninterrupted(stateful: bool = False, **kwargs: Any) -> FeatureGeometryMonitor:
    monitor = everyone(**kwargs.pop("settings", {}))
    trainer(monitor, max_epochs=3, **kwargs).fit(model(), *data(stateful))
    return monitor


def interrupted(
    folder: Path,
    stateful: bool,
    step: int,
    error: type[BaseException] = RuntimeError,
    every: int | None = 1,
    **kwargs: Any,
) -> FeatureGeometryMonitor:
    """The same run in two parts; the second knows nothing but the file."""
    settings = kwargs.pop("settings", {})
    store = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=every)
    run = trainer(everyone(**settings), store, Stop(step, error), max_epochs=3, enable_checkpointing=True, **kwargs)
    try:
        run.fit(model(), *data(stateful))
    except (error, SystemExit):  # Lightning ends a run that Ctrl-C has stopped with SystemExit
        pass
    else:
        raise AssertionError("nothing has stopped the run")
    last = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    monitor = everyone(**settings)
    torch.manual_seed(7)
    trainer(monitor, max_epochs=3, **kwargs).fit(Classifier(), *data(stateful), ckpt_path=last, **SAFELY)
    return monitor
