"""What the monitor costs: the same run with and without it, alternating, medians over repeats.

python benchmarks/overhead.py [--out benchmarks/results/overhead.md]
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.metrics.catalog import PRESETS


class Model(pl.LightningModule):
    """A small residual network on 32×32 images; width d at the head."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)) for _ in range(4)
        )
        self.out = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, d), nn.ReLU())
        self.fc = nn.Linear(d, 10)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = nn.functional.avg_pool2d(x + block(x), 2) if x.shape[-1] > 8 else x + block(x)
        return self.out(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.fc(self.features(batch[0])), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.fc(self.features(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def epoch_seconds(d: int, callbacks: list[pl.Callback], train: DataLoader, val: DataLoader) -> float:
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=callbacks,
    )  # fmt: skip
    model = Model(d)
    start = time.perf_counter()
    trainer.fit(model, train, val)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    generator = torch.Generator().manual_seed(0)
    n_train, n_val = 2048, 2048
    y = torch.arange(n_train + n_val) % 10
    x = torch.randn(n_train + n_val, 3, 32, 32, generator=generator) + 0.05 * y[:, None, None, None]
    train = DataLoader(TensorDataset(x[:n_train], y[:n_train]), 128, shuffle=True)
    val = DataLoader(TensorDataset(x[n_train:], y[n_train:]), 128)
    rows = []
    for d in (128, 512, 2048):
        plain, watched, both, shares = [], [], [], []
        for _ in range(args.repeats):
            plain.append(epoch_seconds(d, [], train, val))
            monitor = FeatureGeometryMonitor()
            watched.append(epoch_seconds(d, [monitor], train, val))
            shares.append(monitor.history.records[-1].seconds)
            both.append(epoch_seconds(d, [FeatureGeometryMonitor(stages=("train", "val"))], train, val))
        base, own = statistics.median(plain), statistics.median(shares)
        rows.append(
            f"| {d} | {base:.2f} s | {statistics.median(watched) / base - 1:+.1%} | "
            f"{statistics.median(both) / base - 1:+.1%} | {own:.3f} s |"
        )
        print(rows[-1], flush=True)
    text = "\n".join(
        [
            f"One epoch of a small residual network, {n_train} training and {n_val} validation images of 32×32, "
            f"batch 128; default signals ({len(PRESETS['classifier'])} curves). {os.cpu_count()} {platform.machine()} "
            f"CPU cores, torch {torch.__version__}, medians of {args.repeats} alternating runs. "
            "Command: `python benchmarks/overhead.py`",
            "",
            "| features d | epoch, plain | with validation curves | with training curves too "
            "| the monitor's own time |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
