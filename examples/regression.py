"""Regression with five targets: is a model over-compressed when its features have fewer dimensions than the targets?

    python examples/regression.py

Five runs of one network on generated targets (five smooth functions of twenty inputs, with noise). They differ in
weight decay only. The monitor chooses the preset "regressor" by itself, because the labels are floating-point.
`id_ratio` is the intrinsic dimension of the features divided by that of the targets; a model is called over-compressed
if it is below 1 (arXiv 2510.01105). `nrc1` is the share of the features outside their first principal directions, as
many as there are targets. On these data the ratio falls as weight decay grows, and is below 1 only where the fit is
much worse.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor

DECAYS = (0.0, 1.0, 10.0, 20.0, 30.0)


class Regressor(pl.LightningModule):
    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.backbone = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val/mse", mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=self.decay)


def generated(n: int = 2400) -> tuple[DataLoader, DataLoader]:
    """Five smooth, different functions of twenty inputs, of variance one, and noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 20, generator=generator)
    mixed = x @ torch.randn(20, 10, generator=generator) / 20**0.5
    y = torch.sin(mixed[:, :5]) + 0.5 * mixed[:, 5:] * mixed[:, :5]
    y = (y - y.mean(0)) / y.std(0) + 0.1 * torch.randn(n, 5, generator=generator)
    train, val = TensorDataset(x[:1600], y[:1600]), TensorDataset(x[1600:], y[1600:])
    return DataLoader(train, 64, shuffle=True), DataLoader(val, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    names = ("id_ratio", "nrc1", "effective_rank", "feature_std", "id_two_nn")
    rows = []
    for decay in DECAYS:
        pl.seed_everything(0, verbose=False)
        monitor = FeatureGeometryMonitor()
        trainer = pl.Trainer(
            max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor],
        )  # fmt: skip
        trainer.fit(Regressor(decay), *generated())
        last = monitor.history.records[-1]
        rows.append((decay, float(trainer.callback_metrics["val/mse"]), last.values, last.standard_errors))
    print(f"{'weight decay':>14}{'val mse':>10}" + "".join(f"{name:>16}" for name in names))
    for decay, error, values, _ in rows:
        cells = (f"{values[name]:16.3f}" if name in values else f"{'–':>16}" for name in names)
        print(f"{decay:14g}{error:10.3f}" + "".join(cells))
    judged = [(d, v["id_ratio"] + 2 * e["id_ratio"]) for d, _, v, e in rows if "id_ratio" in v]
    below = [f"{decay:g}" for decay, most in judged if most < 1]
    print(f"id_ratio is below 1 by two standard errors at weight decay: {', '.join(below) or 'none of them'}.")


if __name__ == "__main__":
    main()
