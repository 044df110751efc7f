"""What an alarm does: checkpoints, callables, stopping; and what goes wrong with that."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeometryAlarm,
    GeometryEarlyStopping,
    Rule,
    Threshold,
)
from lightning_featgeo.alarms import Finding, Past
from tests._helpers.faults import SIGNALS, Fault, signed
from tests._helpers.models import SAFELY, Classifier, loaders, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import callbacks


def test_alerts_without_wandb_are_refused_before_training() -> None:
    run = trainer(FeatureGeometryMonitor(), GeometryAlarm("collapse", action="alert"))
    with pytest.raises(ConfigurationError, match="WandbLogger"):
        run.fit(Classifier(), *loaders())
    assert run.global_step == 0


def test_a_checkpoint_is_saved_at_the_alarm_and_the_one_before_it_is_named(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1)
    monitor, stop = (
        FeatureGeometryMonitor(signals=SIGNALS),
        GeometryEarlyStopping("collapse", action=["stop", "checkpoint"]),
    )
    torch.manual_seed(0)
    run = trainer(
        Fault("point", 5), monitor, stop, keep, max_epochs=20, default_root_dir=tmp_path, enable_checkpointing=True
    )
    run.fit(signed(), *loaders())
    (alarm,) = stop.alarms
    assert alarm.checkpoint is not None
    assert torch.load(alarm.checkpoint, weights_only=True)["global_step"] < alarm.since_step
    (saved,) = (tmp_path / "featgeo").glob(f"collapse-*-step={alarm.step}.ckpt")
    again = trainer(
        FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("collapse"), max_epochs=run.current_epoch + 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(signed(), *loaders(), ckpt_path=saved, **SAFELY)
    assert again.current_epoch == run.current_epoch + 1


def test_a_checkpoint_that_is_written_over_is_not_taken_for_an_early_one(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="model", enable_version_counter=False)
    monitor, stop = FeatureGeometryMonitor(signals=SIGNALS), GeometryEarlyStopping("collapse")
    torch.manual_seed(0)
    trainer(Fault("point", 5), monitor, stop, keep, max_epochs=20, enable_checkpointing=True).fit(signed(), *loaders())
    assert (tmp_path / "model.ckpt").exists()
    assert stop.alarms[0].checkpoint is None


def test_a_callable_gets_the_alarm_and_its_error_costs_only_itself() -> None:
    heard = []

    def broken(alarm) -> None:
        heard.append(alarm)
        raise RuntimeError("no network")

    stop = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), action=[broken, "stop"])
    run = trainer(FeatureGeometryMonitor(signals=["feature_std"]), stop, max_epochs=9)
    with pytest.warns(FeatureGeometryWarning, match=r"broken failed with .*no network.*the alarm stands"):
        run.fit(Classifier(), *loaders())
    assert heard == stop.alarms
    assert run.current_epoch == 2


def test_a_kind_whose_signals_are_not_computed_is_refused_with_what_to_add() -> None:
    run = trainer(FeatureGeometryMonitor(signals=["rankme"]), GeometryEarlyStopping("collapse"))
    with pytest.raises(ConfigurationError, match="feature_std"):
        run.fit(Classifier(), *loaders())


def test_a_rule_that_fails_never_ends_a_run() -> None:
    class Late(Rule):
        def check(self, past: Past) -> Finding | None:
            if len(past.values) > 1:
                raise ConfigurationError("my rule wants more")
            return None

    stop = GeometryEarlyStopping(["featgeo/val/feature_std", "collapse"], Late())
    run = trainer(FeatureGeometryMonitor(signals=SIGNALS), stop, max_epochs=4)
    with pytest.warns(FeatureGeometryWarning, match="my rule wants more"):
        run.fit(signed(), *loaders())
    assert run.current_epoch == 4
    assert [len(d.checks) for d in stop.detectors] == [4, 4]
    assert stop.detectors[0].state == "cannot tell"


def tell(alarm) -> None:
    TOLD.append(alarm)


TOLD: list = []


def test_a_callable_can_be_named_by_its_import_path() -> None:
    stop = GeometryEarlyStopping(action=[f"{__name__}.tell", "stop"])
    assert stop.actions[0] is sys.modules[__name__].tell
    with pytest.raises(ConfigurationError, match="can't be imported"):
        GeometryEarlyStopping(action="no.such.thing")


def test_stoppers_that_differ_in_anything_have_states_of_their_own() -> None:
    options = [{}, {"hysteresis": 0.3}, {"min_effect": 1.0}, {"patience": 3}, {"action": "warn"}, {"stage": "train"}]
    assert (
        len({GeometryAlarm("collapse", **option).state_key for option in options}) == len(options) - 1
    )  # "warn" is it
    assert GeometryAlarm("collapse").state_key == GeometryAlarm("collapse").state_key


def test_a_fast_dev_run_is_no_run(tmp_path: Path) -> None:
    alarm = GeometryAlarm("featgeo/val/feature_std", Threshold(above=1e-6), patience=1, action=["alert", "warn"])
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    run = trainer(FeatureGeometryMonitor(signals=["feature_std"]), alarm, fast_dev_run=True, logger=logger)
    run.fit(Classifier(), *loaders())
    assert not alarm.detectors[0].checks


def test_a_checkpoint_of_an_alarm_holds_the_alarm_and_goes_on_counting(tmp_path: Path) -> None:
    def make():
        monitor = FeatureGeometryMonitor(signals=["feature_std"])
        rule = Threshold(above=1e-6)
        return monitor, GeometryAlarm("featgeo/val/feature_std", rule, patience=3, action="checkpoint")

    monitor, alarm = make()
    trainer(monitor, alarm, max_epochs=4, default_root_dir=tmp_path).fit(Classifier(), *loaders())
    (saved,) = tmp_path.rglob("feature_std-*-step=*.ckpt")
    monitor, alarm = make()
    trainer(monitor, alarm, max_epochs=5).fit(Classifier(), *loaders(), ckpt_path=saved, **SAFELY)
    assert [record.window for record in monitor.history] == [0, 1, 2, 3, 4]
    assert [event["kind"] for event in monitor.history.events] == ["alarm"]
    assert len(alarm.alarms) == 1  # it still stands: it is not raised again


def test_a_fit_from_a_checkpoint_without_its_state_begins_anew(tmp_path: Path) -> None:
    plain = trainer(max_epochs=1)
    plain.fit(Classifier(), *loaders())
    plain.save_checkpoint(tmp_path / "x.ckpt")
    alarm, monitor = GeometryAlarm("collapse"), FeatureGeometryMonitor(signals=["feature_std", "effective_rank"])
    trainer(monitor, alarm, max_epochs=5).fit(Classifier(), *loaders())
    trainer(monitor, alarm, max_epochs=3).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "x.ckpt")
    assert len(alarm.detectors[0].checks) == 2


def test_all_ranks_raise_the_same_alarm_and_save_its_checkpoint() -> None:
    one, two = on_ranks(2, callbacks.alarming, 2)
    assert one["lines"] == two["lines"]
    assert one["heard"] == two["heard"] == 1
    assert one["epochs"] == two["epochs"] == 2
    assert one["saved"]
