"""Networks of the validity benchmark: rows of any kind to features."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from validity_data import CHARACTERS, LENGTH


@dataclass(frozen=True)
class Setup:
    """What a seed draws: sizes, learning rate (a factor), augmentation, and when and how strongly a fault sets in."""

    seed: int
    width: int
    dim: int
    batch: int
    rate: float
    strength: float
    val_rows: int
    late: int
    severity: int

    @classmethod
    def of(cls, seed: int) -> Setup:
        draw = random.Random(seed)
        return cls(
            seed, draw.choice([16, 64, 64, 128, 128, 256, 512]),
            draw.choice([1024, *([16, 32, 32, 64, 64, 64, 128, 128, 256] * 2)]),
            draw.choice([16, 64, 64, 64, 128, 128, 512]), draw.choice([0.5, 1.0, 2.0]), draw.choice([0.5, 1.0, 2.0]),
            draw.choice([200, 400, 400, 1000, 2000]), draw.choice([6, 12, 18]), draw.choice([0, 1, 2]),
        )  # fmt: skip


def norm_of(kind: str, size: int, two: bool = False) -> list[nn.Module]:
    """The normalisation after a layer: "batch", "layer" or none."""
    if kind == "batch":
        return [nn.BatchNorm2d(size) if two else nn.BatchNorm1d(size)]
    return [nn.GroupNorm(1, size) if two else nn.LayerNorm(size)] if kind == "layer" else []


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), *norm_of(norm, width, two=True), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), *norm_of(norm, width, two=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class Recurrent(nn.Module):
    """A GRU's last state, or all of them; characters are embedded first."""

    def __init__(self, inputs: int, dim: int, every: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, dim) if inputs else nn.Embedding(CHARACTERS, dim)
        self.rnn, self.every = nn.GRU(dim, dim, batch_first=True), every

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(self.embed(x))[0]
        return states if self.every else states[:, -1]


class Transformer(nn.Module):
    """Blocks of attention with the norm first; the mean of the places, or each (causal)."""

    def __init__(self, inputs: int, dim: int, every: bool = False, patch: int = 0) -> None:
        super().__init__()
        self.patch, self.every = patch, every
        size = inputs * patch * patch if patch else inputs
        self.embed = nn.Linear(size, dim) if size else nn.Embedding(CHARACTERS, dim)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, dim))
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.patch:
            x = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        x = self.embed(x)
        x = x + self.place[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.every else None
        x = self.norm(self.blocks(x, mask=mask, is_causal=self.every))
        return x if self.every else x.mean(1)


class OfSets(nn.Module):
    """Each point by itself, then the largest of each feature (DeepSets)."""

    def __init__(self, width: int, dim: int, norm: str) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.after = nn.Sequential(nn.Linear(width, dim), *norm_of(norm, dim), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.each(x).amax(1))


class OfGraphs(nn.Module):
    """Two graph convolutions on degrees and a random walk's returns, then the mean of the nodes."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.one, self.two, self.after = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, dim)

    def forward(self, links: Tensor) -> Tensor:
        degree = links.sum(2, keepdim=True)
        walk = links / degree.clamp_min(1)
        twice = walk @ walk
        seen = [degree / 4, *(m.diagonal(dim1=1, dim2=2)[..., None] for m in (twice, twice @ walk, twice @ twice))]
        x = F.relu(self.one(torch.cat(seen, 2)))
        return F.relu(self.after((F.relu(self.two(walk @ x + x))).mean(1)))


def encoder(net: str, x: Tensor, setup: Setup, norm: str = "batch", signed: bool = False) -> nn.Module:
    """A network for rows like ``x``. ``signed``: features as an embedding's, else behind a ReLU where it has them."""
    w, d, last = setup.width, setup.dim, [] if signed else [nn.ReLU()]
    if net == "mlp":
        size = x[0].numel()
        body = [nn.Linear(size, w), *norm_of(norm, w), nn.ReLU(), nn.Linear(w, w), *norm_of(norm, w), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *body, nn.Linear(w, d), *last)
    if net == "one_layer":
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), d))
    if net in ("cnn", "residual"):
        c = min(max(w // 8, 8), 16 if net == "residual" else 32)
        after = d if net == "cnn" else min(d, 128)
        middle = [Residual(c, norm)] if net == "residual" else [
            nn.Conv2d(c, c, 3, padding=1), *norm_of(norm, c, two=True), nn.ReLU()
        ]  # fmt: skip
        stem = [nn.Conv2d(x.shape[1], c, 3, padding=1), *norm_of(norm, c, two=True), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*stem, *middle, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * c, after), *last)
    small = min(max(d, 16), 64)  # what attends or recurs is slow
    if net == "vit":
        return Transformer(x.shape[1], small, patch=x.shape[2] // 4)
    if net == "gru":
        return Recurrent(0 if x.ndim == 2 else x.shape[2], small, every=x.ndim == 2)
    if net == "transformer":
        return Transformer(0 if x.ndim == 2 else x.shape[2], small, every=x.ndim == 2)
    if net == "sets":
        return OfSets(min(w, 64), min(d, 256), norm)
    assert net == "graphs"
    return OfGraphs(min(w, 64), min(d, 256))


def features_of(module: nn.Module, x: Tensor) -> Tensor:
    """Features of rows in evaluation, without gradient: (rows, d), characters one below the other."""
    was = module.training
    module.eval()
    with torch.no_grad():
        found = module(x)
    module.train(was)
    return found.flatten(0, -2)
