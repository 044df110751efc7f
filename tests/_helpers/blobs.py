"""A step of one's own over classes that stand apart, and what its rows give a metric that is told everything."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric
from tests._helpers.models import trainer

CLASSES = 5


def blobs(n: int = 208, shape: tuple[int, ...] = (10,)) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    return TensorDataset(
        2 * torch.randn(CLASSES, *shape, generator=generator)[y] + torch.randn(n, *shape, generator=generator), y
    )


class Net(pl.LightningModule):
    """``step(net, x, y)`` is what a test is about; rows and labels that it gives are kept."""

    def __init__(self, step: Callable[..., torch.Tensor], d: int = 10) -> None:
        super().__init__()
        self.flat, self.body, self.head = nn.Flatten(), nn.Linear(d, 24), nn.Linear(24, CLASSES)
        self.step, self.kept = step, []

    def keep(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        none = torch.full((len(features),), -1)
        self.kept.append((features.detach().clone(), none if labels is None else labels))
        return features

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.step(self, *batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(step: Callable[..., torch.Tensor], data: TensorDataset, batch: int = 16) -> tuple[Any, Any]:
    """The record of an epoch, and what the same rows give a metric that is told everything."""
    torch.manual_seed(0)
    net = Net(step, data.tensors[0][0].numel())
    monitor = FeatureGeometryMonitor(signals=["nc1", "feature_std"], stages="train", on_error="raise")
    trainer(monitor, max_epochs=1).fit(net, DataLoader(data, batch))
    metric = GeometryMetric(["nc1", "feature_std"], num_classes=CLASSES)
    for features, labels in net.kept:
        metric.update(features, labels)
    return monitor.history.records[-1], metric.window()


def same(record: Any, right: Any) -> None:
    assert record.counts["labelled"] == right.counts["labelled"]
    assert record.values == pytest.approx(right.values, rel=1e-5)
