"""torchvision: classifiers of each family, segmentation, video, detectors in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import models

from tests.compat.keeper import Keeper
from tests.compat.kit import USES, Module, Use, images, loaders, trainer, use

CLASSIFIERS: dict[str, Callable[[Any], nn.Module]] = {  # the last layer, as torchvision's own pages replace it
    "resnet18": lambda net: net.fc,
    "alexnet": lambda net: net.classifier[6],
    "vgg11_bn": lambda net: net.classifier[6],
    "densenet121": lambda net: net.classifier,
    "mobilenet_v2": lambda net: net.classifier[1],
    "mobilenet_v3_small": lambda net: net.classifier[3],
    "efficientnet_b0": lambda net: net.classifier[1],
    "efficientnet_v2_s": lambda net: net.classifier[1],
    "convnext_tiny": lambda net: net.classifier[2],
    "swin_t": lambda net: net.head,
    "shufflenet_v2_x0_5": lambda net: net.fc,
    "mnasnet0_5": lambda net: net.classifier[1],
    "regnet_y_400mf": lambda net: net.fc,
    "squeezenet1_1": lambda net: net.classifier[1],
    "googlenet": lambda net: net.fc,
    "maxvit_t": lambda net: net.classifier[5],
    "wide_resnet50_2": lambda net: net.fc,
}


def loss(net: Any, batch: Any) -> Any:
    scores = net(batch[0])
    main = cross_entropy(getattr(scores, "logits", scores), batch[1])
    if hasattr(scores, "aux_logits1"):  # GoogLeNet, as its paper weighs them
        main = main + 0.3 * (cross_entropy(scores.aux_logits1, batch[1]) + cross_entropy(scores.aux_logits2, batch[1]))
    return main


def pooled(calls: list[Any], _: Any) -> Any:
    return calls[0].mean((2, 3)) if calls[0].ndim == 4 else calls[0]


def classify(name: str, side: int, watch: Any, **arguments: Any) -> tuple[Keeper, Any]:
    net = models.get_model(name, weights=None, num_classes=4, **arguments)
    keeper = Keeper(lambda module: CLASSIFIERS[name](module.net), pooled, labels=lambda batch: batch[1])
    monitor = watch()
    data = loaders(*images(40, side), batch_size=8, train=16)
    trainer([monitor, keeper], max_epochs=1).fit(Module(net, loss), *data)
    return keeper, monitor


for name in CLASSIFIERS:
    side = 224 if name in ("maxvit_t",) else 96 if name == "googlenet" else 64
    more = {"aux_logits": True, "init_weights": True} if name == "googlenet" else {}
    then = {"head": "net.fc"} if more else None  # its two auxiliary classifiers are scored too
    USES.append(Use("torchvision", name, partial(classify, name, side, **more), then))


@use("torchvision", "vit (VisionTransformer)")
def vit(watch: Any) -> tuple[Keeper, Any]:
    net = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=96, num_classes=4)
    keeper = Keeper(lambda module: module.net.heads.head, labels=lambda batch: batch[1])
    monitor = watch()
    trainer([monitor, keeper]).fit(Module(net, loss), *loaders(*images(80, 32)))
    return keeper, monitor


@use("torchvision", "resnet18, fine-tuned, backbone frozen")
def frozen(watch: Any) -> tuple[Keeper, Any]:
    net = models.resnet18(weights=None)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.fc = nn.Linear(512, 4)
    keeper = Keeper(lambda module: module.net.fc, labels=lambda batch: batch[1])
    monitor = watch()
    trainer([monitor, keeper]).fit(Module(net, loss), *loaders(*images(48, 64), batch_size=8, train=16))
    return keeper, monitor


def pixels(net: Any, batch: Any) -> Any:
    return cross_entropy(net(batch[0])["out"], batch[1])


def masks(n: int, side: int) -> tuple[Any, Any]:
    x, _ = images(n, side)
    return x, torch.randint(0, 4, (n, side, side), generator=torch.Generator().manual_seed(1))


@use("torchvision", "fcn_resnet50", why="one row an image: the map before the last convolution, averaged")
def fcn(watch: Any) -> tuple[Keeper, Any]:
    net = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=4)
    keeper = Keeper(lambda module: module.net.classifier[-1], lambda calls, _: calls[0].mean((2, 3)))
    monitor = watch()
    trainer([monitor, keeper], max_epochs=1).fit(Module(net, pixels), *loaders(*masks(20, 32), batch_size=4, train=8))
    return keeper, monitor


@use("torchvision", "lraspp_mobilenet_v3_large", then={"head": "net.classifier.high_classifier"})
def lraspp(watch: Any) -> tuple[Keeper, Any]:
    net = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    keeper = Keeper(lambda module: module.net.classifier.high_classifier, lambda calls, _: calls[0].mean((2, 3)))
    monitor = watch()
    trainer([monitor, keeper], max_epochs=1).fit(Module(net, pixels), *loaders(*masks(24, 64), batch_size=4, train=8))
    return keeper, monitor


@use("torchvision", "r3d_18 (video)")
def video(watch: Any) -> tuple[Keeper, Any]:
    net = models.video.r3d_18(weights=None, num_classes=4)
    x, y = images(20, 16, channels=3 * 4)
    keeper = Keeper(lambda module: module.net.fc, labels=lambda batch: batch[1])
    monitor = watch()
    data = loaders(x.unflatten(1, (3, 4)), y, batch_size=4, train=8)
    trainer([monitor, keeper], max_epochs=1).fit(Module(net, loss), *data)
    return keeper, monitor


class Detector(Module):
    """As torchvision's detection reference: losses in training, boxes in validation."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(self.net(*batch).values())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        found = self.net(batch[0])
        self.log("boxes", float(sum(len(one["boxes"]) for one in found)), batch_size=1)


def scenes(n: int, side: int = 64) -> Any:
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(n):
        image = torch.rand(3, side, side, generator=generator)
        boxes = torch.tensor([[4.0, 4, 30, 30], [20, 20, 60, 60]])
        mask = torch.zeros(2, side, side, dtype=torch.uint8)
        mask[0, 4:30, 4:30], mask[1, 20:60, 20:60] = 1, 1
        found.append((image, {"boxes": boxes, "labels": torch.tensor([1, 1 + i % 2]), "masks": mask}))
    return DataLoader(found, 4, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))


DETECTORS: dict[str, tuple[Any, Any]] = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": (lambda net: net.backbone, "net.backbone:0"),
    "retinanet_resnet50_fpn": (lambda net: net.backbone, "net.backbone:0"),
    "fcos_resnet50_fpn": (lambda net: net.backbone, "net.backbone:0"),
    "maskrcnn_resnet50_fpn": (lambda net: net.backbone, "net.backbone:0"),
}


def detect(name: str, watch: Any) -> tuple[Keeper, Any]:
    make = getattr(models.detection, name)
    net = make(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64)
    module, _ = DETECTORS[name]
    keeper = Keeper(lambda given: module(given.net), lambda calls, _: calls[0]["0"].mean((2, 3)), output=True)
    monitor = watch()
    trainer([monitor, keeper], max_epochs=1).fit(Detector(net, pixels), scenes(8), scenes(16))
    return keeper, monitor


for name in DETECTORS:
    why = "boxes are no samples; the backbone's finest map is what one row an image can be taken from"
    USES.append(Use("torchvision", name, partial(detect, name), why=why))
