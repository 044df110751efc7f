"""A model that never moves: every execution sees the same weights, and the same digits."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.metrics.catalog import CATALOG
from tests._helpers.data import digits
from tests._helpers.models import Classifier

TRAIN, VAL = 307, 457  # neither 2, 3 nor 4 divides them


_LACKING = {
    "views",
    "targets",
    "groups",
    "places",
    "reference",
    "layers",
    "anchor",
    "best",
    "sketches",
    "past",
    "mixtures",
}
SIGNALS = [name for name, row in CATALOG.items() if not row.requires & _LACKING]


class Still(Classifier):
    """Never moves: every execution sees the same weights. Every sample is one row of its own in any batch."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def still() -> Still:
    torch.manual_seed(0)
    return Still()


def digit_loaders(batch: int = 32, train: int = TRAIN, val: int = VAL) -> tuple[DataLoader, DataLoader]:
    x, y = digits()
    x = x / 16
    return (
        DataLoader(TensorDataset(x[:train], y[:train]), batch),
        DataLoader(TensorDataset(x[train : train + val], y[train : train + val]), batch),
    )


def told(monitor: FeatureGeometryMonitor) -> list[dict[str, Any]]:
    return [
        {"stage": r.stage, "window": r.window, "values": r.values, "gaps": r.gaps, "counts": r.counts, "notes": r.notes}
        for r in monitor.history
    ]
