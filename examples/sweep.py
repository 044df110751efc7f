"""Sixteen runs with settings drawn at random, then the question: which curve went with the accuracy?

    python examples/sweep.py                # half a minute on two cores; the table, and the report

Each run is a small network on scikit-learn's digits with a bottleneck before the head. Its width is drawn from 2 to 24:
the number of directions its features use decides what it can reach, and `effective_rank` has to be found. `coin` is a
signal of our own that says nothing, and must not be. What `self.log` writes is kept in each run's history, so that
the report can compare curves with it later: `python -m lightning_featgeo.report runs/sweep --outcome val/accuracy`.
"""

from __future__ import annotations

import argparse
import logging
import random
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from digits import digits_loaders
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.report import __main__ as report


class Bottleneck(pl.LightningModule):
    def __init__(self, width: int, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.weight_decay = lr, weight_decay
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, width), nn.Tanh())
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def coin(rows: torch.Tensor) -> float:
    """A number of its own for each set of features, which says nothing of them."""
    return random.Random(float(rows.double().sum())).random()


def train(number: int, folder: Path, epochs: int) -> None:
    drawn = random.Random(number)
    width, lr, decay = drawn.randint(2, 24), 10 ** drawn.uniform(-3.3, -2.3), 10 ** drawn.uniform(-3, 0)
    pl.seed_everything(number, verbose=False)
    monitor = FeatureGeometryMonitor(
        signals=["feature_std", "effective_rank", "stable_rank", "id_two_nn", "nc1", "uniformity", coin]
    )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=CSVLogger(folder, name=f"run-{number:02d}", version=""),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor],
        log_every_n_steps=20,
    )  # fmt: skip
    trainer.fit(Bottleneck(width, lr, decay), *digits_loaders())
    print(f"run {number:2d}: width {width:2d}, accuracy {float(trainer.callback_metrics['val/accuracy']):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    folder = Path("runs") / "sweep"
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    for number in range(args.runs):
        train(number, folder, args.epochs)
    asked = [str(folder), "--outcome", "val/accuracy", "--quiet"]
    report.main([*asked, "--markdown", "-o", str(folder / "report.md")])
    table = (folder / "report.md").read_text(encoding="utf-8").split("\n\n## ")[0]
    print(table)
    report.main([*asked, "-o", str(folder / "report.html")])


if __name__ == "__main__":
    main()
