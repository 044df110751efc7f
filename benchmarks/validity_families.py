"""The families of the validity benchmark: data × network × method × optimiser, and what can go wrong with each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from validity_networks import Setup

SWITCH = 12  # epoch at which what happens to an intact run happens


@dataclass(frozen=True)
class Family:
    """A way to train. ``faults``: what can be planted in it; ``method_fault``: that the method can be broken itself."""

    data: str
    net: str
    method: str = "supervised"
    norm: str = "batch"
    optimizer: str = "sgd"
    schedule: str = ""
    change: str = ""  # something that happens to an intact run
    faults: tuple[str, ...] = ()
    method_fault: str = ""

    @property
    def label_free(self) -> bool:
        """Whether it learns without labels."""
        return self.method not in ("supervised", "augmented")


LR, RANK, DEAD, SHRINK = "rate_doubles", "rank_lost", "units_die", "weights_shrink"
OTHER_KINDS = {"labels_noisy": "memorising", "tail_merges": "tail_merging"}  # faults that are no collapse
FAMILIES: dict[str, Family] = {
    # classes of images
    "digits_mlp": Family("digits", "mlp", faults=(RANK, SHRINK)),
    "digits_mlp_plain": Family("digits", "mlp", norm="", optimizer="adam", faults=(LR, DEAD)),
    "digits_one_layer": Family("digits", "one_layer", norm="", optimizer="adam"),
    "digits_cnn": Family("digits", "cnn", "augmented", schedule="cosine", faults=(RANK,)),
    "digits_residual": Family("digits", "residual", schedule="restarts"),
    "digits_vit": Family("digits", "vit", norm="layer", optimizer="adamw", schedule="cosine", faults=(LR,)),
    "digits_long_tail": Family("digits", "mlp", change="long_tail", faults=("tail_merges",)),
    "digits_noisy": Family("digits", "mlp", optimizer="adam", change="noisy", faults=("labels_noisy",)),
    "digits_unfrozen": Family("digits", "mlp", change="unfreeze"),
    "digits_averaged": Family("digits", "cnn", change="averaged"),
    "digits_shrinking": Family("digits", "mlp", norm="layer", optimizer="adam", change="fewer_rows"),
    "digits_new_views": Family("digits", "cnn", change="augmented_late"),
    "patches_cnn": Family("patches", "cnn", schedule="one_cycle", faults=(DEAD,)),
    "patches_residual": Family("patches", "residual", "augmented", "layer", "adamw", faults=(LR,)),
    "turned_cnn": Family("turned", "cnn", schedule="halved"),
    # tables
    "tumours_mlp": Family("tumours", "mlp", norm="layer", optimizer="adam", faults=(RANK,)),
    "mixture_mlp": Family("mixture", "mlp", norm="", optimizer="adamw", faults=(LR, SHRINK)),
    "tags_mlp": Family("tags", "mlp", optimizer="adam"),
    # numbers
    "diabetes_mlp": Family("diabetes", "mlp", norm="", optimizer="adam"),
    "friedman_mlp": Family("friedman", "mlp", norm="layer", optimizer="adamw", schedule="cosine", faults=(LR,)),
    "digit_values_cnn": Family("digit_values", "cnn", optimizer="adam", faults=(DEAD,)),
    # series, characters, sets, graphs
    "power_gru": Family("power", "gru", norm="", optimizer="adam", faults=(LR,)),
    "leaves_transformer": Family("leaves", "transformer", norm="layer", optimizer="adamw"),
    "waves_gru": Family("waves", "gru", norm="", optimizer="adam", schedule="halved"),
    "text_gru": Family("text", "gru", norm="", optimizer="adam", faults=(LR,)),
    "text_transformer": Family("text", "transformer", norm="layer", optimizer="adamw", schedule="cosine", faults=(LR,)),
    "shapes_sets": Family("shapes", "sets", norm="batch", optimizer="adam", faults=(DEAD, RANK)),
    "graphs_gcn": Family("graphs", "graphs", norm="", optimizer="adam"),
    # without labels
    "simclr_digits": Family("digits", "cnn", "simclr", method_fault="no_negatives"),
    "simclr_patches": Family("patches", "residual", "simclr", method_fault="no_negatives"),
    "simclr_mixture": Family("mixture", "mlp", "simclr", optimizer="adam", method_fault="no_negatives"),
    "simsiam_digits": Family("digits", "mlp", "simsiam", method_fault="no_stop_gradient"),
    "simsiam_plain": Family("digits", "mlp", "simsiam", norm="", method_fault="no_stop_gradient"),
    "simsiam_patches": Family("patches", "cnn", "simsiam", schedule="cosine", method_fault="no_stop_gradient"),
    "byol_digits": Family("digits", "cnn", "byol", method_fault="target_is_online"),
    "byol_waves": Family("waves", "gru", "byol", norm="", optimizer="adam", method_fault="target_is_online"),
    "vicreg_digits": Family("digits", "mlp", "vicreg", method_fault="no_variance"),
    "vicreg_mixture": Family("mixture", "mlp", "vicreg", optimizer="adam", method_fault="no_variance"),
    "barlow_digits": Family("digits", "cnn", "barlow", optimizer="adam", method_fault="no_correlations"),
    "barlow_patches": Family("patches", "cnn", "barlow", schedule="cosine", method_fault="no_correlations"),
    "dino_digits": Family("digits", "vit", "dino", "layer", "adamw", "cosine", method_fault="no_centring"),
    "dino_patches": Family("patches", "cnn", "dino", method_fault="no_centring"),
    "pairs_digits": Family("digits", "mlp", "pairs", method_fault="no_negatives"),
    "pairs_shapes": Family("shapes", "sets", "pairs", optimizer="adam", method_fault="no_negatives"),
    "towers_patches": Family("patches", "cnn", "two_towers", optimizer="adam", method_fault="no_negatives"),
    "masked_digits": Family("digits", "vit", "masked", "layer", "adamw", faults=(LR,)),
    "masked_mixture": Family("mixture", "mlp", "masked", optimizer="adam", faults=(LR, RANK)),
    "masked_waves": Family("waves", "gru", "masked", norm="", optimizer="adam"),
}  # fmt: skip


def variants() -> dict[str, tuple[str, str]]:
    """Run name -> family and fault ("" if intact)."""
    found = {}
    for name, family in FAMILIES.items():
        for fault in ("", *family.faults, *([family.method_fault] if family.method_fault else ())):
            found[f"{name}/{fault or 'intact'}"] = (name, fault)
    return found


# --- what goes wrong -------------------------------------------------------------------------------------------------


def last_linear(net: nn.Module) -> nn.Linear:
    """The layer that makes the features."""
    return [module for module in net.modules() if isinstance(module, nn.Linear)][-1]


class Fault(pl.Callback):
    """A fault of the training from an epoch on. ``severity``: 0 to 2."""

    def __init__(self, name: str, begins: int, severity: int) -> None:
        self.name, self.begins, self.severity = name, begins, severity

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.name == "tail_merges" and trainer.current_epoch >= self.begins:
            y = trainer.train_dataloader.dataset.tensors[1]
            y[y >= 7] = 7  # a mapping of labels went wrong: the three rare classes are one
        if self.name == LR and trainer.current_epoch >= self.begins:  # a schedule with its sign turned
            for group in trainer.optimizers[0].param_groups:
                group["lr"] *= (1.6, 2.0, 4.0)[self.severity]
            for config in trainer.lr_scheduler_configs:
                config.scheduler.base_lrs = [rate * 2 for rate in config.scheduler.base_lrs]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.current_epoch < self.begins or self.name not in (RANK, DEAD, SHRINK):
            return
        steps = max(trainer.num_training_batches, 1)
        with torch.no_grad():
            layer = last_linear(pl_module.encoder)
            if self.name == RANK:  # a low-rank adaptation gone wrong: all but a few directions fade
                u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
                s[(4, 2, 1)[self.severity] :] *= (0.6, 0.4, 0.2)[self.severity] ** (1 / steps)
                layer.weight.copy_(u * s @ v)
            elif self.name == DEAD:  # a bias that drifts below zero
                layer.bias.sub_((0.3, 0.6, 1.5)[self.severity] / steps * layer.weight.norm(dim=1))
            elif self.name == SHRINK:  # a decay far too strong
                for p in pl_module.encoder.parameters():
                    p.mul_((0.7, 0.5, 0.3)[self.severity] ** (1 / steps))


# --- what happens to intact runs -------------------------------------------------------------------------------------


class Change(pl.Callback):
    """Something that is no fault: late unfreezing, other class weights, views from now on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        late, model = trainer.current_epoch >= SWITCH, pl_module
        if self.name == "unfreeze":
            model.encoder.requires_grad_(late)
        if self.name == "augmented_late":
            model.views = late
        if self.name == "long_tail" and late:
            counts = torch.bincount(trainer.train_dataloader.dataset.tensors[1], minlength=model.classes)
            model.class_weights = counts.sum() / counts.clamp_min(1) / model.classes


def callbacks_of(family: Family) -> list[pl.Callback]:
    """What happens to this family's intact runs."""
    if family.change == "averaged":
        return [EMAWeightAveraging(decay=0.9, update_starting_at_epoch=SWITCH)]
    return [Change(family.change)] if family.change else []


def begins(family: Family, fault: str, setup: Setup) -> int:
    """The epoch at which a fault is switched on: a method may lack something from the start."""
    return 0 if fault == family.method_fault and setup.severity < 2 else setup.late
