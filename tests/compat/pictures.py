"""What lightly's example pages share: pictures with transforms, a backbone, a fit without validation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from tests.compat.keeper import Keeper
from tests.compat.kit import images, trainer


class Pictures(Dataset):
    """What torchvision's CIFAR10 gives: an image, transformed, and its class."""

    def __init__(self, n: int = 32, transform: Any = None) -> None:
        x, y = images(n, 32)
        self.pictures = [to_pil_image((picture / 8 + 0.5).clamp(0, 1)) for picture in x]
        self.labels, self.transform = y.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        picture = self.pictures[i]
        return (self.transform(picture) if self.transform else picture), self.labels[i]


def resnet() -> nn.Module:
    return nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])


def fit(watch: Any, keeper: Keeper, model: pl.LightningModule, dataset: Any) -> tuple[Keeper, Any]:
    loader = DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True)
    monitor = watch()
    trainer([monitor, keeper]).fit(model=model, train_dataloaders=loader)
    return keeper, monitor


def of_projector() -> Keeper:
    return Keeper(lambda model: model.projection_head, output=True, stage="train")  # classes: with num_classes= only
