"""Alarms in real runs: which are raised, where they are shown, on which loaders and layers."""

from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeneralizationGap,
    GeometryAlarm,
    GeometryEarlyStopping,
    Threshold,
)
from lightning_featgeo.alarms import KINDS, Detector
from lightning_featgeo.report import write_report
from tests._helpers.faults import SIGNALS, Fault, Offset, signed
from tests._helpers.models import SAFELY, Classifier, loaders, trainer
from tests._helpers.wandb_file import alerts, read


@pytest.mark.parametrize(("what", "title"), [("point", "total collapse"), ("directions", "dimensional collapse")])
def test_collapse_of_either_kind_stops_a_real_run_without_a_number_given(what: str, title: str) -> None:
    monitor, stop = FeatureGeometryMonitor(signals=SIGNALS), GeometryEarlyStopping("collapse")
    torch.manual_seed(0)
    run = trainer(Fault(what, 6), monitor, stop, max_epochs=30)
    run.fit(signed(), *loaders())
    assert (stop.alarms[-1].title, stop.alarms[-1].grade) == (title, "failure")
    assert 7 <= run.current_epoch <= 18
    assert ", as knn_accuracy has lost too: 0.97 → " in stop.alarms[-1].limit
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
    assert [str(w.message) for w in told if "usual causes" in str(w.message)] == [a.report for a in alarm.alarms]
    assert [(e["kind"], e["reason"]) for e in monitor.history.events] == [(a.called, a.line) for a in alarm.alarms]
    assert ("alarm", "total collapse") in [(a.called, a.title) for a in alarm.alarms]


def test_a_notice_is_told_kept_and_drawn_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = CSVLogger(tmp_path)
    monitor, stop = FeatureGeometryMonitor(signals=SIGNALS), GeometryEarlyStopping("collapse")
    torch.manual_seed(0)
    run = trainer(Offset(4), monitor, stop, max_epochs=10, logger=logger)
    run.fit(signed(), *loaders())
    (alarm,) = stop.alarms
    assert (alarm.grade, alarm.title) == ("notice", "total collapse")
    assert (run.current_epoch, stop.stopping_reason_message, stop.state) == (10, None, "quiet")
    assert not stop.sends_alert(alarm)
    assert [(e["kind"], e["alarm"]["grade"]) for e in monitor.history.events] == [("notice", "notice")]
    assert "featgeo notice: total collapse at epoch 6.00" in "".join(capsys.readouterr())
    page = write_report([tmp_path], tmp_path / "report.html", quiet=True).read_text(encoding="utf-8")
    assert "No alarm and no stop. To look at: total collapse at epoch 6.00" in page


def test_a_notice_that_stands_is_told_once_though_the_run_resumes(tmp_path: Path) -> None:
    path = tmp_path / "sixth.ckpt"
    for epochs, resumed in ((6, None), (8, path)):
        torch.manual_seed(0)
        stop = GeometryEarlyStopping("collapse")
        run = trainer(Offset(4), FeatureGeometryMonitor(signals=SIGNALS), stop, max_epochs=epochs)
        run.fit(signed(), *loaders(), ckpt_path=resumed, **(SAFELY if resumed else {}))
        assert [(alarm.grade, alarm.epoch) for alarm in stop.alarms] == [("notice", 6.0)]
        run.save_checkpoint(path)
    assert run.current_epoch == 8


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
    *notices, alert = alerts(tmp_path)
    assert [each.level for each in notices] == ["INFO"] * (len(alarm.alarms) - 1)
    assert alert.title == "featgeo: total collapse"
    assert alert.text == alarm.alarms[-1].report
    assert alert.level == "WARN"
    _, rows, summary = read(tmp_path)
    assert summary["featgeo_alarm"] == alarm.alarms[-1].line
    assert [row["featgeo/val/alarm"] for row in rows if "featgeo/val/alarm" in row][-1] == 1.0
    tables = [table.read_text() for table in tmp_path.rglob("*spectrum*.table.json")]
    assert any("(total collapse)" in table for table in tables)


def test_a_gap_between_loaders() -> None:
    train, val = loaders(train=64, batch=16)
    monitor = FeatureGeometryMonitor(signals=["knn_accuracy"], loader_names=("val", "train_clean"))
    stop = GeometryEarlyStopping(
        "featgeo/val/knn_accuracy", GeneralizationGap("train_clean", 0.99), patience=1, min_effect=0.0
    )
    run = trainer(monitor, stop, max_epochs=3)
    run.fit(Classifier(), train, [val, train])
    there = [check.elsewhere["train_clean/knn_accuracy"] for check in stop.detectors[0].checks]
    assert there == [value for _, value in monitor.history.series("featgeo/train_clean/knn_accuracy")]  # same weights
    wrong = trainer(monitor, GeometryEarlyStopping("featgeo/val/knn_accuracy", GeneralizationGap("train_clear")))
    with pytest.raises(ConfigurationError, match="featgeo/train_clear/knn_accuracy"):
        wrong.fit(Classifier(), train, [val, train])


class Broken(Callback):
    """NaN in the weights from the third epoch on."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch >= 2:
            with torch.no_grad():
                pl_module.net[0].weight.fill_(float("nan"))


def test_a_run_whose_features_are_no_numbers_any_more_is_stopped(tmp_path: Path) -> None:
    monitor, stop = FeatureGeometryMonitor(signals=SIGNALS), GeometryEarlyStopping("collapse")
    run = trainer(Broken(), monitor, stop, max_epochs=20, logger=CSVLogger(tmp_path))
    with pytest.warns(FeatureGeometryWarning):
        run.fit(signed(), *loaders())
    (alarm,) = stop.alarms
    assert (run.current_epoch, alarm.title, alarm.epoch, stop.state) == (4, "no finite features", 4.0, "alarm")
    assert "rows are NaN or infinite" in str(stop.stopping_reason_message)
    page = write_report([tmp_path], tmp_path / "report.html", quiet=True).read_text(encoding="utf-8")
    assert "no finite features at epoch 4.00" in page


def test_windows_that_tell_nothing_are_told_of_once() -> None:
    monitor, alarm = FeatureGeometryMonitor(signals=SIGNALS), GeometryAlarm("converged")
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
