"""An embedding model trained on pairs (InfoNCE): how the temperature changes the space of embeddings.

    python examples/embeddings.py

A pair is two images of the same handwritten digit (scikit-learn's). The *output* of the encoder is the embedding, so
the example names the layer, and chooses `signals="embeddings"`: spread, uniformity, alignment of the pairs, and hubness
(a few rows are neighbours of very many others, which makes retrieval worse). The encoder is called twice in a batch:
the monitor takes the two calls as two views.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor

TEMPERATURES = (0.05, 0.2, 1.0)


class Pairs(pl.LightningModule):
    def __init__(self, temperature: float, dim: int = 32) -> None:
        super().__init__()
        self.temperature = temperature
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, dim)
        )

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        a, b = (normalize(self.encoder(side), dim=1) for side in batch[:2])
        scores = a @ b.T / self.temperature
        right = torch.arange(len(a), device=scores.device)
        return (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def pairs() -> tuple[DataLoader, DataLoader]:
    """Each image with the next one of its class. Training and validation have no image in common."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = x.float() / 16
    parts = []
    for start, stop in ((0, 1300), (1300, len(x))):
        a, b = [], []
        for digit in range(10):
            own = (y[start:stop] == digit).nonzero().squeeze(1) + start
            a.append(images[own])
            b.append(images[own.roll(1)])
        parts.append(TensorDataset(torch.cat(a), torch.cat(b)))
    return DataLoader(parts[0], 128, shuffle=True, drop_last=True), DataLoader(parts[1], 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    rows = []
    for temperature in TEMPERATURES:
        pl.seed_everything(0, verbose=False)
        monitor = FeatureGeometryMonitor(layer="encoder", signals="embeddings")
        trainer = pl.Trainer(
            max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor],
        )  # fmt: skip
        trainer.fit(Pairs(temperature), *pairs())
        rows.append((temperature, monitor.history.records[-1].values))
    signals = monitor.history.run["signals"]
    print(f"{'temperature':>12}" + "".join(f"{name:>17}" for name in signals))
    for temperature, values in rows:
        print(f"{temperature:12g}" + "".join(f"{values[name]:17.3f}" for name in signals))


if __name__ == "__main__":
    main()
