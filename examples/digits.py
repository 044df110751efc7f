"""A small convolutional network on scikit-learn's digits, watched while it trains, stopped by geometry.

    make demo            # or: python examples/digits.py

The model is a plain LightningModule without a line for lightning-featgeo. One callback adds the curves, another stops
the run when they no longer change.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping
from lightning_featgeo.report import terminal, write_report


class DigitsNet(pl.LightningModule):
    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val/loss", cross_entropy(logits, y), prog_bar=True)
        self.log("val/accuracy", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)


def digits_loaders(batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    data = TensorDataset(images, torch.tensor(y))
    train, val = torch.utils.data.random_split(data, [1297, 500], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, 250)


def say(text: str) -> None:
    """Print a sentence in lines that fit the terminal."""
    print(textwrap.fill(text, min(100, shutil.get_terminal_size().columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--report", default="featgeo/report.html", help="where the report is written")
    args = parser.parse_args()

    pl.seed_everything(0)
    monitor = FeatureGeometryMonitor(stages=("train", "val"))
    stop = GeometryEarlyStopping("converged")
    logger = WandbLogger(project="featgeo-digits", name="digits", offline=True, save_dir=".")
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[monitor, stop, GeometryAlarm("collapse")],
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(DigitsNet(), *digits_loaders())

    run_dir = logger.experiment.dir.removesuffix("/files")
    logger.experiment.finish()  # first, because W&B prints its own summary then

    if monitor.history.path is not None:
        terminal.show(monitor.history.path, terminal.console())
    last = [record for record in monitor.history if record.stage == "val"][-1]
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    if not stop.stopping_reason_message:
        say(f"No geometry stop in {args.epochs} epochs.")
    say(f"Validation accuracy {accuracy:.3f}.")
    rows = last.counts["seen"]
    say(f"Cost of the monitor: {1000 * last.seconds:.0f} ms for the last validation window ({rows} rows).")
    print(f"\nHistory: {monitor.history.path}")
    if monitor.history.path is not None:
        print(f"Report (open it in a browser): {write_report(monitor.history.path, args.report).resolve()}")
        print(f"These curves, also while a run goes on:\n  .venv/bin/python -m lightning_featgeo.watch {run_dir}")
    print(f"The run in W&B's own view:\n  .venv/bin/wandb leet {run_dir}")
    print("  There, [ and ] hide the side panes; c, then 2 makes two columns.")


if __name__ == "__main__":
    main()
