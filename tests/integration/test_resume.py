"""Stopped anywhere and resumed: windows, curves and stops are those of the run that nobody interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeometryEarlyStopping,
    Plateau,
    Threshold,
    Windows,
)
from tests._helpers.interrupted import Stop, data, everyone, interrupted, model, shown, uninterrupted
from tests._helpers.models import SAFELY, Classifier, loaders, trainer
from tests._helpers.processes import Died, on_ranks
from tests._helpers.ranked import callbacks, faults
from tests._helpers.still import Still, digit_loaders, still


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", [2, 4, 6, 7])  # one behind the checkpoint
def test_with_a_stateful_loader_nothing_tells_the_runs_apart(
    tmp_path: Path, step: int, error: type[BaseException]
) -> None:
    whole, parts = uninterrupted(stateful=True), interrupted(tmp_path, True, step, error)
    assert shown(parts) == shown(whole)


def test_at_an_epochs_end_a_stock_loader_does_as_well(tmp_path: Path) -> None:
    assert shown(interrupted(tmp_path, False, 6, every=None)) == shown(uninterrupted())


def test_a_stock_loader_in_mid_epoch_costs_that_window_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(FeatureGeometryWarning, match="the loader began anew"):
        monitor = interrupted(tmp_path, False, 6)
    assert [r.stage for r in monitor.history] == ["val", "train"] * 3
    first, gap, last = (r for r in monitor.history if r.stage == "train")
    assert first.values["n_samples"] == last.values["n_samples"] == 256
    assert all("StatefulDataLoader" in reason for reason in gap.gaps.values())
    assert not gap.values


@pytest.mark.parametrize("step", [3, 7])
def test_windows_of_n_steps_go_on_inside(tmp_path: Path, step: int) -> None:
    settings = {"stages": ("train",), "windows": Windows(every_n_train_steps=3)}
    whole = uninterrupted(stateful=True, settings=settings)
    parts = interrupted(tmp_path, True, step, settings=settings)
    assert [r.step for r in whole.history] == [3, 6, 9, 12]
    assert shown(parts) == shown(whole)


def test_validation_inside_the_epoch_goes_on_too(tmp_path: Path) -> None:
    whole = uninterrupted(stateful=True, val_check_interval=0.5)
    assert shown(interrupted(tmp_path, True, 4, val_check_interval=0.5)) == shown(whole)


def test_the_stopper_decides_as_it_would_have(tmp_path: Path) -> None:
    def stopper() -> GeometryEarlyStopping:
        return GeometryEarlyStopping("featgeo/val/n_samples", Plateau(checks=3, tolerance=0.0), patience=2)

    whole, again = stopper(), stopper()
    one = trainer(everyone(), whole, max_epochs=8)
    one.fit(model(), *data(True))
    store = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    run = trainer(everyone(), stopper(), store, Stop(10), max_epochs=8, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="stopped here"):
        run.fit(model(), *data(True))
    two = trainer(everyone(), again, max_epochs=8)
    last = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    two.fit(Classifier(), *data(True), ckpt_path=last, **SAFELY)
    assert one.current_epoch == two.current_epoch == 4
    assert whole.stopping_reason_message == again.stopping_reason_message
    assert whole.detectors[0].checks == again.detectors[0].checks
    assert [alarm.line for alarm in whole.alarms] == [alarm.line for alarm in again.alarms]


def test_a_stopper_that_has_stopped_can_stop_again(tmp_path: Path) -> None:
    def stopper() -> GeometryEarlyStopping:
        return GeometryEarlyStopping("featgeo/val/feature_std", Threshold(above=1e-6), patience=2)

    run = trainer(everyone(), stopper(), max_epochs=9)
    run.fit(model(), *data(False))
    run.save_checkpoint(tmp_path / "stopped.ckpt")
    assert run.current_epoch == 2
    again = trainer(everyone(), stopper(), max_epochs=9)
    again.fit(Classifier(), *data(False), ckpt_path=tmp_path / "stopped.ckpt")
    assert again.current_epoch == 3
    run.fit(model(), *data(False))
    assert run.current_epoch == 3


def test_stages_in_another_order_and_a_second_monitor_are_no_other_curves(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, everyone())
    again, new = everyone(stages=("val", "train")), everyone(layer="net.0", stages="train", signals=["dead_fraction"])
    trainer(again, new, max_epochs=2).fit(Classifier(), *loaders(), ckpt_path=file)
    assert [r.window for r in again.history] == [0, 1, 2, 3]
    assert [r.window for r in new.history] == [0]
    with pytest.raises(ConfigurationError, match="stages"):
        trainer(everyone(stages="val"), max_epochs=2).fit(Classifier(), *loaders(), ckpt_path=file)


def checkpoint(folder: Path, *callbacks: pl.Callback, net: nn.Module | None = None) -> Path:
    run = trainer(*callbacks, max_epochs=1, enable_checkpointing=True)
    run.fit(Classifier(net), *loaders())
    run.save_checkpoint(folder / "one.ckpt")
    return folder / "one.ckpt"


def wide(width: int, classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32), nn.Linear(32, classes))


def test_curves_of_something_else_are_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, everyone(layer="net.0", num_classes=10), net=wide(40))

    with pytest.raises(ConfigurationError, match=r"layer.*net\.0.*resume=False"):
        trainer(everyone(layer="net.2", num_classes=10)).fit(Classifier(wide(40)), *loaders(), ckpt_path=file)
    state = torch.load(file, weights_only=True)
    (key,) = [key for key in state["callbacks"] if key.startswith("FeatureGeometryMonitor")]
    for field, value, match in (
        ("layers", ["net.1"], r"curves are of \['net\.1'\]"),
        ("dims", [41], "had 41 dimensions in the checkpoint, now 40"),
        ("classes", 11, "of 11 classes, this run's of 10"),
    ):
        changed = {**state, "callbacks": {key: {**state["callbacks"][key], field: value}}}
        torch.save(changed, file)
        with pytest.raises(ConfigurationError, match=match):
            trainer(everyone(layer="net.0", num_classes=10), max_epochs=2).fit(
                Classifier(wide(40)), *loaders(), ckpt_path=file
            )
        anew = everyone(layer="net.0", num_classes=10, resume=False)
        trainer(anew, max_epochs=2).fit(Classifier(wide(40)), *loaders(), ckpt_path=file)
        assert [r.window for r in anew.history] == [0, 1]


@pytest.mark.parametrize(
    "broken", [{"windows": "x"}, {"windows": 1, "records": [{"no": 1}]}, {"windows": 1, "version": 99}]
)
def test_a_state_that_cannot_be_read_is_no_reason_to_die(tmp_path: Path, broken: dict[str, Any]) -> None:
    file = checkpoint(tmp_path, everyone())
    state = torch.load(file, weights_only=True)
    key = next(key for key in state["callbacks"] if key.startswith("FeatureGeometryMonitor"))
    torch.save({**state, "callbacks": {key: broken}}, file)
    monitor = everyone()
    with pytest.warns(FeatureGeometryWarning, match="can't be read"):
        trainer(monitor, max_epochs=2).fit(Classifier(), *loaders(), ckpt_path=file)
    assert [r.epoch for r in monitor.history][-1] == 2


def test_a_broken_open_window_is_a_gap(tmp_path: Path) -> None:
    store = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    run = trainer(everyone(), store, Stop(6), max_epochs=2, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="stopped here"):
        run.fit(model(), *data(True))
    file = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    state = torch.load(file, weights_only=True)
    kept = next(value for key, value in state["callbacks"].items() if key.startswith("FeatureGeometryMonitor"))
    del kept["open"]["parts"][0]["metric"]["accumulators"]["moments"]["scatter"]
    torch.save(state, file)
    monitor = everyone()
    with pytest.warns(FeatureGeometryWarning, match="going on with the open training window failed"):
        trainer(monitor, max_epochs=2).fit(Classifier(), *data(True), ckpt_path=file)
    assert [bool(r.gaps.get("effective_rank")) for r in monitor.history if r.stage == "train"] == [False, True]


def test_a_signal_from_the_scheduler_is_survived(tmp_path: Path) -> None:
    with pytest.raises(Died) as died:
        on_ranks(1, faults.terminated, str(tmp_path))
    assert "SIGTERM" in died.value.outcomes[0]

    def watch() -> FeatureGeometryMonitor:
        return FeatureGeometryMonitor(signals=["feature_std", "effective_rank"], stages=("train", "val"))

    whole, again = watch(), watch()
    train, val = digit_loaders()
    trainer(whole, max_epochs=3).fit(still(), StatefulDataLoader(train.dataset, 32), val)
    run = trainer(again, max_epochs=3)
    last = tmp_path / "last.ckpt"
    run.fit(Still(), StatefulDataLoader(train.dataset, 32), val, ckpt_path=last, **SAFELY)
    for ours, theirs in zip(shown(again), shown(whole), strict=True):
        assert ours[:4] == theirs[:4]
        assert ours[4] == pytest.approx(theirs[4], rel=1e-5)  # the killed process had one thread


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_the_number_of_processes_may_change(tmp_path: Path, before: int, after: int) -> None:
    whole = on_ranks(1, callbacks.in_parts, 1, str(tmp_path / "whole"), 4, None)[0]
    on_ranks(before, callbacks.in_parts, before, str(tmp_path / "parts"), 2, None)
    every = on_ranks(after, callbacks.in_parts, after, str(tmp_path / "rest"), 4, str(tmp_path / "parts" / "last.ckpt"))
    for rank in every:
        assert [r["window"] for r in rank["records"]] == [r["window"] for r in whole["records"]]
        for ours, theirs in zip(rank["records"], whole["records"], strict=True):
            assert ours["values"] == pytest.approx(theirs["values"], rel=2e-5)
