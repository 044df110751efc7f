"""One monitor and one stopper through many fits: folds, trials and sweeps, with evaluations of checkpoints between."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from torch import Tensor, nn

from lightning_featgeo import FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping
from lightning_featgeo.errors import FeatureGeometryWarning, NoteKind
from tests._helpers.models import SAFELY, Classifier, loaders, strict, trainer


def classifier(width: int) -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)))


@pytest.mark.parametrize("between", ["validate", "test"])
def test_what_a_fold_has_seen_is_of_no_other_fold(between: str, tmp_path: Path) -> None:
    signals = ["feature_std", "effective_rank"]
    monitor, stop, alarm = strict(signals=signals), GeometryEarlyStopping("collapse"), GeometryAlarm("converged")
    val = loaders()[1]
    for fold, width in enumerate((48, 24, 32)):  # a checkpoint of other dimensions is no reason to refuse either
        best = ModelCheckpoint(tmp_path, f"{fold}", monitor="val_loss", mode="max")  # that is the first epoch's
        run = trainer(monitor, stop, alarm, best, max_epochs=3, enable_checkpointing=True)
        run.fit(classifier(width), *loaders(shuffle=False))
        alone = strict(signals=signals)
        trainer(alone, max_epochs=3).fit(classifier(width), *loaders(shuffle=False))
        assert [r.values for r in monitor.history] == [r.values for r in alone.history]
        assert [r.window for r in monitor.history] == [0, 1, 2]
        assert [len(one.checks) for one in (*stop.detectors, *alarm.detectors)] == [3, 3]
        getattr(run, between)(None, val, ckpt_path="best", **SAFELY, verbose=False)
        assert [len(one.checks) for one in (*stop.detectors, *alarm.detectors)] == [3, 3]  # as the fit has left them


def test_a_fit_that_resumes_still_takes_up_the_past_after_an_evaluation(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, save_last=True)
    monitor, stop = strict(signals=["feature_std"]), GeometryEarlyStopping("featgeo/val/feature_std")
    run = trainer(monitor, stop, best, max_epochs=2, enable_checkpointing=True)
    run.fit(classifier(48), *loaders())
    run.validate(None, loaders()[1], ckpt_path="best", **SAFELY, verbose=False)
    again = trainer(monitor, stop, max_epochs=4)
    again.fit(classifier(48), *loaders(), ckpt_path=best.last_model_path, **SAFELY)
    assert [r.epoch for r in monitor.history] == [1.0, 2.0, 3.0, 4.0]
    assert len(stop.detectors[0].checks) == 4


class Finetuned(Classifier):
    """A backbone that a callback freezes, and a head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(64, 24), norm, nn.ReLU()), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(24, affine=False)], ids=["still", "statistics move"])
def test_frozen_features_have_not_converged_and_count_from_their_unfreezing(norm: nn.Module) -> None:
    monitor, stop = strict(signals=["feature_std", "effective_rank"]), GeometryEarlyStopping("converged")
    unfreeze = BackboneFinetuning(unfreeze_backbone_at_epoch=10, verbose=False)
    run = trainer(monitor, stop, unfreeze, max_epochs=12)
    with pytest.warns(FeatureGeometryWarning, match='"converged".*no weight before this layer is being trained'):
        run.fit(Finetuned(norm), *loaders())
    frozen = [any(note.kind is NoteKind.FROZEN for note in record.notes) for record in monitor.history]
    assert frozen == [True] * 10 + [False] * 2
    assert run.current_epoch == 12
    assert [check.epoch for check in stop.detectors[0].checks] == [11.0, 12.0]


def test_a_fit_without_a_validation_says_so_and_is_watched_in_training() -> None:
    monitor, stop = FeatureGeometryMonitor(on_error="raise"), GeometryEarlyStopping("collapse")
    trainer(monitor, stop, max_epochs=4, check_val_every_n_epoch=5).fit(Classifier(), *loaders())
    assert [record.stage for record in monitor.history] == ["train"] * 4
    assert (stop.detectors[0].prefix, len(stop.detectors[0].checks)) == ("featgeo/train/", 4)
    monitor = FeatureGeometryMonitor(on_error="raise")
    run = trainer(monitor, max_epochs=2, check_val_every_n_epoch=None, val_check_interval=100)
    with pytest.warns(FeatureGeometryWarning, match=r'no validation ran.*FeatureGeometryMonitor\(stages="train"\)'):
        run.fit(Classifier(), *loaders())


def test_a_layer_that_validation_leaves_out_names_what_ran_in_its_place() -> None:
    class Pretrained(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.projector = nn.Sequential(nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.projector(self.backbone(x))

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.backbone(batch[0])

    monitor = FeatureGeometryMonitor(head="projector")
    with pytest.warns(FeatureGeometryWarning, match=r"'projector' did not run in val; 'backbone' did") as told:
        trainer(monitor, max_epochs=1).fit(Pretrained(), *loaders())
    assert any(
        'FeatureGeometryMonitor(layer="backbone")' in str(w.message).replace("'backbone')", '"backbone")') for w in told
    )
    monitor = FeatureGeometryMonitor(layer="backbone", on_error="raise")
    trainer(monitor, max_epochs=1).fit(Pretrained(), *loaders())
    assert monitor.history.records[-1].values["n_samples"] == 200


def test_loaders_have_their_keys_as_names_and_their_own_signals() -> None:
    train, val = loaders()
    bare = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(val.dataset.tensors[0]), 64)

    class Lenient(Classifier):
        def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    monitor, stop = strict(), GeometryEarlyStopping("collapse")
    stock = pl.callbacks.EarlyStopping("featgeo/val_train/knn_accuracy", mode="max")
    trainer(monitor, stop, stock).fit(Lenient(), train, {"un labelled": bare, "train": val})
    assert [record.stage for record in monitor.history] == ["un_labelled", "val_train"] * 2
    assert "knn_accuracy" not in monitor.history.records[0].values
    assert "knn_accuracy" in monitor.history.records[1].values
    assert stop.detectors[0].prefix == "featgeo/un_labelled/"


@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle", "max_size", "sequential"])
def test_combined_loaders_of_validation(mode: str) -> None:
    train, val = loaders()
    small = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*val.dataset[:64]), 64)

    class Both(Classifier):
        def validation_step(self, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
            for part in batch.values() if isinstance(batch, dict) else [batch]:
                if part is not None:
                    self(part[0])

    monitor = strict(signals=["feature_std"])
    combined = pl.utilities.CombinedLoader({"a": small, "b": val}, mode)
    trainer(monitor, max_epochs=1).fit(Both(), train, combined)
    found = [(record.stage, record.values["n_samples"]) for record in monitor.history]
    expected = {
        "sequential": [("a", 64), ("b", 200)],
        "min_size": [("val", 64)],
        "max_size": [("val", 64)],  # nothing of the other loader where the first one has ended
        "max_size_cycle": [("val", 256)],  # four times
    }
    assert found == expected[mode]


@pytest.mark.parametrize("training_first", [True, False])
def test_alarms_follow_validation_whichever_monitor_logs_it(training_first: bool) -> None:
    signals = ["feature_std", "effective_rank"]
    monitors = [strict(stages="train", signals=signals), strict(layer="net.0", signals=signals)]
    stop = GeometryEarlyStopping("collapse")
    trainer(*monitors[:: 1 if training_first else -1], stop, max_epochs=2).fit(Classifier(), *loaders())
    assert stop.detectors[0].prefix == "featgeo/val/"
    assert len(stop.detectors[0].checks) == 2
