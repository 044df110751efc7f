"""Networks of which the loss compares outputs, of a body and a head, and of a latent mean; and a fit of them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.models import OfLoss, trainer

X = torch.randn(128, 20, generator=torch.Generator().manual_seed(0))


Y = torch.randint(0, 4, (128,), generator=torch.Generator().manual_seed(1))


def off_diagonal(c: Tensor) -> Tensor:
    return (c - torch.diag(torch.diag(c))).square().sum()


def simclr(a: Tensor, b: Tensor) -> Tensor:
    a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
    return functional.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


def barlow(a: Tensor, b: Tensor) -> Tensor:
    a, b = ((z - z.mean(0)) / z.std(0) for z in (a, b))
    return (a.T @ b / len(a) - torch.eye(a.shape[1])).square().sum()


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    spread = sum(functional.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (a, b))
    return functional.mse_loss(a, b) + spread + off_diagonal(a.T.cov()) + off_diagonal(b.T.cov())


def triplet(a: Tensor, b: Tensor) -> Tensor:
    return functional.triplet_margin_loss(a, b, a.roll(1, 0))


LOSSES = {"simclr": simclr, "barlow": barlow, "vicreg": vicreg, "triplet": triplet}


class TwoViews(pl.LightningModule):
    """A backbone, a projector and, for "byol", a predictor. ``validates``: "all" or "backbone"."""

    def __init__(self, kind: str, validates: str = "all") -> None:
        super().__init__()
        self.kind, self.validates = kind, validates
        self.backbone = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
        hidden = nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, 16)
        self.projector = nn.Sequential(*hidden, nn.BatchNorm1d(16, affine=False))
        self.predictor = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))

    def loss(self, batch: Any) -> Tensor:
        views = [batch[0] + 0.1 * torch.randn_like(batch[0]) for _ in range(2)]
        if self.kind == "stacked":
            z = functional.normalize(self(torch.cat(views)), dim=1)
            likeness = (z @ z.T / 0.5).fill_diagonal_(-9)
            return functional.cross_entropy(likeness, torch.arange(len(z)).roll(len(z) // 2))
        a, b = map(self, views)
        if self.kind == "byol":
            p, q = self.predictor(a), self.predictor(b)
            return -(functional.cosine_similarity(p, b.detach()) + functional.cosine_similarity(q, a.detach())).mean()
        return LOSSES[self.kind](a, b)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.backbone(batch[0]) if self.validates == "backbone" else self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def data(**how: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y), 32, **how)


def fitted(model: pl.LightningModule, *more: pl.Callback, epochs: int = 2, **settings: Any) -> FeatureGeometryMonitor:
    monitor = FeatureGeometryMonitor(**settings)
    trainer(monitor, *more, max_epochs=epochs).fit(model, data(shuffle=True), data())
    return monitor


# --- what an independent reader wrote, in small ----------------------------------------------------------------------
class Plain(OfLoss):
    """A body and a head, and a loss of its output: ``what`` it is."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.body, self.head = nn.Sequential(nn.Linear(20, 32), nn.ReLU()), nn.Linear(32, 4)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x)
        z = self.head(h)
        if self.what == "a direction":
            return -functional.cosine_similarity(z, functional.normalize(x[:, :4], dim=1)).mean()
        if self.what == "Pearson":
            a, b = z - z.mean(0), x[:, :4] - x[:, :4].mean(0)
            return -(functional.normalize(a, dim=0) * functional.normalize(b, dim=0)).sum(0).mean()
        if self.what == "LogitNorm":
            return functional.cross_entropy(functional.normalize(z, dim=1) / 0.1, y)
        if self.what == "one-hot":
            return -functional.cosine_similarity(z, functional.one_hot(y, 4).float()).mean()
        if self.what == "a penalty on its norm":
            return (z - x[:, :4]).square().mean() + 0.01 * z.norm(dim=1).mean()
        if self.what == "a gate":
            value, gate = z.chunk(2, 1)
            return functional.mse_loss(value * torch.sigmoid(gate), x[:, :2])
        if self.what == "a temperature":
            scores, heat = z.split([3, 1], 1)
            return functional.cross_entropy(scores / functional.softplus(heat), y % 3)
        if self.what == "a covariance":
            lower = torch.tril(z.reshape(-1, 2, 2))
            return (lower @ lower.mT - x[:, :4].reshape(-1, 2, 2)).square().mean()
        raise AssertionError(self.what)
