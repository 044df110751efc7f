"""Batches of digits that a run does not train on."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, TensorDataset

from tests._helpers.data import digits


def some(first: int = 0, n: int = 100, shuffle: bool = False, **settings: Any) -> DataLoader:
    x, y = digits()
    part = slice(first, first + n)
    return DataLoader(TensorDataset(x[part] / 16, y[part]), 32, shuffle=shuffle, **settings)
