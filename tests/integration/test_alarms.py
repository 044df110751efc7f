"""Alarms in real runs: kinds, actions, what is told where, and that every way of running decides the same."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import nn

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    Gap,
    GeometryAlarm,
    GeometryEarlyStopping,
    Rule,
    Threshold,
)
from lightning_featgeo.alarms import KINDS, Detector, Finding, Past
from tests._helpers import ranked
from tests._helpers.models import Classifier, loaders, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.wandb_file import alerts, read

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Fault(Callback):
    """From an epoch on: features shrink towards one point, or lose all but three of their directions."""

    def __init__(self, what: str, at: int) -> None:
        self.what, self.at = what, at

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch < self.at:
            return
        layer = pl_module.net[0]
        with torch.no_grad():
            if self.what == "point":
                layer.weight.mul_(0.7)
                layer.bias.fill_(1.0)
            else:
                u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
                s[3:] *= 0.4
                layer.weight.copy_(u * s @ v)


def signed() -> Classifier:
    return Classifier(nn.Sequential(nn.Linear(64, 32), nn.Identity(), nn.Linear(32, 10)))


SIGNALS = ["feature_std", "effective_rank", "dead_fraction", "mean_resultant", "knn_accuracy", "cdnv"]


@pytest.mark.parametrize(("what", "title"), [("point", "total collapse"), ("directions", "dimensional collapse")])
def test_collapse_of_either_kind_stops_a_real_run_without_a_number_given(what: str, title: str) -> None:
    monitor, stop = FeatureGeometryMonitor(signals=SIGNALS), GeometryEarlyStopping("collapse")
    torch.manual_seed(0)
    run = trainer(Fault(what, 6), monitor, stop, max_epochs=30)
    run.fit(signed(), *loaders())
    assert stop.alarms[0].title == title
    assert 7 <= run.current_epoch <= 14
    assert stop.stopping_reason_message is not None
    assert title in stop.stopping_reason_message


def test_an_intact_run_raises_nothing_and_nobody_calls_it_healthy() -> None:
    monitor, alarm = FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("collapse")
    torch.manual_seed(0)
    trainer(monitor, alarm, max_epochs=8).fit(signed(), *loaders())
    assert (alarm.alarms, alarm.state) == ([], "quiet")


def test_an_alarm_warns_in_full_and_training_goes_on() -> None:
    monitor, alarm = FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("collapse")
    torch.manual_seed(0)
    run = trainer(Fault("point", 4), monitor, alarm, max_epochs=10)
    with pytest.warns(FeatureGeometryWarning, match="usual causes") as told:
        run.fit(signed(), *loaders())
    assert run.current_epoch == 10
    assert [str(w.message) for w in told if "featgeo alarm" in str(w.message)] == [a.report for a in alarm.alarms]
    assert [(e["kind"], e["reason"]) for e in monitor.history.events] == [("alarm", a.line) for a in alarm.alarms]
    assert alarm.alarms[0].title == "total collapse"


def test_the_state_of_alarms_is_a_curve_of_its_own(tmp_path: Path) -> None:
    monitor = FeatureGeometryMonitor(signals=["feature_std"])
    alarm = GeometryAlarm("featgeo/val/feature_std", Threshold(below=9.0), patience=3, action=lambda _: None)
    run = trainer(monitor, alarm, max_epochs=5, logger=CSVLogger(tmp_path))
    run.fit(Classifier(), *loaders())
    (file,) = tmp_path.rglob("metrics.csv")
    header, *rows = (line.split(",") for line in file.read_text().splitlines())
    states = [row[header.index("featgeo/val/alarm")] for row in rows if row[header.index("featgeo/val/feature_std")]]
    assert states == ["", "0.0", "1.0", "1.0", "1.0"]  # one check is too few to tell


def test_an_offline_wandb_run_holds_the_alert_the_reason_and_the_mark(tmp_path: Path) -> None:
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    monitor = FeatureGeometryMonitor(signals=SIGNALS, on_error="raise")
    alarm = GeometryAlarm("collapse", action=["alert", "warn"])
    torch.manual_seed(0)
    with pytest.warns(FeatureGeometryWarning, match="featgeo alarm"):
        trainer(Fault("point", 4), monitor, alarm, max_epochs=6, logger=logger).fit(signed(), *loaders())
    wandb.finish()
    (alert,) = alerts(tmp_path)
    assert alert.title == "featgeo: total collapse"
    assert alert.text == alarm.alarms[0].report
    assert alert.level == "WARN"
    _, rows, summary = read(tmp_path)
    assert summary["featgeo_alarm"] == alarm.alarms[0].line
    assert [row["featgeo/val/alarm"] for row in rows if "featgeo/val/alarm" in row][-1] == 1.0
    tables = [table.read_text() for table in tmp_path.rglob("*spectrum*.table.json")]
    assert any("epoch 6 (total collapse)" in table for table in tables)


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
    saved = tmp_path / "featgeo" / f"collapse-step={alarm.step}.ckpt"
    again = trainer(
        FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("collapse"), max_epochs=run.current_epoch + 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(signed(), *loaders(), ckpt_path=saved, weights_only=True)
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


def test_a_gap_between_loaders() -> None:
    train, val = loaders(train=64, batch=16)
    monitor = FeatureGeometryMonitor(signals=["knn_accuracy"], loader_names=("val", "train_clean"))
    stop = GeometryEarlyStopping("featgeo/val/knn_accuracy", Gap("train_clean", 0.99), patience=1, min_effect=0.0)
    run = trainer(monitor, stop, max_epochs=3)
    run.fit(Classifier(), train, [val, train])
    there = [check.elsewhere["train_clean/knn_accuracy"] for check in stop.detectors[0].checks]
    assert there == [value for _, value in monitor.history.series("featgeo/train_clean/knn_accuracy")]  # same weights
    wrong = trainer(monitor, GeometryEarlyStopping("featgeo/val/knn_accuracy", Gap("train_clear")))
    with pytest.raises(ConfigurationError, match="featgeo/train_clear/knn_accuracy"):
        wrong.fit(Classifier(), train, [val, train])


def test_a_kind_whose_signals_are_not_computed_is_refused_with_what_to_add() -> None:
    run = trainer(FeatureGeometryMonitor(signals=["rankme"]), GeometryEarlyStopping("collapse"))
    with pytest.raises(ConfigurationError, match="feature_std"):
        run.fit(Classifier(), *loaders())


def test_windows_that_tell_nothing_are_told_of_once() -> None:
    class Broken(Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            if trainer.current_epoch >= 2:
                with torch.no_grad():
                    pl_module.net[0].weight.fill_(float("nan"))

    monitor, alarm = FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("collapse")
    with pytest.warns(FeatureGeometryWarning) as told:
        trainer(Broken(), monitor, alarm, max_epochs=7).fit(signed(), *loaders())
    unsure = [str(w.message) for w in told if "can't tell" in str(w.message)]
    assert len(unsure) == 1
    assert "every row was left out" in unsure[0]
    assert alarm.state == "cannot tell"


def test_two_monitors_and_an_alarm_on_one_of_them() -> None:
    monitors = [
        FeatureGeometryMonitor(stages=stage, signals=["feature_std", "effective_rank"]) for stage in ("val", "train")
    ]
    alarm = GeometryAlarm("collapse")
    trainer(*monitors, alarm, max_epochs=2).fit(Classifier(), *loaders())
    assert len(alarm.detectors[0].checks) == 2


def test_alarms_on_a_further_layer_and_their_own_curve(tmp_path: Path) -> None:
    monitor = FeatureGeometryMonitor(layer=["net.0", "net.1"], num_classes=10, signals=["feature_std"])
    always, never = Threshold(above=1e-6), Threshold(above=1.01)
    second = GeometryAlarm("featgeo/val/net_1/feature_std", always, patience=1, action=lambda _: None)
    first = GeometryAlarm("featgeo/val/feature_std", never)
    trainer(monitor, first, second, max_epochs=2, logger=CSVLogger(tmp_path)).fit(Classifier(), *loaders())
    assert (len(first.alarms), len(second.alarms)) == (0, 1)
    (file,) = tmp_path.rglob("metrics.csv")
    header, *_, last = (line.split(",") for line in file.read_text().splitlines())
    assert last[header.index("featgeo/val/alarm")] == "0.0"
    assert last[header.index("featgeo/val/net_1/alarm")] == "1.0"


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
    (saved,) = tmp_path.rglob("feature_std-step=*.ckpt")
    monitor, alarm = make()
    trainer(monitor, alarm, max_epochs=5).fit(Classifier(), *loaders(), ckpt_path=saved, weights_only=True)
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


def test_several_kinds_at_once() -> None:
    stop = GeometryEarlyStopping(["collapse", "featgeo/val/feature_std"], Threshold(below=9.0))
    assert [d.kind.name for d in stop.detectors] == ["collapse", "feature_std"]


def test_a_history_that_was_read_back_is_judged_as_the_run_was(tmp_path: Path) -> None:
    from lightning_featgeo import History

    monitor, alarm = FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("collapse", action=lambda _: None)
    torch.manual_seed(0)
    trainer(Fault("point", 4), monitor, alarm, max_epochs=9, logger=CSVLogger(tmp_path)).fit(signed(), *loaders())
    again = Detector(KINDS["collapse"]).replay(History.load(monitor.history.path))
    assert [a.line for a in again] == [a.line for a in alarm.alarms]


def test_all_ranks_raise_the_same_alarm_and_save_its_checkpoint() -> None:
    one, two = on_ranks(2, ranked.alarming, 2)
    assert one["lines"] == two["lines"]
    assert one["heard"] == two["heard"] == 1
    assert one["epochs"] == two["epochs"] == 2
    assert one["saved"]


def test_the_validity_benchmark_trains_goes_on_where_it_was_and_judges(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        command = [sys.executable, str(BENCHMARKS / "validity.py"), *args, "--runs", str(tmp_path / "runs.gz")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    train = ("train", "--jobs", "1", "--seeds", "1", "--only")
    assert "1 runs in" in run(*train, "simsiam_no_stop_gradient")
    assert "1 runs in" in run(*train, "simsiam,simsiam_no_stop_gradient")
    tables = run("judge", "--tuning")
    assert '| "collapse" | simsiam_no_stop_gradient | 1/1' in tables
    assert "| simsiam | 0/1 = 0%" in tables
    assert "featgeo alarm: total collapse" in tables
