"""PyTorch Tabular: ``TabularModel.fit`` as its README has it, for classification and regression."""

from __future__ import annotations

import tempfile
from contextlib import chdir
from typing import Any

import numpy as np
import pandas as pd
from pytorch_tabular import TabularModel
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
from pytorch_tabular.models import (
    AutoIntConfig,
    CategoryEmbeddingModelConfig,
    FTTransformerConfig,
    GANDALFConfig,
    TabTransformerConfig,
)
from pytorch_tabular.ssl_models import DenoisingAutoEncoderConfig
from torch import nn

from tests.compat.keeper import Keeper
from tests.compat.kit import use

NUMBERS, KINDS = [f"number_{i}" for i in range(4)], ["kind", "colour"]
LINEAR_HEAD = {"layers": "", "dropout": 0.0, "initialization": "kaiming"}


def table(n: int, classes: int = 3) -> pd.DataFrame:
    """Numbers and categories, a class and a quantity."""
    random = np.random.default_rng(0)
    label = np.arange(n) % classes
    numbers = random.normal(size=(classes, len(NUMBERS)))[label] + random.normal(size=(n, len(NUMBERS)))
    frame = pd.DataFrame(numbers, columns=NUMBERS)
    frame["kind"] = np.where(random.random(n) < 0.7, label, random.integers(0, classes, n)).astype(str)
    frame["colour"] = random.choice(["red", "green", "blue"], n)
    frame["label"] = np.array(["low", "middle", "high"])[label]
    frame["amount"] = numbers.sum(1) + random.normal(size=n)
    frame["weight"] = numbers[:, 0] * 2 + random.normal(size=n)
    return frame


def tabular(config: Any, target: list[str], folder: str, **arguments: Any) -> TabularModel:
    """The model of a config, as the README builds it; what it saves goes into a folder of its own."""
    settings: dict[str, Any] = {
        "batch_size": 32, "max_epochs": 2, "accelerator": "cpu", "progress_bar": "none",
        "checkpoints_path": folder, "trainer_kwargs": {"enable_model_summary": False},
    }  # fmt: skip
    return TabularModel(
        data_config=DataConfig(target=target, continuous_cols=NUMBERS, categorical_cols=KINDS),
        model_config=config,
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(**(settings | arguments)),
        verbose=False,
    )


def fitted(
    watch: Any, config: Any, target: list[str], head: Any, labelled: bool, **arguments: Any
) -> tuple[Keeper, Any]:
    """Fits a config on 96 rows of the table; 64 others validate."""
    frame = table(160)
    keeper = Keeper(head, labels=(lambda batch: batch["target"][:, 0]) if labelled else None)
    monitor = watch()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        model = tabular(config, target, folder, **arguments)
        model.fit(train=frame[:96], validation=frame[96:], callbacks=[monitor, keeper])
        model.predict(frame[96:])
    return keeper, monitor


def last(model: nn.Module) -> nn.Module:
    """The last linear layer of the library's head."""
    return [m for m in model.head.modules() if isinstance(m, nn.Linear)][-1]


@use("pytorch-tabular", "CategoryEmbedding classification")
def category_embedding(watch: Any) -> tuple[Keeper, Any]:
    config = CategoryEmbeddingModelConfig(
        task="classification", layers="32-16", activation="LeakyReLU", learning_rate=1e-3
    )
    return fitted(watch, config, ["label"], last, labelled=True)


@use("pytorch-tabular", "CategoryEmbedding regression, two targets")
def category_embedding_regression(watch: Any) -> tuple[Keeper, Any]:
    config = CategoryEmbeddingModelConfig(task="regression", layers="32-16", head_config=LINEAR_HEAD)
    return fitted(watch, config, ["amount", "weight"], last, labelled=False)


@use("pytorch-tabular", "FTTransformer classification")
def ft_transformer(watch: Any) -> tuple[Keeper, Any]:
    config = FTTransformerConfig(task="classification", input_embed_dim=16, num_heads=2, num_attn_blocks=1)
    return fitted(watch, config, ["label"], last, labelled=True)


@use("pytorch-tabular", "GANDALF classification")
def gandalf(watch: Any) -> tuple[Keeper, Any]:
    config = GANDALFConfig(task="classification", gflu_stages=2)
    return fitted(watch, config, ["label"], last, labelled=True)


@use("pytorch-tabular", "GANDALF regression")
def gandalf_regression(watch: Any) -> tuple[Keeper, Any]:
    config = GANDALFConfig(task="regression", gflu_stages=2)
    return fitted(watch, config, ["amount"], last, labelled=False)


@use("pytorch-tabular", "TabTransformer classification, head with a hidden layer")
def tab_transformer(watch: Any) -> tuple[Keeper, Any]:
    config = TabTransformerConfig(
        task="classification", input_embed_dim=16, num_heads=2, num_attn_blocks=1,
        head="LinearHead", head_config={"layers": "16", "activation": "ReLU", "initialization": "kaiming"},
    )  # fmt: skip
    return fitted(watch, config, ["label"], last, labelled=True)


@use("pytorch-tabular", "AutoInt regression")
def auto_int(watch: Any) -> tuple[Keeper, Any]:
    config = AutoIntConfig(task="regression", embedding_dim=8, attn_embed_dim=8, num_attn_blocks=1)
    return fitted(watch, config, ["amount"], last, labelled=False)


@use("pytorch-tabular", "DenoisingAutoEncoder pretraining", why="three heads of a decoder: the encoder is to be named")
def denoising(watch: Any) -> tuple[Keeper, Any]:
    frame = table(160)
    keeper = Keeper(lambda model: model.featurizer.encoder, output=True)
    monitor = watch()
    config = DenoisingAutoEncoderConfig(
        encoder_config=CategoryEmbeddingModelConfig(task="backbone", layers="32-16"),
        decoder_config=CategoryEmbeddingModelConfig(task="backbone", layers="16-32"),
    )
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        model = tabular(config, [], folder)
        model.pretrain(train=frame[:96], validation=frame[96:], callbacks=[monitor, keeper])
    return keeper, monitor
