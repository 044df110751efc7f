"""MONAI: networks in a LightningModule, batches as dictionaries of MetaTensors, as in its tutorials."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNETR, DenseNet121, SwinUNETR, UNet, ViT
from torch.nn.functional import cross_entropy

from tests.compat.keeper import Keeper
from tests.compat.kit import Module, images, trainer, use

WHY = "one row a volume: the map before the last convolution, averaged"


def volumes(n: int, side: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": MetaTensor(torch.randn(1, side, side, side, generator=generator)),
            "label": MetaTensor(torch.randint(0, 2, (1, side, side, side), generator=generator)),
        }
        for _ in range(n)
    ]


def segment(net: Any, module: Any, side: int, watch: Any) -> tuple[Keeper, Any]:
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    keeper = Keeper(lambda given: module(given.net), lambda calls, _: calls[0].mean((2, 3, 4)))
    monitor = watch()
    train, val = volumes(4, side), volumes(16, side)
    trainer([monitor, keeper], max_epochs=1).fit(
        Module(net, lambda net, batch: criterion(net(batch["image"]), batch["label"])),
        DataLoader(Dataset(train), batch_size=2),
        DataLoader(Dataset(val), batch_size=4),
    )
    return keeper, monitor


@use(
    "monai",
    "UNet",
    then={"head": "net.model.2.1.conv.unit0.conv"},
    why="one row a volume: what the top block, which ends in the classes, is given, averaged",
)
def unet(watch: Any) -> tuple[Keeper, Any]:
    net = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=2)
    return segment(net, lambda net: net.model[2][1].conv.unit0, 16, watch)


@use("monai", "SwinUNETR", why=WHY)
def swin(watch: Any) -> tuple[Keeper, Any]:
    net = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    return segment(net, lambda net: net.out.conv.conv, 64, watch)


@use("monai", "UNETR", why=WHY)
def unetr(watch: Any) -> tuple[Keeper, Any]:
    net = UNETR(1, 2, img_size=32, feature_size=4, hidden_size=48, mlp_dim=96, num_heads=2)
    return segment(net, lambda net: net.out.conv.conv, 32, watch)


def labelled(n: int, side: int) -> list[dict[str, Any]]:
    x, y = images(n, side, channels=1)
    return [{"image": MetaTensor(image), "label": int(label)} for image, label in zip(x, y, strict=True)]


def classify(net: Any, module: Any, watch: Any) -> tuple[Keeper, Any]:
    def loss(net: Any, batch: Any) -> Any:
        scores = net(batch["image"])
        return cross_entropy(scores[0] if isinstance(scores, tuple) else scores, batch["label"])

    keeper = Keeper(lambda given: module(given.net), labels=lambda batch: batch["label"])
    monitor = watch()
    train, val = labelled(16, 64), labelled(32, 64)
    trainer([monitor, keeper], max_epochs=1).fit(
        Module(net, loss),
        DataLoader(Dataset(train), batch_size=8, shuffle=True),
        DataLoader(Dataset(val), batch_size=8),
    )
    return keeper, monitor


@use("monai", "DenseNet121")
def densenet(watch: Any) -> tuple[Keeper, Any]:
    return classify(DenseNet121(spatial_dims=2, in_channels=1, out_channels=4), lambda net: net.class_layers.out, watch)


@use("monai", "ViT with classification=True")
def vit(watch: Any) -> tuple[Keeper, Any]:
    net = ViT(1, (64, 64), (16, 16), hidden_size=48, mlp_dim=96, num_layers=2, num_heads=2, spatial_dims=2,
              num_classes=4, classification=True)  # fmt: skip
    return classify(net, lambda net: net.classification_head[0], watch)
