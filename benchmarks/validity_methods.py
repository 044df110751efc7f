"""Ways to train, of the validity benchmark, intact or with what keeps them from collapse left out."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from validity_data import Data, augment
from validity_networks import Setup, encoder, features_of

RATES = {"sgd": 0.05, "adam": 2e-3, "adamw": 2e-3}


class Trained(pl.LightningModule):
    """An encoder and its optimiser. ``begins``: the epoch from which on the method lacks what it needs; None: never."""

    def __init__(self, net: nn.Module, setup: Setup, optimizer: str, schedule: str, begins: int | None) -> None:
        super().__init__()
        self.encoder, self.setup_, self.begins = net, setup, begins
        self.optimizer_, self.schedule, self.decay = optimizer, schedule, 5e-4

    @property
    def broken(self) -> bool:
        """Whether the method lacks what it needs by now."""
        return self.begins is not None and self.current_epoch >= self.begins

    def configure_optimizers(self) -> Any:
        given = [p for p in self.parameters() if p.requires_grad]
        rate = RATES[self.optimizer_] * self.setup_.rate
        if self.optimizer_ == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(given, rate, 0.9, weight_decay=self.decay)
        else:
            kind = torch.optim.Adam if self.optimizer_ == "adam" else torch.optim.AdamW
            optimizer = kind(given, rate)
        steps = int(self.trainer.estimated_stepping_batches)
        if not self.schedule:
            return optimizer
        schedule = {
            "cosine": lambda: torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda at: min(1.0, (at + 1) / (0.1 * steps)) * (1 + math.cos(math.pi * at / steps)) / 2
            ),
            "restarts": lambda: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, max(steps // 3, 1)),
            "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * rate, steps),
            "halved": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, 3 * steps // 4], 0.1),
        }[self.schedule]()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Supervised(Trained):
    """A head on the encoder: classes (of rows or of each character), tags, or numbers."""

    def __init__(self, net: nn.Module, data: Data, *given: Any, views: bool = False) -> None:
        super().__init__(net, *given)
        x, y = data.train
        width = features_of(net, x[:8]).shape[1]
        self.tagged = y.dtype == torch.float32 and y.shape[1] > 3
        self.classes, self.views = data.classes, views
        self.head = nn.Linear(width, data.classes or y.shape[1])
        self.class_weights: Tensor | None = None

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.classes:
            return F.cross_entropy(outputs.flatten(0, -2), y.flatten(), weight=self.class_weights)
        return F.binary_cross_entropy_with_logits(outputs, y) if self.tagged else F.mse_loss(outputs, y)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self.head(self.encoder(augment(x, self.setup_.strength) if self.views else x)), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs = self.head(self.encoder(batch[0]))
        self.log("val/loss", self.loss(outputs, batch[1]), batch_size=len(outputs))
        if self.classes:
            right = (outputs.argmax(-1) == batch[1]).float().mean()
            self.log("val/accuracy", right, batch_size=len(outputs))


class Masked(Trained):
    """Half of the input is hidden, and is to be told from the rest."""

    def __init__(self, net: nn.Module, data: Data, *given: Any) -> None:
        super().__init__(net, *given)
        x = data.train[0]
        self.decoder = nn.Linear(features_of(net, x[:8]).shape[1], x[0].numel())

    def loss(self, x: Tensor, hidden: Tensor) -> Tensor:
        told = self.decoder(self.encoder(x * (1 - hidden))).view_as(x)
        return ((told - x).square() * hidden).sum() / hidden.sum()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch[0], (torch.rand_like(batch[0]) < 0.5).float())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        told = self.decoder(self.encoder(batch[0])).view_as(batch[0])
        self.log("val/loss", F.mse_loss(told, batch[0]), batch_size=len(told))


class Joint(Trained):
    """Two views of a sample are to agree; each method has its own means against agreeing on a constant."""

    def __init__(self, net: nn.Module, data: Data, method: str, *given: Any) -> None:
        super().__init__(net, *given)
        self.method = method
        d = features_of(net, data.train[0][:8]).shape[1]
        self.projector: nn.Module = nn.Identity()
        if method in ("barlow", "dino"):
            self.projector = nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, d))
        if method in ("simsiam", "byol"):
            self.predictor = nn.Sequential(
                nn.Linear(d, max(d // 2, 8)), nn.BatchNorm1d(max(d // 2, 8)), nn.ReLU(), nn.Linear(max(d // 2, 8), d)
            )
        if method in ("byol", "dino"):
            self.target = copy.deepcopy(nn.Sequential(self.encoder, self.projector)).requires_grad_(False)
        if method == "dino":
            self.register_buffer("center", torch.zeros(d))
        if method == "two_towers":
            size = data.train[0][0].numel()
            self.mixing = torch.randn(size, 32, generator=torch.Generator().manual_seed(self.setup_.seed)) / size**0.5
            self.other = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, d))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.method == "two_towers":
            a, b = self.encoder(x), self.other(augment(x).flatten(1) @ self.mixing)
            return self._contrast(a, b, 0.1)
        # the other view is of the same row, or for "pairs" of another row of the same class
        pair = torch.multinomial((y[:, None] == y[None]).float(), 1)[:, 0] if self.method == "pairs" else slice(None)
        a, b = augment(x, self.setup_.strength), augment(x[pair], self.setup_.strength)
        za, zb = self.projector(self.encoder(a)), self.projector(self.encoder(b))
        if self.method in ("simclr", "pairs"):
            return self._contrast(za, zb, 0.2)
        if self.method == "vicreg":
            return self._vicreg(za, zb)
        if self.method == "barlow":
            return self._barlow(za, zb)
        ta, tb = (za, zb) if self.method == "simsiam" or self.broken else (self.target(a), self.target(b))
        if self.method == "dino":
            return self._dino(za, tb) + self._dino(zb, ta)
        if not self.broken:
            ta, tb = ta.detach(), tb.detach()
        pa, pb = self.predictor(za), self.predictor(zb)
        return -(F.cosine_similarity(pa, tb).mean() + F.cosine_similarity(pb, ta).mean()) / 2

    def on_train_batch_end(self, *args: Any) -> None:
        if self.method in ("byol", "dino"):
            with torch.no_grad():
                online = nn.Sequential(self.encoder, self.projector).parameters()
                for slow, fast in zip(self.target.parameters(), online, strict=True):
                    slow.lerp_(fast, 0.03)

    def _contrast(self, a: Tensor, b: Tensor, temperature: float) -> Tensor:
        a, b = F.normalize(a), F.normalize(b)
        if self.broken:
            return (1 - (a * b).sum(1)).mean()
        return F.cross_entropy(a @ b.T / temperature, torch.arange(len(a)))

    def _vicreg(self, a: Tensor, b: Tensor) -> Tensor:
        loss = 25 * F.mse_loss(a, b)
        for z in (a - a.mean(0), b - b.mean(0)):
            if not self.broken:
                loss = loss + 12.5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
            c = z.T @ z / (len(z) - 1)
            loss = loss + (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]
        return loss / 10

    def _barlow(self, a: Tensor, b: Tensor) -> Tensor:
        if self.broken:
            return 2 * F.mse_loss(a, b)
        a, b = ((z - z.mean(0)) / (z.std(0) + 1e-4) for z in (a, b))
        c = a.T @ b / len(a)
        on = (c.diagonal() - 1).square().sum()
        return (on + 0.02 * (c.square().sum() - c.diagonal().square().sum())) / 10

    def _dino(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.broken:  # neither centred nor sharpened, and not held fast
            return -(teacher.softmax(1) * F.log_softmax(student, 1)).sum(1).mean()
        told = ((teacher.detach() - self.center) / 0.1).softmax(1)
        self.center.lerp_(teacher.detach().mean(0), 0.1)
        return -(told * F.log_softmax(student / 0.2, 1)).sum(1).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.encoder(batch[0])


def build(method: str, net: str, norm: str, data: Data, setup: Setup, *given: Any) -> Trained:
    """The module of a family; ``given``: optimiser, schedule and when it breaks."""
    signed = method not in ("supervised", "augmented", "masked")
    module = encoder(net, data.train[0], setup, norm, signed)
    if method in ("supervised", "augmented"):
        return Supervised(module, data, setup, *given, views=method == "augmented")
    if method == "masked":
        return Masked(module, data, setup, *given)
    return Joint(module, data, method, setup, *given)
