"""Lightning's own monitors that watch our names: gaps pass them by, and no stale or invented value reaches anyone."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_featgeo import (
    ConfigurationError,
    Display,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeometryAlarm,
    Threshold,
    Windows,
)
from tests._helpers.models import Classifier, loaders, strict, trainer


class WithPlateau(Classifier):
    """Its learning rate follows a geometry curve."""

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self.watched = monitor

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.watched}}


def test_stock_early_stopping_and_checkpoint_work_on_our_curves(tmp_path) -> None:
    name = "featgeo/val/effective_rank"
    stop = EarlyStopping(monitor=name, mode="max", patience=1, min_delta=100.0)
    best = ModelCheckpoint(tmp_path, monitor=name, mode="max", save_top_k=2, auto_insert_metric_name=False)
    run = trainer(FeatureGeometryMonitor(on_error="raise"), stop, best, max_epochs=9, enable_checkpointing=True)
    run.fit(Classifier(), *loaders())
    assert run.current_epoch == 2  # the first value is the best, the second isn't 100 better
    assert stop.strict is True  # given back
    assert best.best_model_score == pytest.approx(float(run.callback_metrics[name]), rel=0.5)
    assert len(best.best_k_models) == 2


def all_three(tmp_path, signal: str, epochs: int, **kwargs: Any):
    """Strict EarlyStopping, ModelCheckpoint and ReduceLROnPlateau on one curve; returns what they saw."""
    name = f"featgeo/val/{signal}"
    stop = EarlyStopping(monitor=name, mode="max", patience=2)
    best = ModelCheckpoint(tmp_path / "best", monitor=name, mode="max", save_top_k=-1, save_last=True)
    best.auto_insert_metric_name = False
    monitor = FeatureGeometryMonitor(signals=[signal], **kwargs)
    logger = CSVLogger(tmp_path)
    run = trainer(monitor, stop, best, max_epochs=epochs, enable_checkpointing=True, logger=logger)
    run.fit(WithPlateau(name), *loaders())
    return run, stop, best, monitor, (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_a_signal_that_is_never_defined_does_not_end_the_run(tmp_path) -> None:
    run, stop, best, monitor, logged = all_three(tmp_path, "nc3", 4, layer="net.1", num_classes=10)
    assert run.current_epoch == 4
    assert stop.wait_count == 0
    assert best.best_k_models == {}
    assert (tmp_path / "best" / "last.ckpt").exists()  # save_last goes on
    assert "featgeo/val/nc3" not in logged
    assert "nan" not in logged.lower()
    assert all("no linear head is known" in r.gaps["nc3"] for r in monitor.history)


def test_every_n_epochs_5_gives_stock_monitors_fresh_values_only(tmp_path) -> None:
    run, stop, best, monitor, logged = all_three(tmp_path, "feature_std", 12, windows=Windows(every_n_epochs=5))
    assert run.current_epoch == 12
    assert [r.epoch for r in monitor.history] == [5, 10]
    assert len(best.best_k_models) == 2  # not one for each stale epoch
    assert stop.wait_count <= 1
    column = logged.splitlines()[0].split(",").index("featgeo/val/feature_std")
    assert sum(bool(row.split(",")[column]) for row in logged.splitlines()[1:]) == 2


def test_checkpoints_work_without_our_names_too(tmp_path) -> None:
    other = ModelCheckpoint(tmp_path, monitor="val_loss")
    trainer(FeatureGeometryMonitor(), other, max_epochs=1, enable_checkpointing=True).fit(Classifier(), *loaders())
    assert other.best_model_path
    assert "_save_topk_checkpoint" not in other.__dict__


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("featgeo/val/efective_rank", {}, "Did you mean 'featgeo/val/effective_rank'"),
        ("featgeo/train/effective_rank", {}, "add the signal"),
        ("featgeo/val/rankme", {"signals": ["effective_rank"]}, "never logs"),
        ("featgeo/val/nc1", {"labels": None}, "never logs"),  # known at the first batch only
    ],
)
def test_a_name_that_is_never_logged_is_an_error_with_the_fix(name: str, kwargs: dict, says: str) -> None:
    watchers = [EarlyStopping(monitor=name), ModelCheckpoint(monitor=name)]
    for watcher in watchers:
        with pytest.raises(ConfigurationError, match=says):
            trainer(FeatureGeometryMonitor(**kwargs), watcher, enable_checkpointing=True).fit(Classifier(), *loaders())
    with pytest.raises(ConfigurationError, match="ReduceLROnPlateau"):
        trainer(FeatureGeometryMonitor(**kwargs)).fit(WithPlateau(name), *loaders())


class Scouted(pl.LightningModule):
    """Its head is found by the loss only: nothing of the sanity check is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10)
        self.other = nn.Linear(32, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        h = self.body(batch[0])
        return cross_entropy(self.last(h), batch[1]) + 0 * self.other(h).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.last(self.body(batch[0]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "featgeo/val/stable_rank"}}


def test_what_somebody_watches_is_computed_beside_the_preset(tmp_path: Path) -> None:
    """A checkpoint, an alarm, a scheduler and the progress bar name signals that no preset of classifiers has."""
    best = ModelCheckpoint(tmp_path, monitor="featgeo/val/rankme", mode="max", auto_insert_metric_name=False)
    alarm = GeometryAlarm("featgeo/val/hubness", Threshold(above=1000.0))
    watched = strict(display=Display(headline="id_mle"))
    run = trainer(watched, best, alarm, max_epochs=2, enable_checkpointing=True)
    run.fit(Scouted(), *loaders())
    record = watched.history.records[-1]
    assert {"rankme", "hubness", "stable_rank", "id_mle", "nc1"} <= set(record.values)
    assert best.best_model_path
    assert float(best.best_model_score) == pytest.approx(
        max(v for _, v in watched.history.series("featgeo/val/rankme"))
    )
    assert alarm.state == "quiet"
    assert "featgeo/id_mle" in run.callback_metrics


def test_what_is_watched_and_cannot_be_computed_is_said(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="featgeo/val/lidar", mode="max", auto_insert_metric_name=False)
    with pytest.warns(FeatureGeometryWarning, match="featgeo/val/lidar has no value: needs two views of each sample"):
        trainer(FeatureGeometryMonitor(), best, max_epochs=1, enable_checkpointing=True).fit(Scouted(), *loaders())
