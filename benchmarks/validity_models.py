"""The models of the validity benchmark, and what can go wrong with them."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
SWITCH = 12  # epoch at which what happens mid-run happens


@dataclass(frozen=True)
class Setup:
    """What a seed draws."""

    seed: int
    conv: bool
    width: int
    dim: int
    batch: int
    rate: float

    @classmethod
    def of(cls, seed: int) -> Setup:
        draw = random.Random(seed)
        return cls(
            seed, draw.random() < 0.5, draw.choice([128, 256]), draw.choice([32, 64, 128]), draw.choice([64, 128]),
            draw.choice([0.5, 1.0, 2.0]),
        )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def residual_encoder(setup: Setup) -> nn.Sequential:
    """Pixels to 64 features behind two residual blocks."""
    stem = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stem, Residual(32), Residual(32), nn.Flatten(), nn.Linear(512, 64), nn.ReLU())


def encoder(setup: Setup, norm: bool = True, signed: bool = False) -> nn.Sequential:
    """Pixels to ``dim`` features: behind a ReLU, or signed as an embedding is."""
    w, d = setup.width, setup.dim

    def block(*layers: nn.Module, size: int, two: bool = False) -> list[nn.Module]:
        return [*layers, *([(nn.BatchNorm2d if two else nn.BatchNorm1d)(size)] if norm else []), nn.ReLU()]

    if setup.conv:
        layers = [
            *block(nn.Conv2d(1, 16, 3, padding=1), size=16, two=True), nn.MaxPool2d(2),
            *block(nn.Conv2d(16, 32, 3, padding=1), size=32, two=True), nn.Flatten(),
        ]  # fmt: skip
        width = 512
    else:
        layers, width = [nn.Flatten(), *block(nn.Linear(64, w), size=w)], w
    layers += block(nn.Linear(width, w), size=w)
    return nn.Sequential(*layers, nn.Linear(w, d), *([] if signed else [nn.ReLU()]))


def augment(x: Tensor) -> Tensor:
    """A small random rotation, scaling and shift, and noise."""
    n = len(x)
    angle, scale = (torch.rand(n) - 0.5) * 0.3, 1 + (torch.rand(n) - 0.5) * 0.2
    cos, sin, shift = torch.cos(angle) * scale, torch.sin(angle) * scale, (torch.rand(n, 2) - 0.5) * 0.16
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    moved = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    return moved + 0.02 * torch.randn_like(moved)


class Joint(pl.LightningModule):
    """Two views of a sample are to agree. ``method``: what keeps them from agreeing on a constant; ``broken``: not."""

    def __init__(self, setup: Setup, method: str, broken: bool) -> None:
        super().__init__()
        self.setup_, self.method, self.broken = setup, method, broken
        self.encoder = encoder(setup, signed=True)
        if method in ("simsiam", "byol"):
            d = setup.dim
            self.predictor = nn.Sequential(
                nn.Linear(d, d // 2), nn.BatchNorm1d(d // 2), nn.ReLU(), nn.Linear(d // 2, d)
            )
        if method == "byol":
            self.target = self.encoder if broken else copy.deepcopy(self.encoder).requires_grad_(False)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = batch[0]
        if self.method == "pairs":
            return self._pair_loss(*self._pairs(*batch))
        a, b = augment(x), augment(x)
        za, zb = self.encoder(a), self.encoder(b)
        if self.method == "vicreg":
            return self._vicreg(za, zb)
        ta, tb = (za, zb) if self.method == "simsiam" else (self.target(a), self.target(b))
        if not self.broken:
            ta, tb = ta.detach(), tb.detach()
        pa, pb = self.predictor(za), self.predictor(zb)
        return -(F.cosine_similarity(pa, tb).mean() + F.cosine_similarity(pb, ta).mean()) / 2

    def on_train_batch_end(self, *args: Any) -> None:
        if self.method == "byol" and not self.broken:
            with torch.no_grad():
                for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.05)

    def _vicreg(self, a: Tensor, b: Tensor) -> Tensor:
        loss = 25 * F.mse_loss(a, b)
        for z in (a - a.mean(0), b - b.mean(0)):
            if not self.broken:
                loss = loss + 12.5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
            c = z.T @ z / (len(z) - 1)
            loss = loss + (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]
        return loss

    @staticmethod
    def _pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each sample, and another of its class."""
        same = (y[:, None] == y[None]).float()
        return augment(x), augment(x[torch.multinomial(same, 1)[:, 0]])

    def _pair_loss(self, a: Tensor, b: Tensor) -> Tensor:
        za, zb = F.normalize(self.encoder(a)), F.normalize(self.encoder(b))
        if self.broken:
            return (1 - (za * zb).sum(1)).mean()
        return F.cross_entropy(za @ zb.T / 0.2, torch.arange(len(za)))

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.encoder(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate = {"vicreg": 0.03, "pairs": 0.1}.get(self.method, 0.05) * self.setup_.rate
        return torch.optim.SGD(
            [p for p in self.parameters() if p.requires_grad], lr=rate, momentum=0.9, weight_decay=5e-4
        )


class Supervised(pl.LightningModule):
    """A classifier; ``happens`` names what is done to it, if anything."""

    def __init__(self, setup: Setup, happens: str = "", decay: float = 5e-4, norm: bool = True) -> None:
        super().__init__()
        self.setup_, self.happens, self.decay = setup, happens, decay
        self.backbone = residual_encoder(setup) if happens == "residual" else encoder(setup, norm)
        if happens in ("rank_loss", "linear"):
            self.backbone.append(nn.Linear(setup.dim, setup.dim))
        self.fc = nn.Linear(64 if happens == "residual" else setup.dim, CLASSES)
        self.class_weights: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x))

    def on_train_epoch_start(self) -> None:
        late = self.current_epoch >= SWITCH
        if self.happens == "unfreeze":
            self.backbone.requires_grad_(late)
        if self.happens == "dying_relu" and late:
            for group in self.trainer.optimizers[0].param_groups:  # a schedule with its sign turned
                group["lr"] *= 2.0
        if self.happens == "reweight" and late:
            counts = torch.bincount(self.trainer.train_dataloader.dataset.tensors[1], minlength=CLASSES)
            self.class_weights = counts.sum() / counts / CLASSES

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.happens == "tail_merge" and self.current_epoch >= SWITCH:
            y = torch.where(y >= 7, 7, y)  # a mapping of labels went wrong: the three rare classes are one
        if self.happens == "augmented":
            x = augment(x)
        return F.cross_entropy(self(x), y, weight=self.class_weights)

    def on_train_batch_end(self, *args: Any) -> None:
        if self.happens == "rank_loss" and self.current_epoch >= SWITCH:
            with torch.no_grad():  # a low-rank adaptation gone wrong: all but two directions fade
                last = self.backbone[-1]
                u, s, v = torch.linalg.svd(last.weight, full_matrices=False)
                s[2:] *= 0.97
                last.weight.copy_(u * s @ v)

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self(batch[0])
        for name, value in (
            ("loss", F.cross_entropy(logits, batch[1])), ("accuracy", (logits.argmax(1) == batch[1]).float().mean())
        ):  # fmt: skip
            self.log(f"val/{name}", value, batch_size=len(logits))

    def test_accuracy(self, x: Tensor, y: Tensor) -> float:
        self.eval()
        with torch.no_grad():
            accuracy = (self(x).argmax(1) == y).float().mean().item()
        self.train()
        return accuracy

    def configure_optimizers(self) -> Any:
        rate, steps = 0.05 * self.setup_.rate, int(self.trainer.estimated_stepping_batches)
        if self.happens == "memorise":
            return torch.optim.Adam(self.parameters(), lr=2e-3 * self.setup_.rate)
        optimizer = torch.optim.SGD(self.parameters(), lr=rate, momentum=0.9, weight_decay=self.decay)
        if self.happens != "restarts":
            return optimizer
        each = steps // 3
        cosine = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, each)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, each // 3)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [each // 3])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}


class NewMix(pl.Callback):
    """Half of the classes are rare in what is drawn, then the other half are."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader = trainer.train_dataloader
        low, share = loader.dataset.tensors[1] < 5, 4.0 if trainer.current_epoch < SWITCH else 0.25
        loader.sampler.weights.copy_(torch.where(low, share, 1.0))
