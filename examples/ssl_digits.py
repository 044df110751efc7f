"""Two self-supervised runs whose losses both look fine. One has collapsed; the geometry tells which, and where.

    python examples/ssl_digits.py                        # the table, the alarm and the report
    python examples/ssl_digits.py --figure collapse.png  # and the picture in the README

SimSiam (Chen & He, 2021) on scikit-learn's digits, intact and without its stop-gradient. The network sees two views of
each sample; the monitor watches the projector and the backbone on validation data. The third run is the broken one
again, with a stopper that ends it. The collapse is in the projector, whose output the loss uses; the backbone's curves
alone would not show it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning.pytorch as pl
import torch
from digits import digits_loaders
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import affine_grid, cosine_similarity, grid_sample

from lightning_featgeo import Display, Drop, FeatureGeometryMonitor, GeometryEarlyStopping
from lightning_featgeo.report import write_report


def augment(x: torch.Tensor) -> torch.Tensor:
    """A small random rotation, scaling and shift, and noise."""
    n = len(x)
    angle = (torch.rand(n) - 0.5) * 0.28
    scale = 1 + (torch.rand(n) - 0.5) * 0.16
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = (torch.rand(n, 2) - 0.5) * 0.16
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    moved = grid_sample(x, affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    return moved + 0.02 * torch.randn_like(moved)


class SimSiam(pl.LightningModule):
    def __init__(self, stop_gradient: bool = True, dim: int = 64) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.projector = nn.Sequential(nn.Linear(64 * 16, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, dim))
        self.predictor = nn.Sequential(nn.Linear(dim, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(self.backbone(x))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self(augment(x)), self(augment(x))  # two calls of a batch's size: the monitor takes them as two views
        targets = (b.detach(), a.detach()) if self.stop_gradient else (b, a)
        return -sum(cosine_similarity(self.predictor(z), t).mean() for z, t in zip((a, b), targets, strict=True)) / 2

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch[0])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.values.append(float(trainer.callback_metrics["loss"]))


def train(stop_gradient: bool, epochs: int, *callbacks: pl.Callback) -> tuple[list[float], FeatureGeometryMonitor]:
    pl.seed_everything(0, verbose=False)
    stopped = ", with a stopper" if callbacks else ""
    logger = CSVLogger("runs", name="simsiam", version=NAMES[stop_gradient] + stopped)  # a new run replaces an old one
    monitor = FeatureGeometryMonitor(
        layer=["projector", "backbone"], num_classes=10, display=Display(embedding_rows=300)
    )
    losses = Losses()
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=20, callbacks=[monitor, losses, *callbacks],
    )  # fmt: skip
    trainer.fit(SimSiam(stop_gradient), *digits_loaders())
    return losses.values, monitor


NAMES = {True: "as published", False: "without stop-gradient"}


def draw(path: Path, runs: dict[bool, tuple[list[float], FeatureGeometryMonitor]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), constrained_layout=True)
    for intact, (losses, monitor) in runs.items():
        style = {"color": "#2a6f97" if intact else "#c1121f", "linewidth": 2.2}
        epochs, values = zip(*monitor.history.series("featgeo/val/feature_std"), strict=True)
        left.plot(range(1, len(losses) + 1), losses, **style)
        right.plot(epochs, values, **style)
        for axes, y in ((left, losses[-1]), (right, values[-1])):
            axes.annotate(
                NAMES[intact], (epochs[-1], y), xytext=(0, 9 if intact else -19), textcoords="offset points",
                ha="right", color=style["color"],
            )  # fmt: skip
    left.set(title="what the loss says", xlabel="epoch", ylabel="SimSiam loss", ylim=(-1.2, 0))
    right.set(title="what the features say", xlabel="epoch", ylabel="feature_std", ylim=(0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--report", type=Path, default=Path("runs/simsiam.html"))
    args = parser.parse_args()

    runs = {intact: train(intact, args.epochs) for intact in (True, False)}
    signals = [name for name in runs[True][1].history.run["signals"] if name != "lidar"]
    print(f"{'':36}{'loss':>8}" + "".join(f"{name:>15}" for name in signals))
    for layer in (None, "backbone"):
        for intact, (losses, monitor) in runs.items():
            last = [record for record in monitor.history if record.layer == layer][-1].values
            name = f"{layer or 'projector'}, {NAMES[intact]}"
            print(f"{name:36}{losses[-1]:8.3f}" + "".join(f"{last[signal]:15.3f}" for signal in signals))
    if args.figure:
        draw(args.figure, runs)

    # "collapse" gives notice here and goes on, since neighbours still vote well; who won't lose spread, says so
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Drop(0.3))
    _, stopped = train(False, args.epochs, stop)
    print(stop.alarms[0].report if stop.alarms else "No alarm.")
    histories = [monitor.history.path for _, monitor in runs.values()] + [stopped.history.path]
    print(f"Report: {write_report(histories, args.report, baseline='simsiam/as published')}")


if __name__ == "__main__":
    main()
