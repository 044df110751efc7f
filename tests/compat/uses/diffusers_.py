"""diffusers: noise prediction as its training examples do it, and a variational autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel

from tests.compat.keeper import Keeper
from tests.compat.kit import Module, images, loaders, trainer, use

UNET: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 4,
    "attention_head_dim": 8, "sample_size": 16, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (16, 32), "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 16,
}  # fmt: skip
MAPS = "the map is averaged over space, so a row is an image"


def over_space(calls: list[Any], batch: Any) -> Tensor:
    return calls[0].mean((2, 3))


class Denoising:
    """The training step of diffusers' tutorial: noise at a random time, which is to be predicted."""

    def __init__(self) -> None:
        self.schedule = DDPMScheduler(num_train_timesteps=100)

    def noisy(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn_like(clean)
        time = torch.randint(0, self.schedule.config.num_train_timesteps, (len(clean),))
        return self.schedule.add_noise(clean, noise, time), noise, time

    def __call__(self, net: Any, batch: Any) -> Tensor:
        noisy, noise, time = self.noisy(batch["images"] if isinstance(batch, dict) else batch[0])
        labels = {} if isinstance(batch, dict) else {"class_labels": batch[1]}
        return mse_loss(net(noisy, time, return_dict=False, **labels)[0], noise)


@use("diffusers", "UNet2DModel", why=MAPS)
def unconditional(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    x, _ = images(64, 16)
    rows = [{"images": image} for image in x]  # what the tutorial's data set gives
    loader = torch.utils.data.DataLoader
    keeper = Keeper(lambda module: module.net.conv_out, over_space)
    monitor = watch()
    trainer([monitor, keeper]).fit(
        Module(UNet2DModel(**UNET), Denoising()), loader(rows[:32], 16, shuffle=True), loader(rows[32:], 16)
    )
    return keeper, monitor


@use("diffusers", "UNet2DModel, class-conditional", why=MAPS + "; the class is an input, no target")
def conditional(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(lambda module: module.net.conv_out, over_space)
    monitor = watch()
    net = UNet2DModel(num_class_embeds=4, **UNET)
    trainer([monitor, keeper]).fit(Module(net, Denoising()), *loaders(*images(64, 16)))
    return keeper, monitor


class LatentDiffusion(nn.Module):
    """A network that is trained, with a frozen autoencoder and a frozen text encoder beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**VAE)
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=8, eos_token_id=39,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=8, norm_num_groups=4,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        )  # fmt: skip
        self.vae.requires_grad_(False)
        self.text_encoder.requires_grad_(False)


class TextToImage(Denoising):
    """The training step of train_text_to_image.py."""

    def __call__(self, net: Any, batch: Any) -> Tensor:
        latents = net.vae.encode(batch["pixel_values"]).latent_dist.sample() * net.vae.config.scaling_factor
        noisy, noise, time = self.noisy(latents)
        hidden = net.text_encoder(batch["input_ids"], return_dict=False)[0]
        return mse_loss(net.unet(noisy, time, hidden, return_dict=False)[0], noise)


@use("diffusers", "UNet2DConditionModel, text to image", why=MAPS)
def text_to_image(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    x, _ = images(64, 16)
    ids = torch.randint(1, 39, (64, 8))
    ids[:, -1] = 39
    rows = [{"pixel_values": x[i], "input_ids": ids[i]} for i in range(64)]
    loader = torch.utils.data.DataLoader
    keeper = Keeper(lambda module: module.net.unet.conv_out, over_space)
    monitor = watch()
    trainer([monitor, keeper]).fit(
        Module(LatentDiffusion(), TextToImage()), loader(rows[:32], 16, shuffle=True), loader(rows[32:], 16)
    )
    return keeper, monitor


def reconstruction(net: Any, batch: Any) -> Tensor:
    posterior = net.encode(batch[0]).latent_dist
    return mse_loss(net.decode(posterior.sample()).sample, batch[0]) + 1e-6 * posterior.kl().mean()


@use("diffusers", "AutoencoderKL", {"layer": "net.quant_conv"}, "the map of the latents, averaged over space")
def autoencoder(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(lambda module: module.net.quant_conv, over_space, output=True)
    monitor = watch()
    trainer([monitor, keeper]).fit(Module(AutoencoderKL(**VAE), reconstruction), *loaders(images(64, 16)[0]))
    return keeper, monitor
