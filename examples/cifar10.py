"""A residual network on CIFAR-10, with class names and raw rows for the logger.

    pip install torchvision                      # the build that fits your torch
    python examples/cifar10.py --data ~/data     # downloads 170 MB once
    python examples/cifar10.py --generated       # no download: images from a generator, to see what is logged

Tables show class names, and each image by its position in the data set. 500 rows of features go to the logger's
projector. The second validation loader holds training images without augmentation: its curves show neural collapse in
the strict sense, and `knn_accuracy` takes its votes from it.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_featgeo import Display, FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping
from lightning_featgeo.report import write_report

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CLEAN = 5000  # training images in the second validation loader, without augmentation


def block(inside: int, outside: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = block(inside, outside, stride)
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class CifarNet(pl.LightningModule):
    def __init__(self, width: int = 64, epochs: int = 30) -> None:
        super().__init__()
        self.epochs = epochs
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            Residual(width, width, 1), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self(batch[0])
        if dataloader_idx == 0:
            right = (logits.argmax(1) == batch[1]).float().mean()
            self.log("val/accuracy", right, prog_bar=True, add_dataloader_idx=False)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs),
        }


def cifar10(folder: str) -> tuple[Dataset, Dataset, Dataset]:
    """Training, the same without augmentation, and test images."""
    from torchvision import datasets, transforms

    scale = [transforms.ToTensor(), transforms.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))]
    augment = transforms.Compose([transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), *scale])
    plain = transforms.Compose(scale)
    train = datasets.CIFAR10(folder, train=True, download=True, transform=augment)
    clean = datasets.CIFAR10(folder, train=True, transform=plain)
    return train, Subset(clean, range(CLEAN)), datasets.CIFAR10(folder, train=False, transform=plain)


def generated(n: int = 256) -> tuple[Dataset, Dataset, Dataset]:
    """Images of the same shape: a colour and a stripe for each class, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * n) % 10
    images = 0.5 * torch.randn(2 * n, 3, 32, 32, generator=generator)
    images += torch.randn(10, 3, 1, 1, generator=generator)[labels]
    images[torch.arange(2 * n), :, 3 * labels] += 2.0
    train = TensorDataset(images[:n], labels[:n])
    return train, train, TensorDataset(images[n:], labels[n:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--generated", action="store_true")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases instead of TensorBoard")
    args = parser.parse_args()
    pl.seed_everything(0)
    train, clean, val = generated() if args.generated else cifar10(args.data)
    workers = {} if args.generated else {"num_workers": 4, "persistent_workers": True}
    loaders = [DataLoader(val, 256, **workers), DataLoader(clean, 256, **workers)]
    monitor = FeatureGeometryMonitor(
        display=Display(class_names=CLASSES, embedding_rows=500),
        loader_names=("val", "train_clean"),
        reference="train_clean",
    )
    logger: Logger = WandbLogger(project="featgeo-cifar10") if args.wandb else TensorBoardLogger("runs", "cifar10")
    trainer = pl.Trainer(
        max_epochs=args.epochs, logger=logger, log_every_n_steps=20, enable_checkpointing=False,
        callbacks=[monitor, GeometryEarlyStopping("converged"), GeometryAlarm("collapse")],
    )  # fmt: skip
    trainer.fit(CifarNet(args.width, args.epochs), DataLoader(train, 128, shuffle=True, **workers), loaders)
    print(f"Report: {write_report(monitor.history.path, 'runs/cifar10.html')}")


if __name__ == "__main__":
    main()
