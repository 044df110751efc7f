"""The runs behind ``validity.py``: real training on scikit-learn's digits, intact or with one planted failure.

A seed draws the split, the weights, and what people vary: network, width, learning rate, batch size. Each run yields
its windows as the monitor recorded them, on validation rows and on clean training rows, with accuracies beside.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from validity_models import CLASSES, SWITCH, Joint, NewMix, Setup, Supervised, augment

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.history.record import Record

EPOCHS, FULL = 30, 60


SIGNALS = (
    "feature_std", "effective_rank", "rankme", "mean_resultant", "uniformity", "participation_ratio",
    "top_eigenvalue_share", "dead_fraction", "knn_accuracy", "nc1", "nc1_ratio", "cdnv", "nc2_equiangle",
    "tail_min_angle", "tolerance", "hubness", "id_two_nn", "knn_log_density",
)  # fmt: skip


@dataclass
class Data:
    """Digits, split anew by each seed."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, seed: int) -> Data:
        x, y = load_digits(return_X_y=True)
        images, labels = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        parts = [order[:997], order[997:1397], order[1397:]]
        return cls(*((images[part], labels[part]) for part in parts))

    def long_tailed(self, seed: int) -> None:
        """Classes of the training rows from all to a tenth; the rare ones are 7, 8 and 9."""
        x, y = self.train
        keep = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 10.0 ** (-y / 9)
        self.train = x[keep], y[keep]

    def noisy(self, seed: int, share: float = 0.4) -> None:
        """A share of the training labels is drawn anew."""
        x, y = self.train
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(y), generator=generator) < share
        self.train = x, torch.where(wrong, torch.randint(CLASSES, y.shape, generator=generator), y)


def pretrained(module: nn.Module, head: nn.Module, x: Tensor, y: Tensor, steps: int = 80) -> None:
    """Weights to start from: a short supervised training."""
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(steps):
        pick = torch.randint(len(x), (128,))
        loss = F.cross_entropy(head(module(augment(x[pick]))), y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@dataclass(frozen=True)
class Method:
    """A way to train. ``planted``: the kind of failure it has, or None; ``twin``: the same without it."""

    planted: str | None
    model: Callable[[Setup], pl.LightningModule]
    twin: str = ""
    begins: int = 0  # epoch at which the failure is switched on
    data: tuple[str, ...] = ()
    callbacks: Callable[[], list[pl.Callback]] = list
    start: str = ""


def _joint(method: str, broken: bool) -> Callable[[Setup], Joint]:
    return lambda setup: Joint(setup, method, broken)


def _supervised(happens: str = "", decay: float = 5e-4, norm: bool = True) -> Callable[[Setup], Supervised]:
    return lambda setup: Supervised(setup, happens, decay, norm)


METHODS: dict[str, Method] = {
    # planted
    "simsiam_no_stop_gradient": Method("collapse", _joint("simsiam", True), "simsiam"),
    "vicreg_no_variance": Method("collapse", _joint("vicreg", True), "vicreg"),
    "byol_target_is_online": Method("collapse", _joint("byol", True), "byol"),
    "pairs_cosine_only": Method("collapse", _joint("pairs", True), "pairs_contrastive", start="all"),
    "dying_relu": Method("collapse", _supervised("dying_relu", norm=False), "no_norm", SWITCH),
    "rank_loss": Method("collapse", _supervised("rank_loss"), "linear_bottleneck", SWITCH),
    "noisy_labels": Method("memorising", _supervised("memorise", 0.0), "adam_no_decay", data=("noisy",)),
    "tail_merge": Method("tail_merging", _supervised("tail_merge"), "long_tail", SWITCH, data=("long_tailed",)),
    # intact
    "simsiam": Method(None, _joint("simsiam", False)),
    "vicreg": Method(None, _joint("vicreg", False)),
    "byol": Method(None, _joint("byol", False)),
    "pairs_contrastive": Method(None, _joint("pairs", False), start="all"),
    "supervised": Method(None, _supervised()),
    "supervised_no_decay": Method(None, _supervised(decay=0.0)),
    "adam_no_decay": Method(None, _supervised("memorise", 0.0)),
    "no_norm": Method(None, _supervised(norm=False)),
    "linear_bottleneck": Method(None, _supervised("linear")),
    "long_tail": Method(None, _supervised(), data=("long_tailed",)),
    "reweighting": Method(None, _supervised("reweight"), data=("long_tailed",)),
    "unfreezing": Method(None, _supervised("unfreeze"), start="half"),
    "warmup_restarts": Method(None, _supervised("restarts")),
    "new_data_mix": Method(None, _supervised(), callbacks=lambda: [NewMix()]),
    "weight_average": Method(
        None, _supervised(), callbacks=lambda: [EMAWeightAveraging(decay=0.9, update_starting_at_epoch=SWITCH)]
    ),
}


# Full-length supervised runs: what a stop saves.
LONG: dict[str, Method] = {
    "mlp": Method(None, lambda setup: Supervised(replace(setup, conv=False))),
    "convolutional": Method(None, lambda setup: Supervised(replace(setup, conv=True))),
    "residual": Method(None, _supervised("residual")),
    "augmented": Method(None, lambda setup: Supervised(replace(setup, conv=True), "augmented")),
}


class Outcomes(pl.Callback):
    """What is known besides geometry, at each validation."""

    def __init__(self, test: tuple[Tensor, Tensor]) -> None:
        self.test = test
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        seen = trainer.callback_metrics
        row = {n: float(v) for n, v in seen.items() if n.startswith("val/") and n.endswith("/dataloader_idx_0")}
        row = {n.split("/")[1]: v for n, v in row.items()}
        if isinstance(pl_module, Supervised):
            row["test_accuracy"] = pl_module.test_accuracy(*self.test)
        self.rows.append(row)


def prepare(name: str, seed: int) -> tuple[pl.LightningModule, Data, Setup]:
    """The model and its data, from the seed alone."""
    method, setup, data = {**METHODS, **LONG}[name], Setup.of(seed), Data.of(seed)
    pl.seed_everything(seed, verbose=False)
    for change in method.data:
        getattr(data, change)(seed)
    model: Any = method.model(setup)
    if method.start:
        x, y = data.train
        keep = y < (5 if method.start == "half" else CLASSES)
        module = model.backbone if isinstance(model, Supervised) else model.encoder
        pretrained(module, nn.Linear(setup.dim, CLASSES), x[keep], y[keep])
    return model, data, setup


def one_run(name: str, seed: int, epochs: int = EPOCHS, *callbacks: pl.Callback, **trainer: Any) -> dict[str, Any]:
    """Train; returns the monitor's windows and the outcomes, as plain numbers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    model, data, setup = prepare(name, seed)
    train, val = TensorDataset(*data.train), TensorDataset(*data.val)
    added = {**METHODS, **LONG}[name].callbacks()
    mixed = any(isinstance(callback, NewMix) for callback in added)
    sampler = WeightedRandomSampler([1.0] * len(train), len(train)) if mixed else None
    loaders = (
        DataLoader(train, setup.batch, shuffle=sampler is None, sampler=sampler, drop_last=True),
        [DataLoader(val, 200), DataLoader(TensorDataset(*(part[:500] for part in data.train)), 250)],
    )
    layer = {"layer": "encoder"} if isinstance(model, Joint) else {"head": "fc"}
    monitor = FeatureGeometryMonitor(
        **layer,
        num_classes=CLASSES,
        signals=SIGNALS,
        loader_names=("val", "train_clean"),
        reference="train_clean",
    )
    outcomes = Outcomes(data.test)
    pl.Trainer(
        **{
            "max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, **trainer,
        },
        callbacks=[monitor, outcomes, *added, *callbacks],
    ).fit(model, *loaders)  # fmt: skip
    return {
        "method": name,
        "seed": seed,
        "setup": vars(setup),
        "stages": {
            stage: columns([r for r in monitor.history if r.stage == stage]) for stage in ("val", "train_clean")
        },
        "outcomes": outcomes.rows,
    }


def columns(records: list[Record]) -> dict[str, Any]:
    """Records as lists, with None for gaps."""
    return {
        "epoch": [record.epoch for record in records],
        "step": [record.step for record in records],
        "rows": [int(record.values.get("n_samples", 0)) for record in records],
        "values": {s: [_short(record.values.get(s), 6) for record in records] for s in SIGNALS},
        "errors": {s: [_short(record.standard_errors.get(s), 3) for record in records] for s in SIGNALS},
        "gaps": [record.gaps if len(record.gaps) > 2 else {} for record in records],
    }


def _short(value: float | None, digits: int) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")


def records(run: dict[str, Any], stage: str) -> list[Record]:
    """A stored run's windows, as the monitor had made them."""
    kept = run["stages"][stage]
    return [
        Record(
            number, stage, None, kept["epoch"][number], kept["step"][number],
            {s: v[number] for s, v in kept["values"].items() if v[number] is not None}
            | {"n_samples": float(kept["rows"][number])},
            {s: v[number] for s, v in kept["errors"].items() if v[number] is not None},
            kept["gaps"][number],
        )
        for number in range(len(kept["epoch"]))
    ]  # fmt: skip
