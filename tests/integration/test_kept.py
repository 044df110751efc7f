"""What a run keeps: its history, its state in checkpoints, the progress bar's curve."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_featgeo import (
    ConfigurationError,
    Display,
    FeatureGeometryMonitor,
    History,
)
from tests._helpers.models import Classifier, loaders, strict, trainer


def test_the_history_is_next_to_the_run_and_readable_after_a_crash(tmp_path) -> None:
    class Crashes(Classifier):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                raise KeyboardInterrupt

    monitor = strict(signals=["feature_std", "effective_rank"])
    run = trainer(monitor, max_epochs=5, logger=CSVLogger(tmp_path))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.fit(Crashes(), *loaders())
    assert monitor.history.path is not None
    assert monitor.history.path.parent == tmp_path / "lightning_logs" / "version_0" / "featgeo"
    with monitor.history.path.open("a") as file:
        file.write('{"window": {"cut sho')
    read = History.load(monitor.history.path)
    assert read.records == monitor.history.records
    assert len(read) == 2
    assert read.run["signals"] == ["feature_std", "effective_rank"]


def test_two_monitors_have_two_states_and_a_resumed_one_counts_on(tmp_path) -> None:
    a, b = strict(layer="net.0", signals=["feature_std"]), strict(signals=["feature_std"])
    assert a.state_key != b.state_key
    trainer(b, max_epochs=2, default_root_dir=tmp_path).fit(Classifier(), *loaders())
    run = trainer(b, max_epochs=2)
    run.fit(Classifier(), *loaders())
    run.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    c = strict(signals=["feature_std"])
    trainer(c, max_epochs=3).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "x.ckpt")
    assert [(r.window, r.epoch) for r in c.history] == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_the_progress_bar_shows_the_chosen_curve_under_a_name_that_fits() -> None:
    shown: list[dict] = []

    class Bar(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            shown.append({k: v for k, v in trainer.progress_bar_metrics.items() if k != "v_num"})

    monitor = FeatureGeometryMonitor(display=Display(headline="effective_rank"), on_error="raise")
    run = trainer(monitor, Bar(), max_epochs=2)
    run.fit(Classifier(), *loaders())
    assert [set(metrics) for metrics in shown[1:]] == [{"featgeo/effective_rank"}] * 2
    assert shown[-1]["featgeo/effective_rank"] == pytest.approx(monitor.history.records[-1].values["effective_rank"])
    monitor = FeatureGeometryMonitor(signals=["nc1", "cdnv"], on_error="raise")
    run = trainer(monitor, max_epochs=1)
    run.fit(Classifier(), *loaders())
    assert set(run.progress_bar_metrics) == {"featgeo/nc1"}  # the first one
    with pytest.raises(ConfigurationError, match=r"headline='efective_rank' is not among the signals.*effective_rank"):
        FeatureGeometryMonitor(display=Display(headline="efective_rank"))
