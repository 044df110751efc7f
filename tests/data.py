"""Features that tests and the accuracy benchmark measure on: real ones, and hard ones."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


@cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: 1797 real images, 64 pixels, as float32."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


@cache
def digits_features() -> tuple[Tensor, Tensor]:
    """Features of the digits behind a small ReLU network with fixed weights."""
    x, y = digits()
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(64, 96, generator=generator) / 8
    return torch.relu(x / 16 @ w + 0.05 * torch.randn(96, generator=generator)), y


@cache
def far_from_origin() -> tuple[Tensor, Tensor]:
    """Mean 1000, standard deviation 1: what raw fp32 moments lose entirely."""
    generator = torch.Generator().manual_seed(1)
    return 1000 + torch.randn(1500, 64, generator=generator), torch.arange(1500) % 5


@cache
def rank_five(n: int = 2500, d: int = 2048) -> tuple[Tensor, Tensor]:
    """Five directions in 2048 dimensions: square roots of round-off add up to a wrong entropy."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, 5, generator=generator) @ torch.randn(5, d, generator=generator), torch.arange(n) % 5


@cache
def nearly_collapsed(offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Class clusters so tight that NC1 is near 1e-8."""
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(10, 64, generator=generator)
    y = torch.arange(2000) % 10
    return offset + means[y] + 2.5e-4 * torch.randn(2000, 64, generator=generator), y


@cache
def head(classes: int, width: int) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Linear(width, classes)
