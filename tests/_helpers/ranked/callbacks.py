"""Stoppers, alarms, checkpoints and loggers in several processes. Run on each rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryEarlyStopping, Threshold, Windows
from tests._helpers.models import Classifier
from tests._helpers.ranked import several
from tests._helpers.still import SIGNALS, digit_loaders, still, told


def stopping(size: int) -> dict[str, Any]:
    """A stopper whose rule holds from the first window."""
    monitor = FeatureGeometryMonitor(signals=["feature_std"])
    stopper = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(above=1e-6), patience=2)
    run = several(size, monitor, stopper, max_epochs=6)
    run.fit(still(), *digit_loaders())
    return {"epochs": run.current_epoch, "stopped": stopper.stopped_epoch, "why": stopper.stopping_reason_message}


def alarming(size: int) -> dict[str, Any]:
    """Every action of an alarm in several processes; saving a checkpoint takes all of them."""
    heard: list[Any] = []
    stopper = GeometryEarlyStopping(
        "featgeo/val/feature_std", Threshold(above=1e-6), action=["checkpoint", heard.append, "stop"]
    )
    run = several(size, FeatureGeometryMonitor(signals=["feature_std"]), stopper, max_epochs=6)
    run.fit(still(), *digit_loaders())
    folder = Path(str(run.log_dir or run.default_root_dir)) / "featgeo"
    return {
        "epochs": run.current_epoch,
        "lines": [alarm.line for alarm in stopper.alarms],
        "heard": len(heard),
        "saved": sorted(path.name for path in folder.glob("*.ckpt")),
    }


def moving(size: int) -> dict[str, torch.Tensor]:
    """Final weights of a run that trains, with a monitor (size > 0) or without (size < 0)."""
    callbacks = [FeatureGeometryMonitor(signals=SIGNALS, stages=("train", "val"))] if size > 0 else []
    run = several(abs(size), *callbacks, max_epochs=2)
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10)))
    run.fit(model, *digit_loaders())
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def in_parts(size: int, folder: str, epochs: int, start: str | None) -> dict[str, Any]:
    """Some epochs of a model that doesn't move, from a checkpoint or from nothing; leaves one behind."""
    monitor = FeatureGeometryMonitor(signals=["feature_std", "effective_rank", "id_two_nn", "neighbor_churn"])
    run = several(size, monitor, max_epochs=epochs)
    run.fit(still(), *digit_loaders(), ckpt_path=start)
    run.save_checkpoint(Path(folder) / "last.ckpt")
    return {"records": told(monitor)}


def stock(size: int) -> dict[str, Any]:
    """Lightning's own stopper, checkpoint and logger on our names, in several processes."""
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    folder = Path.cwd() / "stock"
    monitor = FeatureGeometryMonitor(signals=["feature_std", "effective_rank"])
    stop = EarlyStopping("featgeo/val/effective_rank", patience=1, mode="max")
    best = ModelCheckpoint(folder, monitor="featgeo/val/feature_std", mode="max", auto_insert_metric_name=False)
    run = several(size, monitor, stop, best, max_epochs=9, logger=CSVLogger(folder, "csv"), enable_checkpointing=True)
    run.fit(still(), *digit_loaders())
    return {
        "epochs": run.current_epoch,
        "best": float(best.best_model_score),
        "file": str(monitor.history.path),
        "csv": [p.read_text() for p in folder.rglob("metrics.csv")],
        "histories": len(list(folder.rglob("*.jsonl"))),
    }


class ByHand(Classifier):
    """Optimises by hand, each rank for itself; the last one steps in two of three batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_rank == self.trainer.world_size - 1 and batch_idx % 3 == 1:
            return None
        optimizer: Any = self.optimizers()
        wrapped: Any = self.trainer.model
        with wrapped.no_sync():
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
        optimizer.step()
        return loss


def windows_of_steps_that_differ(size: int) -> list[tuple[str, float]]:
    """Stage and epoch of each record."""
    x, y = torch.randn(64, 64), torch.arange(64) % 10
    monitor = FeatureGeometryMonitor(
        signals=["n_samples"], stages=("train",), windows=Windows(every_n_train_steps=2), on_error="raise"
    )
    run = several(size, monitor, max_epochs=2, use_distributed_sampler=False)
    run.fit(ByHand(), DataLoader(TensorDataset(x, y), 8))
    return [(one.stage, one.epoch) for one in monitor.history]
