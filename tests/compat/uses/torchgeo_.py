"""torchgeo: its tasks with a data module of its own kind, whose batches are dictionaries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset
from torchgeo.trainers import (
    BYOLTask,
    ClassificationTask,
    MoCoTask,
    PixelwiseRegressionTask,
    RegressionTask,
    SemanticSegmentationTask,
    SimCLRTask,
)

from tests.compat.keeper import Keeper
from tests.compat.kit import images, trainer, use

BANDS, CLASSES = 4, 4
MAPS = "one row a tile: the map before the last convolution, averaged"
PROJECTED = "the projector's output of the first view, over the training epoch"


class Tiles(NonGeoDataset):
    """Multispectral tiles with what the task needs: a class, several, a number or a mask."""

    def __init__(self, split: str = "train", target: str = "class", side: int = 32, seasons: int = 1) -> None:
        x, y = images(16 if split == "train" else 32, side, channels=BANDS * seasons)
        generator = torch.Generator().manual_seed(1)
        self.images = x * 20 + 120
        maps = x.mean(1)
        self.targets: dict[str, Tensor] = {
            "class": {"label": y},
            "classes": {"label": torch.randint(0, 2, (len(y), CLASSES), generator=generator)},
            "number": {"label": y + torch.randn(len(y), generator=generator)},
            "mask": {"mask": (maps > 0).long() + (maps > 1).long()},
            "height": {"mask": maps},
            "none": {},
        }[target]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], **{key: value[index] for key, value in self.targets.items()}}


class TilesDataModule(NonGeoDataModule):
    mean, std = torch.tensor(120.0), torch.tensor(28.0)

    def __init__(self, batch_size: int = 8, num_workers: int = 0, **kwargs: Any) -> None:
        super().__init__(Tiles, batch_size, num_workers, **kwargs)


def fit(watch: Any, keeper: Keeper, task: Any, epochs: int = 2, **of_tiles: Any) -> tuple[Keeper, Any]:
    monitor = watch()
    trainer([monitor, keeper], max_epochs=epochs).fit(model=task, datamodule=TilesDataModule(**of_tiles))
    return keeper, monitor


@use("torchgeo", "ClassificationTask")
def classify(watch: Any) -> tuple[Keeper, Any]:
    task = ClassificationTask(model="resnet18", weights=None, in_channels=BANDS, num_classes=CLASSES)
    keeper = Keeper(lambda task: task.model.get_classifier(), labels=lambda batch: batch["label"])
    return fit(watch, keeper, task)


@use("torchgeo", "ClassificationTask, multi-label", why="several classes a tile: rows have no class")
def tag(watch: Any) -> tuple[Keeper, Any]:
    task = ClassificationTask(
        model="resnet18", weights=None, in_channels=BANDS, task="multilabel", num_labels=CLASSES, loss="bce"
    )
    return fit(watch, Keeper(lambda task: task.model.get_classifier()), task, target="classes")


@use("torchgeo", "ClassificationTask, frozen ViT backbone")
def probe(watch: Any) -> tuple[Keeper, Any]:
    task = ClassificationTask(
        model="vit_tiny_patch16_224", weights=None, in_channels=BANDS, num_classes=CLASSES, freeze_backbone=True
    )
    keeper = Keeper(lambda task: task.model.get_classifier(), labels=lambda batch: batch["label"])
    return fit(watch, keeper, task, side=224)


@use("torchgeo", "RegressionTask")
def regress(watch: Any) -> tuple[Keeper, Any]:
    task = RegressionTask(model="resnet18", weights=None, in_channels=BANDS, num_outputs=1)
    return fit(watch, Keeper(lambda task: task.model.get_classifier()), task, target="number")


def head(task: Any) -> Any:
    return task.model.segmentation_head[0]


@use("torchgeo", "SemanticSegmentationTask", why=MAPS)
def segment(watch: Any) -> tuple[Keeper, Any]:
    task = SemanticSegmentationTask(
        model="unet", backbone="resnet18", weights=None, in_channels=BANDS, num_classes=3, loss="ce", ignore_index=0
    )
    return fit(watch, Keeper(head, lambda calls, _: calls[0].mean((2, 3))), task, target="mask", side=64)


@use("torchgeo", "PixelwiseRegressionTask", why=MAPS)
def heights(watch: Any) -> tuple[Keeper, Any]:
    task = PixelwiseRegressionTask(model="unet", backbone="resnet18", weights=None, in_channels=BANDS)
    return fit(watch, Keeper(head, lambda calls, _: calls[0].mean((2, 3))), task, target="height", side=64)


BOTH: dict[str, Any] = {"layer": ["projection_head", "backbone"]}


@use("torchgeo", "SimCLRTask, tiles with classes", BOTH, PROJECTED)
def simclr(watch: Any) -> tuple[Keeper, Any]:
    task = SimCLRTask(
        model="resnet18", weights=None, in_channels=BANDS, version=1, layers=2, hidden_dim=64, output_dim=32, lr=0.01,
        memory_bank_size=0, size=32,
    )  # fmt: skip
    keeper = Keeper(lambda task: task.projection_head, output=True, stage="train")  # classes: with num_classes= only
    return fit(watch, keeper, task)


@use("torchgeo", "MoCoTask v3, two seasons", BOTH, PROJECTED)
def moco(watch: Any) -> tuple[Keeper, Any]:
    task = MoCoTask(
        model="resnet18", weights=None, in_channels=BANDS, version=3, layers=3, hidden_dim=64, output_dim=32, lr=0.01,
        size=32,
    )  # fmt: skip
    keeper = Keeper(lambda task: task.projection_head, output=True, stage="train")
    return fit(watch, keeper, task, target="none", seasons=2)


@use("torchgeo", "BYOLTask", {"stages": ("train", "val")}, PROJECTED)
def byol(watch: Any) -> tuple[Keeper, Any]:
    task = BYOLTask(model="resnet10t", weights=None, in_channels=BANDS)
    keeper = Keeper(lambda task: task.model.predictor, stage="train")
    return fit(watch, keeper, task, epochs=1, target="none")
