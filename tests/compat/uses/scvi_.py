"""scvi-tools: models of generated counts, each trained by its own ``train(callbacks=[...])``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scvi
from anndata import AnnData
from torch import Tensor, nn, where

from tests.compat.keeper import Keeper
from tests.compat.kit import use

TRAIN: dict[str, Any] = {
    "max_epochs": 2, "accelerator": "cpu", "check_val_every_n_epoch": 1, "train_size": 0.6, "batch_size": 32,
    "enable_progress_bar": False,
}  # fmt: skip


def cells(n: int = 160, genes: int = 40, types: int = 4, unknown: bool = False) -> AnnData:
    """Counts of cells of some types from two batches."""
    random = np.random.default_rng(0)
    label = np.arange(n) % types
    rates = random.gamma(1.0, 3.0, (types, genes))[label] * random.gamma(5.0, 0.2, (n, 1))
    adata = AnnData(random.poisson(rates).astype(np.float32))
    names = np.array(["B", "NK", "T", "Mono"])[label]
    adata.obs["cell_type"] = np.where(random.permutation(n) < n // 4, "Unknown", names) if unknown else names
    adata.obs["batch"] = np.where(random.random(n) < 0.5, "donor1", "donor2")
    adata.obsm["protein_expression"] = random.poisson(random.gamma(2.0, 5.0, (types, 6))[label]).astype(np.float32)
    return adata


def trained(watch: Any, model: Any, keeper: Keeper, **arguments: Any) -> tuple[Keeper, Any]:
    """Trains a model with both callbacks."""
    monitor = watch()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="scvi")
        model.train(callbacks=[monitor, keeper], **(TRAIN | arguments))
    return keeper, monitor


def cell_types(batch: Any) -> Tensor:
    """The registered labels."""
    return batch["labels"][:, 0]


@use("scvi-tools", "SCVI", then={"layer": "module.z_encoder.mean_encoder"}, why="the latent mean")
def scvi_model(watch: Any) -> tuple[Keeper, Any]:
    adata = cells()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, n_hidden=32, n_latent=8)
    return trained(watch, model, Keeper(lambda plan: plan.module.z_encoder.mean_encoder, output=True))


@use("scvi-tools", "SCVI, labels_key", {"num_classes": 4}, why="the latent mean")
def scvi_labelled(watch: Any) -> tuple[Keeper, Any]:
    adata = cells()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = scvi.model.SCVI(adata, n_hidden=32, n_latent=8)
    keeper = Keeper(lambda plan: plan.module.z_encoder.mean_encoder, labels=cell_types, output=True)
    return trained(watch, model, keeper)


@use(
    "scvi-tools",
    "SCANVI from_scvi_model, cells of unknown type",
    {"ignore_index": 4},
    why="all cells, not the labelled ones beside them",
)
def scanvi(watch: Any) -> tuple[Keeper, Any]:
    adata = cells(unknown=True)
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    pretrained = scvi.model.SCVI(adata, n_hidden=32, n_latent=8)
    pretrained.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model = scvi.model.SCANVI.from_scvi_model(pretrained, unlabeled_category="Unknown")
    keeper = Keeper(
        lambda plan: [m for m in plan.module.classifier.modules() if isinstance(m, nn.Linear)][-1],
        labels=lambda batch: where(cell_types(batch[0]) < 4, cell_types(batch[0]), -1),
    )
    return trained(watch, model, keeper)


@use("scvi-tools", "TOTALVI", then={"layer": "module.encoder.z_mean_encoder"}, why="the latent mean")
def totalvi(watch: Any) -> tuple[Keeper, Any]:
    adata = cells()
    scvi.model.TOTALVI.setup_anndata(adata, protein_expression_obsm_key="protein_expression", batch_key="batch")
    model = scvi.model.TOTALVI(adata, latent_distribution="normal", n_latent=8)
    keeper = Keeper(lambda plan: plan.module.encoder.z_mean_encoder, output=True)
    return trained(watch, model, keeper)


@use("scvi-tools", "LinearSCVI", then={"layer": "module.z_encoder.mean_encoder"}, why="the latent mean")
def linear_scvi(watch: Any) -> tuple[Keeper, Any]:
    adata = cells()
    scvi.model.LinearSCVI.setup_anndata(adata)
    model = scvi.model.LinearSCVI(adata, n_hidden=32, n_latent=8)
    keeper = Keeper(lambda plan: plan.module.z_encoder.mean_encoder, output=True)
    return trained(watch, model, keeper)


@use("scvi-tools", "SOLO doublet classifier")
def solo(watch: Any) -> tuple[Keeper, Any]:
    adata = cells()
    scvi.model.SCVI.setup_anndata(adata)
    pretrained = scvi.model.SCVI(adata, n_hidden=32, n_latent=8)
    pretrained.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model = scvi.external.SOLO.from_scvi_model(pretrained)
    keeper = Keeper(lambda plan: [m for m in plan.module.modules() if isinstance(m, nn.Linear)][-1], labels=cell_types)
    return trained(watch, model, keeper)
