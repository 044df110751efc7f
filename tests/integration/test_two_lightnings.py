"""``pytorch_lightning`` is a second copy of all classes of ``lightning.pytorch``: both trainers are the same to us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_featgeo import FeatureGeometryMonitor, GeometryEarlyStopping, Threshold, Windows
from tests._helpers.models import Classifier, loaders
from tests._helpers.processes import on_ranks

both = pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=lambda one: one.__name__)
CURVE = "featgeo/val/effective_rank"


def module(package: Any) -> Any:
    """The same classifier, of either package."""

    class Net(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = Classifier().net

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = ReduceLROnPlateau(optimizer, mode="max", patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": CURVE}}

    return Net()


def trainer(package: Any, *callbacks: Any, **given: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    return package.Trainer(callbacks=list(callbacks), **{**quiet, "enable_checkpointing": False, **given})


@both
def test_stock_monitors_live_with_gaps_and_a_run_goes_on(package: Any, tmp_path: Path) -> None:
    best = package.callbacks.ModelCheckpoint(tmp_path, monitor=CURVE, mode="max", save_last=True)
    stock = package.callbacks.EarlyStopping(CURVE, mode="max", patience=9)
    monitor = FeatureGeometryMonitor(windows=Windows(every_n_epochs=2), signals=["effective_rank"], on_error="raise")
    run = trainer(package, monitor, best, stock, max_epochs=4, enable_checkpointing=True)
    run.fit(module(package), *loaders())
    assert run.current_epoch == 4
    assert best.best_model_score == pytest.approx(max(value for _, value in monitor.history.series(CURVE)))
    assert stock.strict
    again = FeatureGeometryMonitor(windows=Windows(every_n_epochs=2), signals=["effective_rank"], on_error="raise")
    trainer(package, again, max_epochs=6).fit(module(package), *loaders(), ckpt_path=best.last_model_path)
    assert [record.epoch for record in again.history] == [2.0, 4.0, 6.0]


@both
def test_loggers_of_both(package: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    logger = package.loggers.TensorBoardLogger(tmp_path)
    trainer(package, monitor, max_epochs=2, logger=logger).fit(module(package), *loaders())
    read = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    read.Reload()
    found = [event.value for event in read.Scalars(CURVE)]
    assert found == pytest.approx([value for _, value in monitor.history.series(CURVE)], rel=1e-6)
    assert "featgeo_curves/val/spectrum" in read.Tags()["images"]


def _ranks() -> tuple[list[dict[str, float]], int, str | None]:
    monitor = FeatureGeometryMonitor(signals=["effective_rank", "nc1"], on_error="raise")
    stop = GeometryEarlyStopping("featgeo/val/effective_rank", Threshold(above=1.0), patience=2)
    run = trainer(pytorch_lightning, monitor, stop, max_epochs=5, devices=2, strategy="ddp")
    run.fit(module(pytorch_lightning), *loaders(shuffle=False))
    return [dict(record.values) for record in monitor.history], run.current_epoch, stop.stopping_reason_message


@pytest.mark.slow
def test_ranks_of_the_other_one_are_merged_and_stop_together() -> None:
    (first, ended, why), (second, also, _) = on_ranks(2, _ranks)
    assert first == second
    assert [values["n_samples"] for values in first] == [200, 200]
    assert ended == also == 2
    assert why
