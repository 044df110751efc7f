"""Modules that are replaced while a fit runs: the new ones are watched."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.models import trainer

CLASSES = 5


class Net(pl.LightningModule):
    """Keeps its own features of the epoch, and the head that they went through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(10, 24), nn.Linear(24, CLASSES)
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.nc3: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        features = torch.tanh(self.layer(batch[0]))
        self.kept.append((features.detach().double(), batch[1]))
        return nn.functional.cross_entropy(self.head(features), batch[1])

    def on_train_epoch_end(self) -> None:
        x, y = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        means = torch.stack([x[y == c].mean(dim=0) for c in range(CLASSES)])
        means, weight = means - means.mean(dim=0), self.head.weight.detach().double()
        self.nc3.append(float((weight / weight.norm() - means / means.norm()).norm()))
        self.kept.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def replace(self, **modules: nn.Module) -> None:
        for name, module in modules.items():
            setattr(self, name, module)
        self.trainer.optimizers[0].param_groups[0]["params"] = list(self.parameters())


class Replaces(pl.Callback):
    """In the second epoch: a new head before its sixth batch, or a narrower layer before its first."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.what == "layer" and trainer.current_epoch == 1:
            pl_module.replace(layer=nn.Linear(10, 16), head=nn.Linear(16, CLASSES))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.what == "head" and trainer.current_epoch == 1 and batch_idx == 5:
            pl_module.replace(head=nn.Linear(24, CLASSES))


def fit(what: str, **given: Any) -> tuple[Net, FeatureGeometryMonitor]:
    torch.manual_seed(0)
    y = torch.arange(200) % CLASSES
    x = 2 * torch.randn(CLASSES, 10)[y] + torch.randn(200, 10)
    model, monitor = Net(), FeatureGeometryMonitor(stages="train", **given)
    trainer(Replaces(what), monitor, max_epochs=4).fit(model, DataLoader(TensorDataset(x, y), 16))
    return model, monitor


def test_a_head_that_is_replaced_in_the_middle_of_a_window_is_read_at_its_end_and_from_then_on() -> None:
    model, monitor = fit("head", signals=["nc3", "feature_std"])
    assert [one.values["nc3"] for one in monitor.history] == pytest.approx(model.nc3, rel=1e-6)
    assert [one.counts["seen"] for one in monitor.history] == [200, 200, 200, 200]


def test_a_layer_of_another_width_is_watched_from_its_first_window_on() -> None:
    _, monitor = fit("layer", layer="layer", signals=["feature_std"])
    assert [one.facts["dim"] for one in monitor.history] == [24, 16, 16, 16]
    assert all("feature_std" in one.values for one in monitor.history)
