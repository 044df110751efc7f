"""A network that collapses while it trains, for the tests of alarms."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from tests._helpers.models import Classifier


class Fault(Callback):
    """From an epoch on: features shrink towards one point, or lose all but three of their directions."""

    def __init__(self, what: str, at: int) -> None:
        self.what, self.at = what, at

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch < self.at:
            return
        layer = pl_module.net[0]
        with torch.no_grad():
            if self.what == "point":
                layer.weight.mul_(0.1)
                layer.bias.fill_(1.0)
            else:
                u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
                s[3:] *= 0.4
                layer.weight.copy_(u * s @ v)


class Offset(Callback):
    """From an epoch on, all features are moved the same way before each validation: less spread, nothing lost."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch >= self.at:
            with torch.no_grad():
                pl_module.net[0].bias.fill_(1.0)


def signed() -> Classifier:
    return Classifier(nn.Sequential(nn.Linear(64, 32), nn.Identity(), nn.Linear(32, 10)))


SIGNALS = ["feature_std", "effective_rank", "dead_fraction", "mean_resultant", "knn_accuracy", "cdnv"]
