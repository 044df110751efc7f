"""Features that tests and the accuracy benchmark measure on: real ones, and hard ones."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_featgeo.metrics import CATALOG

# Signals that one window of labelled features and a head suffice for.
NEEDY = {
    "views",
    "targets",
    "groups",
    "places",
    "reference",
    "earlier",
    "sketches",
    "past",
    "layers",
    "anchor",
    "mixtures",
}
PLAIN = {name for name, row in CATALOG.items() if not row.requires & NEEDY}
CLASS_SIGNALS = {name for name in PLAIN if "labels" in CATALOG[name].requires}


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
def rank_five(n: int = 2100, d: int = 2048) -> tuple[Tensor, Tensor]:
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


@cache
def long_tailed() -> tuple[Tensor, Tensor]:
    """Nine classes of 400 rows down to 12, the rare ones nearer to each other."""
    generator = torch.Generator().manual_seed(5)
    counts = [400, 260, 170, 110, 72, 47, 30, 20, 12]
    y = torch.repeat_interleave(torch.arange(9), torch.tensor(counts))
    means = torch.randn(9, 32, generator=generator)
    means[6:] = means[6] + 0.5 * means[6:]
    width = torch.linspace(1.0, 0.4, 9)
    x = means[y] + width[y, None] * torch.randn(len(y), 32, generator=generator)
    order = torch.randperm(len(y), generator=generator)
    return x[order], y[order]


@cache
def more_classes_than_dimensions() -> tuple[Tensor, Tensor]:
    """40 classes in 12 dimensions: no simplex fits."""
    generator = torch.Generator().manual_seed(6)
    y = torch.arange(2000) % 40
    return torch.randn(40, 12, generator=generator)[y] + 0.3 * torch.randn(2000, 12, generator=generator), y


@cache
def curved_manifold() -> tuple[Tensor, Tensor]:
    """A Swiss roll turned into 20 dimensions, with a little noise; classes along the roll."""
    generator = torch.Generator().manual_seed(7)
    t, h = 1.5 * torch.pi * (1 + 2 * torch.rand(1800, generator=generator)), 21 * torch.rand(1800, generator=generator)
    roll = torch.stack([t * t.cos(), h, t * t.sin()], dim=1)
    turn = torch.linalg.qr(torch.randn(20, 3, generator=generator)).Q
    y = ((t - t.min()) / (t.max() - t.min()) * 5).long().clamp(max=4)
    return roll @ turn.T + 0.01 * torch.randn(1800, 20, generator=generator), y


@cache
def heavy_duplicates() -> tuple[Tensor, Tensor]:
    """A third of the rows occur twice or three times."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(1000, 16, generator=generator)
    x = torch.cat([x, x[:400], x[:200]])
    y = torch.cat([torch.arange(1000), torch.arange(400), torch.arange(200)]) % 4
    return x + y[:, None], y
