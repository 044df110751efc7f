"""segmentation_models_pytorch: Unet and its like, binary, multi-class, with a classifier beside."""

from __future__ import annotations

from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import cross_entropy

from tests.compat.keeper import Keeper
from tests.compat.kit import USES, Module, Use, images, loaders, trainer, use

WHY = "one row an image: the map before the segmentation head, averaged"


def scenes(n: int, side: int, classes: int) -> tuple[Any, Any, Any]:
    x, y = images(n, side)
    return x, torch.randint(0, classes, (n, side, side), generator=torch.Generator().manual_seed(1)), y


def run(make: Any, loss: Any, classes: int, watch: Any) -> tuple[Keeper, Any]:
    net = make()
    keeper = Keeper(lambda module: module.net.segmentation_head[0], lambda calls, _: calls[0].mean((2, 3)))
    monitor = watch()
    data = loaders(*scenes(28, 64, classes), batch_size=4, train=8)
    trainer([monitor, keeper], max_epochs=1).fit(Module(net, loss), *data)
    return keeper, monitor


dice, focal = smp.losses.DiceLoss("multiclass"), smp.losses.FocalLoss("multiclass")
binary = smp.losses.DiceLoss("binary", from_logits=True)


def several(net: Any, batch: Any) -> Any:
    return dice(net(batch[0]), batch[1]) + focal(net(batch[0]), batch[1]) * 0


def one(net: Any, batch: Any) -> Any:
    return binary(net(batch[0]), batch[1][:, None].float())


def entropy(net: Any, batch: Any) -> Any:
    return cross_entropy(net(batch[0]), batch[1])


KINDS: dict[str, tuple[Any, Any, int]] = {
    "Unet, cross-entropy": (lambda: smp.Unet("resnet18", encoder_weights=None, classes=3), entropy, 3),
    "Unet, Dice, binary": (lambda: smp.Unet("resnet18", encoder_weights=None, classes=1), one, 2),
    "FPN, Dice": (
        lambda: smp.FPN("resnet18", encoder_weights=None, classes=3),
        lambda net, batch: dice(net(batch[0]), batch[1]),
        3,
    ),
    "DeepLabV3Plus, focal": (
        lambda: smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=3),
        lambda net, batch: focal(net(batch[0]), batch[1]),
        3,
    ),
    "UnetPlusPlus": (lambda: smp.UnetPlusPlus("resnet18", encoder_weights=None, classes=3), entropy, 3),
    "PSPNet": (lambda: smp.PSPNet("resnet18", encoder_weights=None, classes=3), entropy, 3),
    "Segformer": (lambda: smp.Segformer("resnet18", encoder_weights=None, classes=3), entropy, 3),
}
for name, (make, loss, classes) in KINDS.items():
    USES.append(Use("segmentation_models_pytorch", name, partial(run, make, loss, classes), why=WHY))


@use(
    "segmentation_models_pytorch",
    "Unet with a classification head",
    then={"head": "net.classification_head.3"},
    why="two heads: one is to be named",
)
def both(watch: Any) -> tuple[Keeper, Any]:
    net = smp.Unet("resnet18", encoder_weights=None, classes=3, aux_params={"classes": 4, "pooling": "avg"})

    def loss(net: Any, batch: Any) -> Any:
        mask, label = net(batch[0])
        return dice(mask, batch[1]) + cross_entropy(label, batch[2])

    keeper = Keeper(lambda module: module.net.classification_head[3], labels=lambda batch: batch[2])
    monitor = watch()
    data = loaders(*scenes(28, 64, 3), batch_size=4, train=8)
    trainer([monitor, keeper], max_epochs=1).fit(Module(net, loss), *data)
    return keeper, monitor
