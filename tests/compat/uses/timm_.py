"""timm: the classifier of each family, as ``create_model`` makes it."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from torch.nn import ModuleList
from torch.nn.functional import cross_entropy

from tests.compat.keeper import Keeper
from tests.compat.kit import USES, Module, Use, images, loaders, trainer

FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {}, "resnext50_32x4d": {}, "densenet121": {}, "efficientnet_b0": {}, "mobilenetv3_small_050": {},
    "regnetx_002": {}, "vgg11": {}, "inception_next_atto": {}, "convnext_atto": {}, "convnextv2_atto": {},
    "vit_tiny_patch16_224": {"img_size": 64}, "deit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_distilled_patch16_224": {"img_size": 64}, "beit_base_patch16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2}, "mixer_s32_224": {"img_size": 64},
    "resmlp_12_224": {"img_size": 64}, "cait_xxs24_224": {"img_size": 64, "depth": 2}, "xcit_nano_12_p16_224": {},
    "mobilevit_xxs": {}, "edgenext_xx_small": {}, "ghostnet_050": {}, "hardcorenas_a": {}, "poolformer_s12": {},
    "pvt_v2_b0": {}, "repvgg_a0": {}, "rexnetr_200": {}, "maxvit_rmlp_pico_rw_256": {"img_size": 64},
    "coatnet_pico_rw_224": {"img_size": 64}, "fastvit_t8": {}, "nfnet_l0": {}, "hiera_tiny_224": {"img_size": 64},
    "eva02_tiny_patch14_224": {"img_size": 56}, "dla34": {}, "selecsls42": {}, "skresnet18": {}, "xception41": {},
    "naflexvit_base_patch16_gap": {"img_size": 64, "depth": 2}, "crossvit_tiny_240": {}, "tnt_s_patch16_224": {},
    "levit_128s": {}, "visformer_tiny": {}, "efficientformer_l1": {}, "twins_pcpvt_small": {}, "volo_d1_224": {},
}  # fmt: skip


TWO_HEADS = {  # one is to be named
    "distilled": "net.head", "levit": "net.head.linear", "efficientformer": "net.head", "crossvit": "net.head.0",
}  # fmt: skip
AT_224 = ("levit_128s", "visformer_tiny", "efficientformer_l1", "volo_d1_224", "tnt_s_patch16_224")


def loss(net: Any, batch: Any) -> Any:
    x, y = batch
    return cross_entropy(net(x), y)


def run(family: str, arguments: dict[str, Any], watch: Any) -> tuple[Keeper, Any]:
    side = arguments.get("img_size", 240 if "240" in family else 224 if family in AT_224 else 64)
    x, y = images(48, side)
    model = timm.create_model(family, pretrained=False, num_classes=4, **arguments)

    def head(module: Any) -> Any:
        found = module.net.get_classifier()  # timm's own word for it
        found = found[0] if isinstance(found, (tuple, ModuleList)) else found
        return getattr(found, "linear", found)  # LeViT's is a norm and a linear layer

    keeper = Keeper(head, lambda calls, _: calls[0].flatten(1), labels=lambda batch: batch[1])
    monitor = watch()
    trainer([monitor, keeper], max_epochs=1).fit(Module(model, loss), *loaders(x, y, batch_size=8, train=16))
    return keeper, monitor


for family, arguments in FAMILIES.items():
    then = next(({"head": head} for name, head in TWO_HEADS.items() if name in family), None)
    USES.append(Use("timm", family, partial(run, family, arguments), then))
