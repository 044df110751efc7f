"""A step of one's own that keeps which rows and labels are right, by stage; and a metric that is told both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.models import trainer

SIGNALS = ["nc1", "feature_std"]


class Kept(pl.LightningModule):
    """A step of one's own, ``step(net, batch)``, which gives the loss and keeps rows and labels, by stage."""

    def __init__(self, step: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.step = step
        self.kept: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "val": []}
        for name, part in parts.items():
            setattr(self, name, part)
        self.head = nn.Linear(16, CLASSES)

    def keep(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        none = torch.full((len(rows),), -1)
        kept = rows.detach().clone(), none if labels is None else labels.clone()
        self.kept["train" if self.trainer.training else "val"].append(kept)
        return rows

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(self, *batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(self, *batch)

    def on_validation_epoch_start(self) -> None:
        self.kept["val"].clear()

    def on_train_epoch_start(self) -> None:
        self.kept["train"].clear()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def by_hand(logits: Tensor, y: Tensor) -> Tensor:
    """A loss that keeps no classes."""
    return binary_cross_entropy_with_logits(logits, one_hot(y, CLASSES).float())


def layer(before: int, after: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after), nn.Tanh())


def labelled(monitor: FeatureGeometryMonitor, stage: str) -> list[int]:
    """Rows with a label, by window."""
    return [one.counts["labelled"] for one in monitor.history if one.stage == stage]


def run(model: Kept, data: TensorDataset, stages: Any = ("train", "val"), **settings: Any) -> FeatureGeometryMonitor:
    torch.manual_seed(0)
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=stages, on_error="raise", **settings)
    loaders = DataLoader(data, 16, shuffle=True), DataLoader(data, 16)
    trainer(monitor, max_epochs=2).fit(model, *loaders)
    return monitor


def check(monitor: FeatureGeometryMonitor, model: Kept, stage: str) -> None:
    metric = GeometryMetric(SIGNALS, num_classes=CLASSES)
    for rows, labels in model.kept[stage]:
        metric.update(rows, labels)
    right = metric.window()
    record = [one for one in monitor.history if one.stage == stage][-1]
    assert record.counts["labelled"] == right.counts["labelled"]
    assert record.values == pytest.approx(right.values, rel=1e-5)


def check_both(step: Callable[..., Tensor]) -> None:
    """Train by a step of one's own, behind one layer; rows and labels are right in training and in validation."""
    model = Kept(step, one=layer(10))
    monitor = run(model, blobs())
    for stage in ("train", "val"):
        check(monitor, model, stage)
