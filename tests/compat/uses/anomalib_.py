"""anomalib: its models through its Engine, on a folder of normal and abnormal pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Draem, Fastflow, Ganomaly, Padim, Patchcore, ReverseDistillation
from torchvision.transforms.functional import to_pil_image

from tests.compat.keeper import Keeper
from tests.compat.kit import use

SIDE = 64
LAST = "the backbone's last map of those that are compared, averaged"


def pictures(root: Path) -> None:
    """Stripes are normal, a spot in them is not."""
    generator = torch.Generator().manual_seed(0)
    stripes = torch.sin(torch.arange(SIDE) / 3).expand(3, SIDE, SIDE)
    (root / "mask").mkdir()
    for name, n in (("good", 28), ("bad", 12), ("textures", 6)):
        (root / name).mkdir()
        for i in range(n):
            x = 0.5 + 0.2 * stripes + 0.05 * torch.randn(3, SIDE, SIDE, generator=generator)
            if name == "bad":
                mask = torch.zeros(1, SIDE, SIDE)
                mask[:, 8 + i : 24 + i, 20:36] = 1
                x = x.where(mask == 0, 0.9)
                to_pil_image(mask).save(root / "mask" / f"{i:03}.png")
            if name == "textures":
                x = torch.rand(3, SIDE, SIDE, generator=generator)
            to_pil_image(x.clamp(0, 1)).save(root / name / f"{i:03}.png")


def fit(watch: Any, keeper: Keeper, make: Any, **of_trainer: Any) -> tuple[Keeper, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pictures(root)
        datamodule = Folder(
            name="stripes", root=root, normal_dir="good", abnormal_dir="bad", mask_dir="mask", normal_split_ratio=0.3,
            val_split_mode="same_as_test", train_batch_size=8, eval_batch_size=8, num_workers=0,
        )  # fmt: skip
        monitor = watch()
        engine = Engine(
            callbacks=[monitor, keeper], max_epochs=1, accelerator="cpu", default_root_dir=root / "results",
            enable_progress_bar=False, enable_model_summary=False, **of_trainer,
        )  # fmt: skip
        engine.fit(model=make(root), datamodule=datamodule)
    return keeper, monitor


def resized(kind: Any, side: int = SIDE) -> Any:
    return kind.configure_pre_processor(image_size=(side, side))


def last_map(module: Any) -> Keeper:
    return Keeper(module, lambda calls, _: list(calls[0].values())[-1].mean((2, 3)), output=True)


@use("anomalib", "Padim", why=LAST)
def padim(watch: Any) -> tuple[Keeper, Any]:
    def make(_: Path) -> Any:
        return Padim(backbone="resnet18", pre_trained=False, n_features=16, pre_processor=resized(Padim))

    return fit(watch, last_map(lambda model: model.model.feature_extractor), make)


@use("anomalib", "Patchcore", why=LAST)
def patchcore(watch: Any) -> tuple[Keeper, Any]:
    def make(_: Path) -> Any:
        return Patchcore(backbone="resnet18", pre_trained=False, pre_processor=resized(Patchcore))

    return fit(watch, last_map(lambda model: model.model.feature_extractor), make)


@use("anomalib", "ReverseDistillation", why="the bottleneck's map, averaged")
def distil(watch: Any) -> tuple[Keeper, Any]:
    def make(_: Path) -> Any:
        return ReverseDistillation(backbone="resnet18", pre_trained=False, pre_processor=resized(ReverseDistillation))

    keeper = Keeper(lambda model: model.model.bottleneck, lambda calls, _: calls[0].mean((2, 3)), output=True)
    return fit(watch, keeper, make)


@use(
    "anomalib",
    "Fastflow",
    {"head": "model.fast_flow_blocks.2.module_list.0"},
    "the last map that goes into a flow, averaged",
)
def fastflow(watch: Any) -> tuple[Keeper, Any]:
    def make(_: Path) -> Any:
        return Fastflow(backbone="resnet18", pre_trained=False, flow_steps=2, pre_processor=resized(Fastflow))

    keeper = Keeper(lambda model: model.model.fast_flow_blocks[-1], lambda calls, _: calls[0].mean((2, 3)))
    return fit(watch, keeper, make)


@use("anomalib", "Draem", why="one row an image: the map before the discriminator's last convolution, averaged")
def draem(watch: Any) -> tuple[Keeper, Any]:
    def make(root: Path) -> Any:
        return Draem(dtd_dir=root / "textures", pre_processor=resized(Draem, 32))

    keeper = Keeper(
        lambda model: model.model.discriminative_subnetwork.decoder_segment.fin_out,
        lambda calls, _: calls[0].mean((2, 3)),
        lambda batch: batch.gt_label.long(),
    )
    return fit(watch, keeper, make, limit_train_batches=1)  # its networks are large


@use("anomalib", "Ganomaly", why="the latent vector of the generator's first encoder")
def ganomaly(watch: Any) -> tuple[Keeper, Any]:
    def make(_: Path) -> Any:
        return Ganomaly(batch_size=8, n_features=16, latent_vec_size=32, pre_processor=resized(Ganomaly))

    keeper = Keeper(lambda model: model.model.generator.encoder1, lambda calls, _: calls[0].flatten(1), output=True)
    return fit(watch, keeper, make)
