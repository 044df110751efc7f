"""A long tail: are rare classes squeezed together, and does it help to re-weight the loss?

    python examples/longtail.py

Digits (scikit-learn's). The training set has 100 zeros, fewer of each next digit, and 5 nines; validation is balanced.
A second validation loader holds the training samples again, in evaluation mode and without noise. With
`reference="train_clean"`, `knn_accuracy` takes its votes from these samples, and `tail_min_angle` uses their counts to
tell head classes from tail classes. Ten neighbours vote: among 200, the default, frequent classes would outvote the
rarest one, which has five samples.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, Neighbors

KEPT = (100, 70, 50, 36, 26, 18, 13, 9, 7, 5)  # training samples of each digit
SIGNALS = ("knn_accuracy", "tail_min_angle", "nc1", "cdnv", "feature_std", "effective_rank")


class LongTail(pl.LightningModule):
    def __init__(self, balanced: bool) -> None:
        super().__init__()
        counts = torch.tensor(KEPT, dtype=torch.float32)
        self.register_buffer("weight", counts.sum() / (10 * counts) if balanced else torch.ones(10))
        self.backbone = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return cross_entropy(self(x + 0.05 * torch.randn_like(x)), y, weight=self.weight)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        right = (self(x).argmax(1) == y).float()
        if dataloader_idx == 0:
            self.log("val/accuracy", right.mean(), add_dataloader_idx=False)
            self.log("val/tail_accuracy", right[y >= 7].mean(), add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def unequal() -> tuple[DataLoader, list[DataLoader]]:
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.float() / 16
    kept = torch.cat([(y == digit).nonzero().squeeze(1)[:count] for digit, count in enumerate(KEPT)])
    rest = torch.cat([(y == digit).nonzero().squeeze(1)[100:170] for digit in range(10)])
    train = TensorDataset(x[kept], y[kept])
    return DataLoader(train, 32, shuffle=True), [
        DataLoader(TensorDataset(x[rest], y[rest]), 700),
        DataLoader(train, 256),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    print(f"{'loss':>12}{'accuracy':>12}{'of the tail':>12}" + "".join(f"{name:>16}" for name in SIGNALS))
    for balanced in (False, True):
        pl.seed_everything(0, verbose=False)
        monitor = FeatureGeometryMonitor(
            signals=SIGNALS,
            loader_names=("val", "train_clean"),
            reference="train_clean",
            neighbors=Neighbors(knn_k=10),
        )
        trainer = pl.Trainer(
            max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor],
        )  # fmt: skip
        trainer.fit(LongTail(balanced), *unequal())
        last = [record for record in monitor.history if record.stage == "val"][-1].values
        scores = [float(trainer.callback_metrics[f"val/{name}"]) for name in ("accuracy", "tail_accuracy")]
        cells = "".join(f"{last[name]:16.3f}" if name in last else f"{'–':>16}" for name in SIGNALS)
        print(f"{'balanced' if balanced else 'plain':>12}{scores[0]:12.3f}{scores[1]:12.3f}{cells}")


if __name__ == "__main__":
    main()
