"""Small real models and runs for the integration tests. Only ``strict`` knows of lightning-featgeo."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.data import digits


class Classifier(pl.LightningModule):
    """Digits through any network; SGD or AdamW."""

    def __init__(self, net: nn.Module | None = None, optimizer: str = "sgd", dropout: float = 0.0) -> None:
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, 10))
        self.kind = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        if self.kind == "sgd":
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def loaders(train: int = 256, val: int = 200, batch: int = 64, shuffle: bool = True) -> tuple[DataLoader, DataLoader]:
    x, y = digits()
    a, b = TensorDataset(x[:train] / 16, y[:train]), TensorDataset(x[train : train + val] / 16, y[train : train + val])
    return DataLoader(a, batch, shuffle=shuffle), DataLoader(b, batch)


# Lightning's fit() takes it from 2.6 on; before that, checkpoints are read as torch reads them
_TELLS = "weights_only" in signature(pl.Trainer.fit).parameters
SAFELY: dict[str, Any] = {"weights_only": True} if _TELLS else {}
WHOLE: dict[str, Any] = {"weights_only": False} if _TELLS else {}


def trainer(*callbacks: pl.Callback, **kwargs: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**defaults, **kwargs}, callbacks=list(callbacks))


def strict(**kwargs: Any) -> FeatureGeometryMonitor:
    """A monitor whose errors are errors."""
    return FeatureGeometryMonitor(**{"on_error": "raise", **kwargs})


class OfLoss(pl.LightningModule):
    """Gives its ``loss(x, y)``, in training and in validation."""

    loss: Callable[[Tensor, Tensor], Tensor]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(*batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(*batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Frozen(Classifier):
    """Weights that never move, so that a training window is one weight state too."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)
