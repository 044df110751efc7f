"""lightly: contrastive models of its example pages for PyTorch Lightning, which train without validation."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from lightly.data import LightlyDataset
from lightly.loss import (
    BarlowTwinsLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    VICRegLoss,
)
from lightly.models.modules import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
)
from lightly.models.modules.heads import VICRegProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import (
    BYOLTransform,
    BYOLView1Transform,
    BYOLView2Transform,
    MoCoV2Transform,
    SimCLRTransform,
    VICRegTransform,
)
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from tests.compat.keeper import Keeper
from tests.compat.kit import use
from tests.compat.pictures import Pictures, fit, of_projector, resnet

PROJECTED = "the projector's output of the first view, over the training epoch"
BOTH: dict[str, Any] = {"layer": ["projection_head", "backbone"]}


class Projected(pl.LightningModule):
    """A backbone and a projector, and a loss of two views: SimCLR, Barlow Twins and VICReg differ in the latter two."""

    def __init__(self, projection_head: nn.Module, criterion: nn.Module, lr: float = 0.06) -> None:
        super().__init__()
        self.lr = lr
        self.backbone = resnet()
        self.projection_head = projection_head
        self.criterion = criterion

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x).flatten(start_dim=1)
        return self.projection_head(x)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        x0, x1 = batch[0]
        loss = self.criterion(self.forward(x0), self.forward(x1))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@use("lightly", "SimCLR", BOTH, why=PROJECTED)
def simclr(watch: Any) -> tuple[Keeper, Any]:
    model = Projected(SimCLRProjectionHead(512, 512, 128), NTXentLoss())
    return fit(watch, of_projector(), model, Pictures(transform=SimCLRTransform(input_size=32, gaussian_blur=0.0)))


@use("lightly", "Barlow Twins", BOTH, why=PROJECTED)
def barlow(watch: Any) -> tuple[Keeper, Any]:
    model = Projected(BarlowTwinsProjectionHead(512, 1024, 1024), BarlowTwinsLoss(), lr=1e-3)
    transform = BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=32, gaussian_blur=0.0),
        view_2_transform=BYOLView2Transform(input_size=32, gaussian_blur=0.0),
    )
    return fit(watch, of_projector(), model, Pictures(transform=transform))


@use("lightly", "VICReg, with a LightlyDataset", BOTH, why=PROJECTED)
def vicreg(watch: Any) -> tuple[Keeper, Any]:
    model = Projected(VICRegProjectionHead(512, 1024, 1024, num_layers=2), VICRegLoss(), lr=1e-3)
    dataset = LightlyDataset.from_torch_dataset(Pictures(), transform=VICRegTransform(input_size=32))
    return fit(watch, of_projector(), model, dataset)


class BYOL(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet()
        self.projection_head = BYOLProjectionHead(512, 1024, 256)
        self.prediction_head = BYOLPredictionHead(256, 1024, 256)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x).flatten(start_dim=1)
        z = self.projection_head(y)
        return self.prediction_head(z)

    def forward_momentum(self, x: Tensor) -> Tensor:
        y = self.backbone_momentum(x).flatten(start_dim=1)
        return self.projection_head_momentum(y).detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        momentum = cosine_schedule(self.current_epoch, 10, 0.996, 1)
        update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)
        x0, x1 = batch[0]
        p0 = self.forward(x0)
        z0 = self.forward_momentum(x0)
        p1 = self.forward(x1)
        z1 = self.forward_momentum(x1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.06)


@use("lightly", "BYOL", BOTH, why="the online projector's output of the first view, over the training epoch")
def byol(watch: Any) -> tuple[Keeper, Any]:
    transform = BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=32, gaussian_blur=0.0),
        view_2_transform=BYOLView2Transform(input_size=32, gaussian_blur=0.0),
    )
    return fit(watch, of_projector(), BYOL(), Pictures(transform=transform))


class MoCo(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet()
        self.projection_head = MoCoProjectionHead(512, 512, 128)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NTXentLoss(memory_bank_size=(4096, 128))

    def forward(self, x: Tensor) -> Tensor:
        query = self.backbone(x).flatten(start_dim=1)
        return self.projection_head(query)

    def forward_momentum(self, x: Tensor) -> Tensor:
        key = self.backbone_momentum(x).flatten(start_dim=1)
        return self.projection_head_momentum(key).detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        momentum = cosine_schedule(self.current_epoch, 10, 0.996, 1)
        update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)
        x_query, x_key = batch[0]
        query = self.forward(x_query)
        key = self.forward_momentum(x_key)
        return self.criterion(query, key)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.06)


@use("lightly", "MoCo v2", BOTH, why="the query projector's output, over the training epoch")
def moco(watch: Any) -> tuple[Keeper, Any]:
    transform = MoCoV2Transform(input_size=32, gaussian_blur=0.0)
    return fit(watch, of_projector(), MoCo(), Pictures(transform=transform))
