"""The runs behind ``validity.py``: real training of many families, intact or with one planted failure.

Each run yields its windows as the monitor recorded them on validation rows, and beside them what the run is for: the
validation loss, and a linear probe on the features.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
import validity_data
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from validity_data import Data, Rows, augment
from validity_families import FAMILIES, SWITCH, Fault, begins, callbacks_of, variants
from validity_methods import Joint, Supervised, Trained, build
from validity_networks import Setup, features_of

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.errors import Note, NoteKind
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.functional.views import alignment, lidar

EPOCHS = 24
MOST_STEPS = 14  # of an epoch
PROBED = 400  # rows that a probe is fitted on, and judged on

UNLABELLED = (
    "feature_std", "effective_rank", "rankme", "mean_resultant", "uniformity", "participation_ratio", "stable_rank",
    "top_eigenvalue_share", "alpha_req", "alpha_req_r2", "spectral_spread", "numerical_rank", "coding_rate",
    "dead_fraction", "hubness", "id_two_nn", "id_mle", "knn_log_density", "knn_entropy", "outlier_dims",
)  # fmt: skip
LABELLED = ("knn_accuracy", "nc1", "nc1_ratio", "cdnv", "nc2_equiangle", "tail_min_angle", "tolerance")
SIGNALS = (*UNLABELLED, *LABELLED)


class Loaders(pl.LightningDataModule):
    """Training rows in batches; validation rows, which become fewer in the middle of a run where that is the change.

    ``refers``: beside them clean training rows, as a reference.
    """

    def __init__(self, data: Data, batch: int, shrinks: bool, refers: bool) -> None:
        super().__init__()
        self.data, self.batch, self.shrinks = data, batch, shrinks
        x, y = data.train
        self.clean: Rows | None = (x[:500].clone(), y[:500].clone()) if refers else None

    def train_dataloader(self) -> DataLoader[Any]:
        x, _ = self.data.train
        batch = max(min(self.batch, len(x) // 3), 2)
        return DataLoader(TensorDataset(*self.data.train), batch, shuffle=True, drop_last=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        few = self.shrinks and self.trainer is not None and self.trainer.current_epoch >= SWITCH
        both = [tuple(part[: 64 if few else None] for part in self.data.val), *([self.clean] if self.clean else [])]
        return [DataLoader(TensorDataset(*rows), 250) for rows in both]


class Outcomes(pl.Callback):
    """What is known besides geometry, at each validation."""

    def __init__(self, data: Data, label_free: bool) -> None:
        self.data, self.label_free = data, label_free
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Trained)
        seen = {n.removesuffix("/dataloader_idx_0"): float(v) for n, v in trainer.callback_metrics.items()}
        row = {n.removeprefix("val/"): v for n, v in seen.items() if n.startswith("val/") and "idx_" not in n}
        row["probe"] = probe(pl_module, self.data.train, self.data.test, self.data.classes)
        if self.label_free:
            state = torch.get_rng_state()
            row |= of_views(pl_module, self.data.val[0][:100], pl_module.setup_.strength)
            torch.set_rng_state(state)
        self.rows.append({name: short(value, 5) for name, value in row.items()})


def _flat(module: Trained, rows: Rows) -> Rows:
    x, y = rows[0][:PROBED], rows[1][:PROBED]
    f = F.normalize(features_of(module.encoder, x).double(), dim=1)
    return f[:: max(len(f) // 1500, 1)], y.reshape(len(f), -1).squeeze(1)[:: max(len(f) // 1500, 1)]


def probe(module: Trained, train: Rows, test: Rows, classes: int) -> float:
    """A ridge classifier's accuracy on features of unit length, or R² where targets are numbers; [0, 1]."""
    (a, ya), (b, yb) = _flat(module, train), _flat(module, test)
    if not (a.isfinite().all() and b.isfinite().all()):
        return 0.0
    a, b = a - a.mean(0), b - a.mean(0)
    t = (F.one_hot(ya, classes) if classes else ya.reshape(len(ya), -1)).double()
    ridge = 1e-3 * len(a)
    if a.shape[1] <= len(a):
        w = torch.linalg.solve(a.T @ a + ridge * torch.eye(a.shape[1]), a.T @ (t - t.mean(0)))
    else:
        w = a.T @ torch.linalg.solve(a @ a.T + ridge * torch.eye(len(a)), t - t.mean(0))
    told = b @ w + t.mean(0)
    if classes:
        return (told.argmax(1) == yb).double().mean().item()
    yb = yb.reshape(len(yb), -1).double()
    return max(1 - ((told - yb).square().mean() / (yb - yb.mean(0)).square().mean()).item(), 0.0)


def of_views(module: Trained, x: Tensor, strength: float) -> dict[str, float]:
    """LiDAR and alignment of augmented copies, for choosing a checkpoint."""
    views = torch.stack([features_of(module.encoder, augment(x, strength)) for _ in range(5)], 1)
    try:
        return {"lidar": lidar(views.double()).value, "alignment": alignment(views.double()).value}
    except Exception:  # a collapsed run has none
        return {}


def prepare(name: str, seed: int) -> tuple[Trained, Data, Setup, int]:
    """The model and its data, from the seed alone, and the epoch at which its fault begins."""
    family_name, fault = variants()[name]
    family, setup = FAMILIES[family_name], Setup.of(seed)
    pl.seed_everything(seed, verbose=False)
    slow = family.net in ("gru", "transformer", "vit", "residual")
    rows = min(MOST_STEPS * setup.batch, 300 if slow else 900), min(setup.val_rows, 400 if slow else 2000)
    if family.data == "text":
        rows = rows[0] // 2, rows[1] // 10  # of pieces
    data = validity_data.of(family.data, seed, *rows)
    if family.change == "long_tail":
        data.long_tailed(seed)
    if family.change == "noisy":
        data.noisy(seed, 0.4 if fault == "labels_noisy" else 0.1)
    at = begins(family, fault, setup)
    of_method = at if fault and fault == family.method_fault else None
    model = build(family.method, family.net, family.norm, data, setup, family.optimizer, family.schedule, of_method)
    return model, data, setup, at


def one_run(name: str, seed: int, epochs: int = EPOCHS, *callbacks: pl.Callback, **trainer: Any) -> dict[str, Any]:
    """Train; returns the monitor's windows and the outcomes, as plain numbers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    family_name, fault = variants()[name]
    family = FAMILIES[family_name]
    model, data, setup, at = prepare(name, seed)
    labelled = data.classes > 0 and family.data != "text"
    watched: dict[str, Any] = {"head": "head"} if isinstance(model, Supervised) else {"layer": "encoder"}
    if isinstance(model, Joint):
        watched["views"] = None
    refers = family.change == "long_tail"  # rare classes are told by the training rows' counts
    if refers:
        watched |= {"loader_names": ("val", "train_clean"), "reference": "train_clean"}
    monitor = FeatureGeometryMonitor(
        **watched,
        labels=1 if labelled else None,
        num_classes=data.classes if labelled else None,
        signals=SIGNALS if labelled else UNLABELLED,
    )
    outcomes = Outcomes(data, family.label_free)
    of_fault = [Fault(fault, at, setup.severity)] if fault in family.faults else []
    shrinks = family.change == "fewer_rows"
    pl.Trainer(
        **{
            "max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
            "reload_dataloaders_every_n_epochs": int(shrinks), **trainer,
        },
        callbacks=[monitor, outcomes, *callbacks_of(family), *of_fault, *callbacks],
    ).fit(model, Loaders(data, setup.batch, shrinks, refers))  # fmt: skip
    return {
        "run": name,
        "family": family_name,
        "fault": fault,
        "seed": seed,
        "begins": at if fault else None,
        "setup": vars(setup),
        "classes": data.classes,
        "val": columns([record for record in monitor.history if record.stage == "val"]),
        "outcomes": outcomes.rows,
    }


def columns(records: list[Record]) -> dict[str, Any]:
    """Records as lists, with None for gaps."""
    present = [name for name in SIGNALS if any(name in record.values for record in records)]
    return {
        "epoch": [record.epoch for record in records],
        "step": [record.step for record in records],
        "rows": [int(record.values.get("n_samples", 0)) for record in records],
        "frozen": [any(note.kind is NoteKind.FROZEN for note in record.notes) for record in records],
        "ceilings": [short(record.ceilings.get("effective_rank"), 5) for record in records],
        "width": next((int(w) for record in records if (w := record.facts.get("dim"))), 0),
        "needed": next((int(n) for record in records if (n := record.facts.get("needed_directions"))), 0),
        "values": {s: [short(record.values.get(s), 5) for record in records] for s in present},
        "errors": {s: [short(record.standard_errors.get(s), 3) for record in records] for s in present},
    }


def short(value: float | None, digits: int) -> float | None:
    """A number with so many digits."""
    return None if value is None else float(f"{value:.{digits}g}")


def records(run: dict[str, Any]) -> list[Record]:
    """A stored run's windows, as the monitor had made them."""
    kept = run["val"]
    return [
        Record(
            number, "val", None, kept["epoch"][number], kept["step"][number],
            {s: v[number] for s, v in kept["values"].items() if v[number] is not None}
            | {"n_samples": float(kept["rows"][number])},
            {s: v[number] for s, v in kept["errors"].items() if v[number] is not None},
            ceilings={"effective_rank": c} if (c := kept["ceilings"][number]) is not None else {},
            notes=[Note(NoteKind.FROZEN, "frozen")] if kept["frozen"][number] else [],
            facts={"dim": kept["width"], "needed_directions": kept["needed"]},
        )
        for number in range(len(kept["epoch"]))
    ]  # fmt: skip
