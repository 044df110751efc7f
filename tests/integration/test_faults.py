"""Injected faults: training goes on, or ends as it would without us; nothing logged is lost; the message says what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_featgeo import FeatureGeometryMonitor, FeatureGeometryWarning, History, Windows
from lightning_featgeo.callbacks import monitor as monitor_module
from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.metrics.statistics import spectra
from tests._helpers.models import Classifier, loaders, trainer

SIGNALS = ["feature_std", "effective_rank", "participation_ratio", "id_two_nn", "nc1"]


class InEpoch(pl.Callback):
    """Breaks something of ours for one epoch."""

    def __init__(self, patch: pytest.MonkeyPatch, holder: Any, name: str, error: BaseException, epoch: int = 1) -> None:
        self.patch, self.holder, self.name, self.error, self.epoch = patch, holder, name, error, epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def boom(*args: Any, **kwargs: Any) -> None:
            raise self.error

        if trainer.current_epoch == self.epoch:
            self.patch.setattr(self.holder, self.name, boom)
        else:
            self.patch.undo()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no room"), RuntimeError("a bug")]
)
@pytest.mark.parametrize(("holder", "name"), [(ops, "scatter_"), (ops, "hash_priority")])
def test_an_error_while_streaming_costs_one_window(
    monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, error: Exception
) -> None:
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    run = trainer(monitor, InEpoch(monkeypatch, holder, name, error), max_epochs=3)
    with pytest.warns(
        FeatureGeometryWarning,
        match=f"(streaming a val batch|adding the last rows of val) failed with {type(error).__name__}",
    ) as said:
        run.fit(Classifier(), *loaders())
    assert run.current_epoch == 3
    first, gap, last = monitor.history
    assert set(gap.gaps) == set(SIGNALS)
    assert set(first.values) == set(last.values) == {*SIGNALS, "n_samples"}
    assert len([w for w in said if issubclass(w.category, FeatureGeometryWarning)]) == 1


def test_an_accumulator_that_ran_out_of_memory_costs_only_the_signals_that_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    error = torch.OutOfMemoryError("the solver needs 8 GiB")
    fault = InEpoch(monkeypatch, spectra, "null_small_eigenvalues", error)
    with pytest.warns(FeatureGeometryWarning, match="effective_rank has no value: it failed with OutOfMemoryError"):
        trainer(monitor, fault, max_epochs=3).fit(Classifier(), *loaders())
    first, some, last = monitor.history
    assert set(some.gaps) == {"effective_rank"}
    assert "the solver needs 8 GiB" in some.gaps["effective_rank"]
    assert set(some.values) == {*SIGNALS, "n_samples"} - {"effective_rank"}
    assert set(first.values) == set(last.values) == {*SIGNALS, "n_samples"}


def test_ctrl_c_in_our_code_ends_the_run_as_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, model = FeatureGeometryMonitor(signals=SIGNALS), Classifier()
    run = trainer(monitor, InEpoch(monkeypatch, ops, "scatter_", KeyboardInterrupt()), max_epochs=3)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.fit(model, *loaders())
    assert run.interrupted
    assert len(monitor.history) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Raises(Logger):
    """A logger whose service is down."""

    name, version = "down", 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("featgeo/train/") for key in metrics):
            raise ConnectionError("503 from the metrics server")


def test_a_logger_that_raises_keeps_nothing_from_the_others(tmp_path: Path) -> None:
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages="train", windows=Windows(every_n_train_steps=2))
    good = CSVLogger(tmp_path, "good")
    run = trainer(monitor, max_epochs=2, logger=[Raises(), good], log_every_n_steps=1)
    with pytest.warns(FeatureGeometryWarning, match="logging to Raises failed with ConnectionError: 503"):
        run.fit(Classifier(), *loaders())
    assert len(monitor.history) == 4
    assert "featgeo/train/effective_rank" in next(tmp_path.rglob("metrics.csv")).read_text()
    assert "featgeo/train/effective_rank" in run.callback_metrics


def test_a_full_disk_under_the_history_loses_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "history_path", lambda trainer: Path("/dev/full"))
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    run = trainer(monitor, max_epochs=2)
    with pytest.warns(FeatureGeometryWarning, match="No space left on device.*kept in memory"):
        run.fit(Classifier(), *loaders())
    assert len(monitor.history) == 2
    assert "featgeo/val/effective_rank" in run.callback_metrics


def test_a_damaged_history_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    trainer(monitor, max_epochs=3).fit(Classifier(), *loaders())
    file = monitor.history.path
    written = file.read_bytes().splitlines(keepends=True)
    lines = [line for line in written if not line.startswith(b'{"metrics"')]
    later = json.loads(lines[2])
    later["window"]["of_a_later_version"] = 1
    damaged = [lines[0], lines[1], b"\xff\xfe\x00garbage\n", b"[1, 2]\n", b'{"window": 3}\n']
    (tmp_path / "damaged.jsonl").write_bytes(
        b"".join([*damaged, json.dumps(later).encode() + b"\n", lines[3][: len(lines[3]) // 2]])
    )
    with pytest.warns(FeatureGeometryWarning, match="3 lines of .*damaged.jsonl can't be read"):
        history = History.load(tmp_path / "damaged.jsonl")
    assert [record.window for record in history] == [0, 1]
    assert history.records[0].values == monitor.history.records[0].values
    assert history.run["signals"] == SIGNALS


@pytest.mark.parametrize("copies", [False, True])
def test_a_step_that_writes_into_its_batch_is_told(copies: bool) -> None:
    class Mixes(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            x = x.clone() if copies else x
            if self.current_epoch:
                x.mul_(0.6).add_(0.4 * x.roll(1, 0) / 0.6)
            return super().training_step([x, y], batch_idx)

    monitor = FeatureGeometryMonitor(stages=("train",), signals=["feature_std"])
    trainer(monitor, max_epochs=2).fit(Mixes(), *loaders())
    first, second = monitor.history
    assert not any("writes into its batch" in note for note in first.notes)
    assert any("writes into its batch" in note for note in second.notes) != copies
