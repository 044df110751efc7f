"""What the monitor costs: the same run with and without it, and with a peer's callbacks, alternating in one process.

    python benchmarks/overhead.py [--repeats 3] [--out benchmarks/results/overhead.md]

Two runs: a ResNet-18 on CIFAR-shaped images, where an epoch is long, and a small network on MNIST-shaped images whose
epoch takes about a second, where fixed costs show. The peer is stable-pretraining's RankMe and OnlineKNN with a queue
of as many rows as our bank keeps (``pip install stable-pretraining``; left out where it is missing).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as pl
import torch
from measuring import publish, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_featgeo import FeatureGeometryMonitor, Windows
from lightning_featgeo.metrics.catalog import PRESETS

try:
    from stable_pretraining.callbacks import OnlineKNN, RankMe
    from stable_pretraining.callbacks.factories import _DEFAULT_CALLBACK_REGISTRY

    # else it adds a dozen callbacks of its own to every Trainer, the plain one too
    _DEFAULT_CALLBACK_REGISTRY.clear()
except ImportError:
    RankMe = OnlineKNN = None


BESIDE = Windows(close="background")


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(2))
        same = before == after and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(relu(self.norms[0](self.first(x))))
        return relu(self.norms[1](inner) + self.shortcut(x))


def resnet18() -> tuple[nn.Module, int]:
    """ResNet-18 as it is used for 32×32 images: a 3×3 stem and no pooling before the blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for before, after in ((64, 64), (64, 128), (128, 256), (256, 512)):
        layers += [Block(before, after, 1 if before == after else 2), Block(after, after, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512


def mlp() -> tuple[nn.Module, int]:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()), 128


class Classifier(pl.LightningModule):
    """Returns its features and labels too: the peer reads them from there."""

    def __init__(self, make: Callable[[], tuple[nn.Module, int]]) -> None:
        super().__init__()
        self.body, d = make()
        self.head = nn.Linear(d, 10)
        self.callbacks_modules, self.callbacks_metrics = (
            nn.ModuleDict(),
            nn.ModuleDict(),
        )  # where the peer keeps its own

    def step(self, batch: list[Tensor]) -> dict[str, Tensor]:
        features = self.body(batch[0])
        return {"loss": cross_entropy(self.head(features), batch[1]), "features": features.detach(), "label": batch[1]}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Batches:
    """A loader whose batches are also dictionaries for the peer, which writes its predictions into them."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[object]:
        for x, y in self.loader:
            yield Batch({0: x, 1: y, "label": y})


class Batch(dict):
    """``batch[0]`` and ``batch[1]``, as in a list; and room for what the peer adds."""


def peers(d: int, rows: int) -> list[pl.Callback]:
    """Fresh callbacks of stable-pretraining, or none where it is not installed."""
    if RankMe is None:
        return []
    knn = OnlineKNN(
        "knn",
        "features",
        "label",
        rows,
        {"accuracy": MulticlassAccuracy(10)},
        input_dim=d,
        target_dim=1,
        num_classes=10,
        k=200,
    )
    return [RankMe("rankme", "features", rows, d), knn]


def epochs(
    make: Callable[[], tuple[nn.Module, int]], callbacks: list[pl.Callback], loaders: list[DataLoader], n: int
) -> float:
    """Seconds of an epoch after the first one, in which things are set up."""
    pl.seed_everything(0, verbose=False)
    marks: list[float] = []

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *args: object) -> None:
            marks.append(time.perf_counter())

        def on_fit_end(self, *args: object) -> None:
            marks.append(time.perf_counter())

    trainer = pl.Trainer(
        max_epochs=n, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[*callbacks, Clock()],
    )  # fmt: skip
    trainer.fit(Classifier(make), *loaders)
    spans = [b - a for a, b in pairwise(marks)]
    return statistics.median(spans[1:] or spans)


def compare(
    name: str,
    make: Callable[[], tuple[nn.Module, int]],
    shape: tuple[int, ...],
    sizes: tuple[int, int],
    n: int,
    repeats: int,
    raw: dict,
) -> str:
    generator = torch.Generator().manual_seed(0)
    data = []
    for size in sizes:
        y = torch.arange(size) % 10
        x = torch.randn(size, *shape, generator=generator) + 0.05 * y.view(-1, *(1 for _ in shape))
        data.append(DataLoader(TensorDataset(x, y), 128))
    d, kept = make()[1], min(4096, *sizes)
    times: dict[str, list[float]] = {}
    own: list[float] = []
    for _ in range(repeats):
        monitor = FeatureGeometryMonitor()
        for case, callbacks, loaders in (
            ("plain", [], data),
            ("with the monitor", [monitor], data),
            ("with the monitor on training rows too", [FeatureGeometryMonitor(stages=("train", "val"))], data),
            ("with the monitor, beside training", [FeatureGeometryMonitor(windows=BESIDE)], data),
            ("with both, beside training", [FeatureGeometryMonitor(stages=("train", "val"), windows=BESIDE)], data),
            ("with RankMe and OnlineKNN", peers(d, kept), [Batches(loader) for loader in data]),
        ):
            if case.startswith("with RankMe") and not callbacks:
                continue
            times.setdefault(case, []).append(epochs(make, callbacks, loaders, n))
        own += [r.seconds for r in monitor.history.records][-max(1, n - 1) :]
    median = {case: statistics.median(t) for case, t in times.items()}
    mine = statistics.median(own)
    raw[name] = {"epoch seconds": median, "the monitor's own seconds": mine}
    rows = [[case, f"{t:.2f} s", f"{t / median['plain'] - 1:+.1%}"] for case, t in median.items()]
    note = (
        f"{sizes[0]:,} training and {sizes[1]:,} validation images {shape}, batch 128, features d = {d}, "
        f"{len(PRESETS['classifier'])} curves. The monitor's own time in an epoch, as it logs it: {mine * 1e3:.0f} ms, "
        f"{mine / median['plain']:.1%} of this epoch and {mine / 600:.3%} of one of ten minutes."
    )
    return note + "\n\n" + table(["run", "an epoch", "over plain"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the short-epoch network only")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    raw: dict = {}
    sections = {"Epochs of about a second": compare("mlp", mlp, (28, 28), (60_000, 10_000), 4, args.repeats, raw)}
    if not args.quick:
        sections["ResNet-18"] = compare("resnet18", resnet18, (3, 32, 32), (1024, 4096), 1, args.repeats, raw)
    publish("What the monitor costs a run", sections, raw, args.out)


if __name__ == "__main__":
    main()
