"""A model that is not trained, and curves that windows are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ANCHORED = ["cka_drift_anchor", "neighbor_overlap_anchor"]


class Teacher(nn.Module):
    """What a run must not touch: running statistics, dropout, and its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def teacher() -> Teacher:
    torch.manual_seed(5)
    return Teacher()
