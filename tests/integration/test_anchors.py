"""Windows against what is not of their run (a file, another run, a model that is not trained), and the best window."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import Display, FeatureGeometryMonitor, ProbeSet, Windows
from lightning_featgeo.errors import FeatureGeometryWarning
from tests._helpers import oracles
from tests._helpers.anchors import ANCHORED, teacher
from tests._helpers.data import digits
from tests._helpers.models import Classifier, Frozen, loaders, strict, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import several
from tests._helpers.still import VAL, digit_loaders, still


def made(model: nn.Module, x: Tensor) -> np.ndarray:
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return model(x).double().numpy()


class Each(pl.Callback):
    """Features of the validation set, as of each validation."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.features = x, []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.features.append(made(pl_module.net[:-1], self.x))


def validation() -> Tensor:
    return torch.cat([x for x, _ in loaders()[1]])


def test_a_model_is_asked_in_the_same_windows_and_left_as_it_is() -> None:
    model, each = teacher().train(), Each(validation())
    before = copy.deepcopy(model.state_dict())
    monitor = strict(signals=ANCHORED, windows=Windows(anchor=model))
    trainer(monitor, each, max_epochs=2).fit(Classifier(), *loaders())
    theirs = made(model, each.x)
    for record, ours in zip(monitor.history, each.features, strict=True):
        assert record.values["cka_drift_anchor"] == pytest.approx(1 - oracles.cka(ours, theirs), rel=1e-5)
        assert record.values["neighbor_overlap_anchor"] == pytest.approx(oracles.overlap(ours, theirs), abs=2e-3)
    assert model.training
    assert model.net[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("stages", ["train", "val"])
def test_training_is_what_it_is_without_an_anchor(stages: str) -> None:
    def weights(anchor: nn.Module | None) -> Tensor:
        pl.seed_everything(3, verbose=False)
        model, windows = Classifier(dropout=0.3), Windows() if anchor is None else Windows(anchor=anchor)
        signals = ["feature_std"] if anchor is None else ["feature_std", *ANCHORED]
        monitor = strict(signals=signals, stages=stages, windows=windows)
        trainer(monitor, max_epochs=2).fit(model, *loaders())
        assert anchor is None or set(ANCHORED) < set(monitor.history.records[-1].values)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    without = weights(None)
    assert torch.equal(without, weights(teacher()))


def test_shuffled_training_windows_have_a_model_too() -> None:
    """Samples need not be those of the window before."""
    rows: list[Tensor] = []

    def first(batch: Any) -> Tensor:
        rows.append(batch[0])
        return batch[0]

    model = Frozen()
    monitor = strict(signals=ANCHORED[:1], stages="train", windows=Windows(anchor=first))
    trainer(monitor, max_epochs=1, limit_val_batches=0).fit(model, loaders()[0])
    x = torch.cat(rows)
    assert len(x) == 256
    right = 1 - oracles.cka(made(model.net[:-1], x), x.double().numpy())
    assert monitor.history.records[0].values["cka_drift_anchor"] == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("kind", ["npz", "npz, in another order", "npy", "pt", "more than are read"])
def test_rows_of_a_file(kind: str, tmp_path: Path) -> None:
    each, path = Each(validation()), tmp_path / f"anchor.{kind[:3].strip(',')}"
    theirs = made(teacher(), each.x)
    if kind == "npy":
        np.save(path, theirs)
    elif kind == "pt":
        torch.save({"features": torch.tensor(theirs)}, path)
    elif kind == "npz":
        np.savez(path, rows=theirs, labels=torch.cat([y for _, y in loaders()[1]]).numpy())
    else:
        path = tmp_path / "anchor.npz"
        order = np.random.default_rng(0).permutation(len(theirs))
        more = np.concatenate([theirs, theirs[:50]]) if kind[0] == "m" else theirs[order]
        np.savez(path, rows=more, samples=np.arange(len(more)) if kind[0] == "m" else order)
    monitor = strict(signals=ANCHORED, windows=Windows(anchor=path))
    trainer(monitor, each, max_epochs=2).fit(Classifier(), *loaders())
    for record, ours in zip(monitor.history, each.features, strict=True):
        assert record.values["cka_drift_anchor"] == pytest.approx(1 - oracles.cka(ours, theirs), rel=1e-5)


def test_the_windows_of_another_run(tmp_path: Path) -> None:
    first, keep = Classifier(), ModelCheckpoint(tmp_path, "one")
    run = trainer(strict(signals=["cka_drift"]), keep, max_epochs=2, enable_checkpointing=True)
    run.fit(first, *loaders())
    each = Each(validation())
    signals = [*ANCHORED, "compatibility_anchor", "class_drift_anchor"]
    monitor = strict(signals=signals, windows=Windows(anchor=tmp_path / "one.ckpt"))
    trainer(monitor, each, max_epochs=1).fit(Classifier(), *loaders())
    theirs, found = made(first.net[:-1], each.x), monitor.history.records[0].values
    assert found["cka_drift_anchor"] == pytest.approx(1 - oracles.cka(each.features[0], theirs), rel=1e-5)
    assert found["compatibility_anchor"] < -0.5  # two runs agree on no axis
    assert found["class_drift_anchor"] > 1
    itself = strict(signals=signals, windows=Windows(anchor=tmp_path / "one.ckpt"))
    trainer(itself).validate(first, loaders()[1], verbose=False)
    assert itself.history.records[0].values["class_drift_anchor"] == pytest.approx(0, abs=1e-5)


class Named(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 200

    def __getitem__(self, i: int) -> dict[str, Any]:
        x, y = digits()
        return {"x": x[256 + i] / 16, "y": y[256 + i], "name": f"digit {i}"}


class OfNamed(Classifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch["x"])


@pytest.mark.parametrize("ids", [True, False])
def test_a_shuffled_loader_finds_rows_by_id(ids: bool, tmp_path: Path) -> None:
    each, path = Each(validation()), tmp_path / "anchor.npz"
    theirs, order = made(teacher(), each.x), np.random.default_rng(0).permutation(200)
    named = {"ids": np.array([f"digit {i}" for i in order])} if ids else {}
    np.savez(path, rows=theirs[order], **named)
    monitor = FeatureGeometryMonitor(
        signals=ANCHORED[:1], windows=Windows(anchor=path), display=Display(id_key="name"), head="net.3"
    )
    run = trainer(monitor, each, max_epochs=1, num_sanity_val_steps=0)
    shuffled = DataLoader(Named(), 50, shuffle=True)
    if ids:
        run.fit(OfNamed(), loaders()[0], shuffled)
        found = monitor.history.records[0].values["cka_drift_anchor"]
        assert found == pytest.approx(1 - oracles.cka(each.features[0], theirs), rel=1e-5)
        return
    with pytest.warns(FeatureGeometryWarning, match="store them in it as 'ids'"):
        run.fit(OfNamed(), loaders()[0], shuffled)


def test_windows_by_name() -> None:
    x, y = digits()
    clean = DataLoader(TensorDataset(x[:200] / 16, y[:200]), 50)
    monitor = strict(
        signals=ANCHORED[:1], probe_sets={"clean": ProbeSet(clean)}, windows=Windows(anchor={"clean": teacher()})
    )
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    found = [(r.stage, set(r.values) - {"n_samples"}) for r in monitor.history]
    assert found == [("val", set()), ("clean", {ANCHORED[0]})]


class Scripted(Classifier):
    """Logs what it is told to, as if it were its loss."""

    losses = (3.0, 1.0, 2.0, 2.0, 0.5)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("val_told", self.losses[self.trainer.current_epoch])


@pytest.mark.parametrize(("mode", "best"), [("min", (0, 1, 1, 1)), ("max", (0, 0, 0, 0))])
@pytest.mark.parametrize("resumed", [False, True])
def test_the_best_window_before(mode: Any, best: tuple[int, ...], resumed: bool, tmp_path: Path) -> None:
    each, model = Each(validation()), Scripted()

    def monitor() -> FeatureGeometryMonitor:
        return strict(signals=["cka_drift_best", "cka_drift"], windows=Windows(best="val_told", best_mode=mode))

    found = monitor()
    if resumed:
        keep = ModelCheckpoint(tmp_path, "one")
        trainer(monitor(), keep, each, max_epochs=3, enable_checkpointing=True).fit(model, *loaders())
        trainer(found, each, max_epochs=5).fit(model, *loaders(), ckpt_path=tmp_path / "one.ckpt")
    else:
        trainer(found, each, max_epochs=5).fit(model, *loaders())
    ours = [record.values.get("cka_drift_best") for record in found.history]
    assert ours[0] is None
    right = [1 - oracles.cka(each.features[i], each.features[b]) for i, b in enumerate(best, 1)]
    assert ours[1:] == pytest.approx(right, rel=1e-4)


def _of_ranks(size: int, anchor: Any) -> list[dict[str, float]]:
    monitor = FeatureGeometryMonitor(
        signals=ANCHORED, on_error="raise", windows=Windows(anchor=anchor or teacher()), reference=None
    )
    several(size, monitor, max_epochs=2).fit(still(), *digit_loaders())
    return [record.values for record in monitor.history]


def test_processes_agree(tmp_path: Path) -> None:
    (alone,) = on_ranks(1, _of_ranks, 1, None)
    for values in on_ranks(2, _of_ranks, 2, None):
        for mine, right in zip(values, alone, strict=True):
            assert mine == pytest.approx(right, rel=1e-6)
    assert set(alone[0]) == {*ANCHORED, "n_samples"}
    x = torch.cat([batch[0] for batch in digit_loaders()[1]])
    assert len(x) == VAL
    np.savez(tmp_path / "rows.npz", rows=made(teacher(), x))
    for values in on_ranks(2, _of_ranks, 2, tmp_path / "rows.npz"):
        for mine, right in zip(values, alone, strict=True):
            assert mine == pytest.approx(right, rel=1e-5)
