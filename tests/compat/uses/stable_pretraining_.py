"""stable-pretraining: its Module, Manager and DataModule, with its online probes and its default callbacks beside."""

from __future__ import annotations

import tempfile
from typing import Any

import stable_pretraining as spt
import torchmetrics
from stable_pretraining import forward
from stable_pretraining.data import transforms
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from tests.compat.keeper import Keeper
from tests.compat.kit import images, trainer, use

CLASSES, WIDTH = 4, 512
STATISTICS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3}
PROJECTED = "the projector's output of the first view, over the training epoch; the projector doesn't run in validation"
BOTH: dict[str, Any] = {"layer": ["projector", "backbone"]}


class Pictures(Dataset):
    """What torchvision's CIFAR10 gives: an image and its class."""

    def __init__(self, n: int) -> None:
        x, y = images(n, 32, classes=CLASSES)
        self.pictures = [to_pil_image((picture / 8 + 0.5).clamp(0, 1)) for picture in x]
        self.labels = y.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.pictures[i], self.labels[i]


def plain() -> Any:
    return transforms.Compose(transforms.RGB(), transforms.Resize((32, 32)), transforms.ToImage(**STATISTICS))


def augmented(scale: float) -> Any:
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((32, 32), scale=(scale, 1.0)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.ToImage(**STATISTICS),
    )


def data(transform: Any) -> Any:
    names = ["image", "label"]
    train = spt.data.FromTorchDataset(Pictures(32), names=names, transform=transform)
    val = spt.data.FromTorchDataset(Pictures(32), names=names, transform=plain())
    return spt.data.DataModule(
        train=DataLoader(train, batch_size=16, shuffle=True, drop_last=True), val=DataLoader(val, batch_size=16)
    )


def fit(watch: Any, keeper: Keeper, module: Any, transform: Any) -> tuple[Keeper, Any]:
    accuracy = torchmetrics.classification.MulticlassAccuracy
    probe = spt.callbacks.OnlineProbe(
        module,
        name="linear_probe",
        input="embedding",
        target="label",
        probe=nn.Linear(WIDTH, CLASSES),
        loss=nn.CrossEntropyLoss(),
        metrics={"top1": accuracy(CLASSES)},
    )
    knn = spt.callbacks.OnlineKNN(
        name="knn_probe",
        input="embedding",
        target="label",
        queue_length=64,
        metrics={"accuracy": accuracy(CLASSES)},
        input_dim=WIDTH,
        k=10,
    )
    monitor = watch()
    with tempfile.TemporaryDirectory() as folder:
        spt.set(cache_dir=folder, requeue_checkpoint=False)
        spt.Manager(trainer=trainer([knn, probe, monitor, keeper]), module=module, data=data(transform))()
    return keeper, monitor


def optim() -> dict[str, Any]:
    return {
        "optimizer": {"type": "AdamW", "lr": 1e-3},
        "scheduler": {"type": "CosineAnnealingLR", "T_max": 2},
        "interval": "epoch",
    }


@use("stable-pretraining", "supervised")
def supervised(watch: Any) -> tuple[Keeper, Any]:
    module = spt.Module(
        forward=forward.supervised,
        backbone=spt.backbone.from_timm("resnet18", num_classes=0),
        classifier=nn.Linear(WIDTH, CLASSES),
        supervised_loss=nn.CrossEntropyLoss(),
        optim=optim(),
    )
    keeper = Keeper(lambda module: module.classifier, labels=lambda batch: batch["label"])
    return fit(watch, keeper, module, plain())


def of_projector() -> Keeper:
    return Keeper(lambda module: module.projector, output=True, stage="train")  # classes: with num_classes= only


def projector(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 256), nn.BatchNorm1d(256), nn.ReLU(inplace=True), nn.Linear(256, width))


def two_views() -> Any:
    return transforms.MultiViewTransform([augmented(0.2), augmented(0.08)])


@use("stable-pretraining", "SimCLR", BOTH, PROJECTED)
def simclr(watch: Any) -> tuple[Keeper, Any]:
    module = spt.Module(
        backbone=spt.backbone.from_torchvision("resnet18"),
        projector=projector(64),
        forward=forward.simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.5),
        optim=optim(),
    )
    return fit(watch, of_projector(), module, two_views())


@use("stable-pretraining", "VICReg", BOTH, PROJECTED)
def vicreg(watch: Any) -> tuple[Keeper, Any]:
    module = spt.Module(
        backbone=spt.backbone.from_timm("resnet18", num_classes=0),
        projector=projector(128),
        forward=forward.vicreg,
        vicreg_loss=spt.losses.VICRegLoss(),
        optim=optim(),
    )
    return fit(watch, of_projector(), module, two_views())


@use("stable-pretraining", "BYOL", {"head": "predictor"}, PROJECTED)
def byol(watch: Any) -> tuple[Keeper, Any]:
    module = spt.Module(
        forward=forward.byol,
        backbone=spt.TeacherStudentWrapper(spt.backbone.from_timm("resnet18", num_classes=0)),
        projector=spt.TeacherStudentWrapper(projector(64)),
        predictor=nn.Linear(64, 64),
        byol_loss=spt.losses.BYOLLoss(),
        optim=optim(),
    )
    keeper = Keeper(lambda module: module.predictor, stage="train")
    return fit(watch, keeper, module, two_views())
