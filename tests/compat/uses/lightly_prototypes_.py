"""lightly: DINO, SwaV and MAE as on its example pages for PyTorch Lightning."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from lightly.loss import (
    DINOLoss,
    SwaVLoss,
)
from lightly.models import utils
from lightly.models.modules import (
    DINOProjectionHead,
    MAEDecoderTIMM,
    MaskedVisionTransformerTIMM,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import (
    DINOTransform,
    MAETransform,
    SwaVTransform,
)
from lightly.utils.scheduler import cosine_schedule
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.compat.keeper import Keeper
from tests.compat.kit import use
from tests.compat.pictures import Pictures, fit, resnet

BEFORE_PROTOTYPES = "the normalised embedding that the prototypes score, of the first view, over the training epoch"


class DINO(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        backbone = resnet()
        self.student_backbone = backbone
        self.student_head = DINOProjectionHead(512, 512, 64, 2048, freeze_last_layer=1)
        self.teacher_backbone = copy.deepcopy(backbone)
        self.teacher_head = DINOProjectionHead(512, 512, 64, 2048)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.student_backbone(x).flatten(start_dim=1)
        return self.student_head(y)

    def forward_teacher(self, x: Tensor) -> Tensor:
        y = self.teacher_backbone(x).flatten(start_dim=1)
        return self.teacher_head(y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        momentum = cosine_schedule(self.current_epoch, 10, 0.996, 1)
        update_momentum(self.student_backbone, self.teacher_backbone, m=momentum)
        update_momentum(self.student_head, self.teacher_head, m=momentum)
        views = [view.to(self.device) for view in batch[0]]
        teacher_out = [self.forward_teacher(view) for view in views[:2]]
        student_out = [self.forward(view) for view in views]
        return self.criterion(teacher_out, student_out, epoch=self.current_epoch)

    def on_after_backward(self) -> None:
        self.student_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.001)


@use("lightly", "DINO", {"head": "student_head.last_layer"}, why=BEFORE_PROTOTYPES)
def dino(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.student_head.last_layer, stage="train")
    transform = DINOTransform(global_crop_size=32, local_crop_size=24, gaussian_blur=(0.0, 0.0, 0.0))
    return fit(watch, keeper, DINO(), Pictures(transform=transform))


class SwaV(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet()
        self.projection_head = SwaVProjectionHead(512, 512, 128)
        self.prototypes = SwaVPrototypes(128, n_prototypes=512)
        self.criterion = SwaVLoss()

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x).flatten(start_dim=1)
        x = self.projection_head(x)
        x = nn.functional.normalize(x, dim=1, p=2)
        return self.prototypes(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.prototypes.normalize()
        features = [self.forward(view.to(self.device)) for view in batch[0]]
        return self.criterion(features[:2], features[2:])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.001)


@use("lightly", "SwaV", why=BEFORE_PROTOTYPES)
def swav(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.prototypes, labels=lambda batch: batch[1], stage="train")
    transform = SwaVTransform(crop_sizes=(48, 32), gaussian_blur=0.0)
    return fit(watch, keeper, SwaV(), Pictures(transform=transform))


class MAE(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
        self.mask_ratio = 0.75
        self.patch_size = vit.patch_embed.patch_size[0]
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.sequence_length = self.backbone.sequence_length
        self.decoder = MAEDecoderTIMM(
            num_patches=vit.patch_embed.num_patches, patch_size=self.patch_size, embed_dim=vit.embed_dim,
            decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4, mlp_ratio=4.0, proj_drop_rate=0.0,
            attn_drop_rate=0.0,
        )  # fmt: skip
        self.criterion = nn.MSELoss()

    def forward_encoder(self, images: Tensor, idx_keep: Tensor | None = None) -> Tensor:
        return self.backbone.encode(images=images, idx_keep=idx_keep)

    def forward_decoder(self, x_encoded: Tensor, idx_keep: Tensor, idx_mask: Tensor) -> Tensor:
        x_decode = self.decoder.embed(x_encoded)
        x_masked = utils.repeat_token(self.decoder.mask_token, (len(x_encoded), self.sequence_length))
        x_masked = utils.set_at_index(x_masked, idx_keep, x_decode.type_as(x_masked))
        x_decoded = self.decoder.decode(x_masked)
        return self.decoder.predict(utils.get_at_index(x_decoded, idx_mask))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images = batch[0][0]
        idx_keep, idx_mask = utils.random_token_mask(
            size=(len(images), self.sequence_length), mask_ratio=self.mask_ratio, device=images.device
        )
        x_encoded = self.forward_encoder(images=images, idx_keep=idx_keep)
        x_pred = self.forward_decoder(x_encoded=x_encoded, idx_keep=idx_keep, idx_mask=idx_mask)
        target = utils.get_at_index(utils.patchify(images, self.patch_size), idx_mask - 1)
        return self.criterion(x_pred, target)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1.5e-4)


@use("lightly", "MAE", why="the encoder's visible tokens, averaged, over the training epoch")
def mae(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(
        lambda model: model.backbone.vit.norm,
        lambda calls, _: calls[0].mean(1),
        output=True,
        stage="train",
    )
    return fit(watch, keeper, MAE(), Pictures(transform=MAETransform(input_size=32)))
