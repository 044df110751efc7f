"""Data of the validity benchmark: what ships in packages, or is generated. Nothing is downloaded.

scikit-learn has the digits, tables and two photographs; scikit-image more photographs, sktime time series (neither is
a dependency of the tests: ``pip install scikit-image sktime``).
"""

from __future__ import annotations

import functools
import importlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional as F

Rows = tuple[Tensor, Tensor]
CHARACTERS = 64  # of text; what is rarer is one of them
LENGTH = 32  # of a piece of text


@dataclass
class Data:
    """Rows with their targets. ``classes``: 0 where targets are numbers."""

    train: Rows
    val: Rows
    test: Rows
    classes: int

    def long_tailed(self, seed: int) -> None:
        """Classes of the training rows from all to a tenth."""
        x, y = self.train
        drawn = torch.rand(len(y), generator=torch.Generator().manual_seed(seed))
        keep = drawn < 10.0 ** (-y / (self.classes - 1))
        self.train = x[keep], y[keep]

    def noisy(self, seed: int, share: float = 0.4) -> None:
        """A share of the training labels is drawn anew."""
        x, y = self.train
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(y), generator=generator) < share
        self.train = x, torch.where(wrong, torch.randint(self.classes, y.shape, generator=generator), y)


def of(name: str, seed: int, train: int = 900, val: int = 400) -> Data:
    """So many rows of a data set, split anew by each seed; of a small one, three fifths, a fifth and a fifth."""
    x, y, classes = SOURCES[name](seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    train, val = min(train, int(0.6 * len(x))), min(val, int(0.25 * len(x)))
    parts = [slice(0, train), slice(train, train + val), slice(train + val, train + val + 400)]
    return Data(*((x[part], y[part]) for part in parts), classes)


# --- images ----------------------------------------------------------------------------------------------------------


def _digits(seed: int) -> tuple[Tensor, Tensor, int]:
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y), 10


def _digit_sums(seed: int) -> tuple[Tensor, Tensor, int]:
    """A number to tell from a picture: the digit shown, standardised."""
    x, y, _ = _digits(seed)
    return x, standardized(y.float()[:, None]), 0


@functools.cache
def photographs() -> list[Tensor]:
    """Grey photographs (h, w) in [0, 1], at half their size."""
    from skimage import data

    shown = [picture.astype(np.float32) / 255 for picture in datasets.load_sample_images().images]
    names = (
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "camera",
        "brick",
        "grass",
        "gravel",
        "coins",
        "hubble_deep_field",
    )
    shown += [getattr(data, name)().astype(np.float32) / 255 for name in names]
    grey = [torch.tensor(picture if picture.ndim == 2 else picture[..., :3].mean(-1)) for picture in shown]
    return [F.avg_pool2d(picture[None, None], 2)[0, 0] for picture in grey]


def patches(seed: int, count: int = 4000, size: int = 16) -> tuple[Tensor, Tensor, int]:
    """Squares cut from the photographs: which one is a square from?"""
    draw, pictures = random.Random(seed), photographs()
    labels = [draw.randrange(len(pictures)) for _ in range(count)]
    cuts = []
    for label in labels:
        h, w = pictures[label].shape
        top, left = draw.randrange(h - size), draw.randrange(w - size)
        cuts.append(pictures[label][top : top + size, left : left + size])
    x = torch.stack(cuts)[:, None]
    return (x - x.mean()) / x.std(), torch.tensor(labels), len(pictures)


def _turned(seed: int) -> tuple[Tensor, Tensor, int]:
    """Digits turned by quarters: by how many?"""
    x, _, _ = _digits(seed)
    turns = torch.randint(4, (len(x),), generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.rot90(digit, int(k), (1, 2)) for digit, k in zip(x, turns, strict=True)]), turns, 4


# --- tables ----------------------------------------------------------------------------------------------------------


def standardized(x: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1."""
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)


def _table(load: Callable[..., tuple[np.ndarray, np.ndarray]], classes: int) -> tuple[Tensor, Tensor, int]:
    x, y = load(return_X_y=True)
    targets = torch.tensor(y) if classes else standardized(torch.tensor(y, dtype=torch.float32)[:, None])
    return standardized(torch.tensor(x, dtype=torch.float32)), targets, classes


def _tumours(seed: int) -> tuple[Tensor, Tensor, int]:
    return _table(datasets.load_breast_cancer, 2)


def _diabetes(seed: int) -> tuple[Tensor, Tensor, int]:
    return _table(datasets.load_diabetes, 0)


def _mixture(seed: int) -> tuple[Tensor, Tensor, int]:
    x, y = datasets.make_classification(
        3000, 40, n_informative=12, n_redundant=10, n_classes=6, n_clusters_per_class=2, random_state=seed
    )
    return standardized(torch.tensor(x, dtype=torch.float32)), torch.tensor(y), 6


def _friedman(seed: int) -> tuple[Tensor, Tensor, int]:
    x, y = datasets.make_friedman1(2500, 12, noise=1.0, random_state=seed)
    targets = torch.tensor(np.stack([y, y**2, x[:, 0] * 10], 1), dtype=torch.float32)
    return standardized(torch.tensor(x, dtype=torch.float32)), standardized(targets), 0


def _tags(seed: int) -> tuple[Tensor, Tensor, int]:
    x, y = datasets.make_multilabel_classification(2500, 50, n_classes=8, random_state=seed)
    return standardized(torch.tensor(x, dtype=torch.float32)), torch.tensor(y, dtype=torch.float32), 0


# --- sequences -------------------------------------------------------------------------------------------------------


def _series(name: str, every: int = 1) -> tuple[Tensor, Tensor, int]:
    x, y = getattr(importlib.import_module("sktime.datasets"), f"load_{name}")(return_X_y=True, return_type="numpy3D")
    names = sorted(set(y))
    values = torch.tensor(x[..., ::every].copy(), dtype=torch.float32).transpose(1, 2)
    return (values - values.mean()) / values.std(), torch.tensor([names.index(label) for label in y]), len(names)


def _power(seed: int) -> tuple[Tensor, Tensor, int]:
    return _series("italy_power_demand")


def _leaves(seed: int) -> tuple[Tensor, Tensor, int]:
    return _series("osuleaf", 18)


def _waves(seed: int) -> tuple[Tensor, Tensor, int]:
    """Sums of two sines in noise: which frequency is the stronger one?"""
    g = torch.Generator().manual_seed(seed)
    y, t = torch.randint(5, (2500,), generator=g), torch.linspace(0, 1, 24)
    phase = torch.rand(2500, 2, generator=g) * 2 * math.pi
    other = torch.randint(5, (2500,), generator=g)
    x = torch.sin(2 * math.pi * (y[:, None] + 1.5) * t + phase[:, :1])
    x = x + 0.5 * torch.sin(2 * math.pi * (other[:, None] + 1.5) * t + phase[:, 1:])
    return (x + 0.5 * torch.randn(x.shape, generator=g))[..., None], y, 5


@functools.cache
def _corpus() -> Tensor:
    folder = Path(importlib.import_module("this").__file__ or "").parent
    text = "".join((folder / f"{name}.py").read_text() for name in ("argparse", "typing", "inspect", "tarfile", "ast"))
    counts: dict[str, int] = {}
    for character in text:
        counts[character] = counts.get(character, 0) + 1
    known = {c: i for i, c in enumerate(sorted(counts, key=counts.__getitem__, reverse=True)[: CHARACTERS - 1])}
    return torch.tensor([known.get(character, CHARACTERS - 1) for character in text])


def _text(seed: int) -> tuple[Tensor, Tensor, int]:
    """Pieces of the standard library's source, and the characters that follow."""
    corpus = _corpus()
    starts = torch.randint(len(corpus) - LENGTH - 1, (1600,), generator=torch.Generator().manual_seed(seed))
    pieces = torch.stack([corpus[int(start) : int(start) + LENGTH + 1] for start in starts])
    return pieces[:, :-1], pieces[:, 1:], CHARACTERS


# --- sets and graphs -------------------------------------------------------------------------------------------------


def _shapes(seed: int) -> tuple[Tensor, Tensor, int]:
    """Points of spheres, cubes, cylinders, rings and cones, in noise."""
    g, n, m = torch.Generator().manual_seed(seed), 2000, 48
    y, u = torch.randint(5, (n,), generator=g), torch.randn(n, m, 3, generator=g)
    ball = F.normalize(u, dim=2)
    flat = F.normalize(u[..., :2], dim=2)
    height = 2 * torch.rand(n, m, 1, generator=g) - 1
    ring = torch.cat([flat * (0.8 + 0.2 * ball[..., 2:]), 0.2 * ball[..., 2:]], 2)
    kinds = [
        ball, u.clamp(-0.7, 0.7), torch.cat([0.7 * flat, 0.7 * height], 2), ring,
        torch.cat([flat * (1 - height) / 2, height], 2),
    ]  # fmt: skip
    x = torch.stack(kinds)[y, torch.arange(n)]
    return x * (0.7 + 0.6 * torch.rand(n, 1, 1, generator=g)) + 0.15 * torch.randn(x.shape, generator=g), y, 5


def _graphs(seed: int) -> tuple[Tensor, Tensor, int]:
    """Adjacency of small graphs: random, of two or three blocks, or a ring with shortcuts, at the same density."""
    g, n, m = torch.Generator().manual_seed(seed), 2000, 18
    y, place = torch.randint(4, (n,), generator=g), torch.arange(m)
    gap = (place[:, None] - place[None]).abs()
    ring = torch.minimum(gap, m - gap) <= 2
    odds = torch.stack([
        torch.full((m, m), 0.24),
        torch.where((place[:, None] % 2) == (place[None] % 2), 0.4, 0.08),
        torch.where((place[:, None] % 3) == (place[None] % 3), 0.55, 0.08),
        torch.where(ring, 0.8, 0.05),
    ])[y]  # fmt: skip
    drawn = torch.triu((torch.rand(n, m, m, generator=g) < odds).float(), 1)
    return drawn + drawn.transpose(1, 2), y, 4


SOURCES: dict[str, Callable[[int], tuple[Tensor, Tensor, int]]] = {
    "digits": _digits, "digit_values": _digit_sums, "patches": patches, "turned": _turned,
    "tumours": _tumours, "diabetes": _diabetes, "mixture": _mixture, "friedman": _friedman, "tags": _tags,
    "power": _power, "leaves": _leaves, "waves": _waves, "text": _text, "shapes": _shapes, "graphs": _graphs,
}  # fmt: skip


# --- augmentation ----------------------------------------------------------------------------------------------------


def augment(x: Tensor, strength: float = 1.0) -> Tensor:
    """A view of each row: images are turned, scaled and shifted; other numbers are scaled, dropped and made noisy."""
    n = len(x)
    if x.ndim != 4:
        shape = (n,) + (1,) * (x.ndim - 1)
        kept = (torch.rand_like(x) > 0.15 * strength).float()
        return x * kept * (1 + 0.15 * strength * torch.randn(shape)) + 0.1 * strength * torch.randn_like(x)
    angle, scale = (torch.rand(n) - 0.5) * 0.3 * strength, 1 + (torch.rand(n) - 0.5) * 0.2 * strength
    cos, sin, shift = torch.cos(angle) * scale, torch.sin(angle) * scale, (torch.rand(n, 2) - 0.5) * 0.16 * strength
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    moved = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    return moved + 0.02 * strength * torch.randn_like(moved)
