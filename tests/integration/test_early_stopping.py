"""Stop rules as pure functions, and the stopper in real runs."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from lightning_featgeo import (
    ConfigurationError,
    Drop,
    FeatureGeometryMonitor,
    GeneralizationGap,
    GeometryEarlyStopping,
    Plateau,
    Threshold,
    Windows,
)
from tests._helpers.models import Classifier, loaders, trainer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GeometryEarlyStopping("val_loss"), "watches kinds"),
        (lambda: GeometryEarlyStopping("colapse"), "Did you mean 'collapse'"),
        (lambda: GeometryEarlyStopping("collapse", Drop()), "brings its own rules"),
        (lambda: GeometryEarlyStopping([]), "is empty"),
        (lambda: GeometryEarlyStopping("featgeo/test/feature_std"), "nothing left to stop"),
        (lambda: GeometryEarlyStopping("featgeo/val/feature_std", GeneralizationGap("val")), "with itself"),
        (lambda: GeometryEarlyStopping(action="halt"), "unknown action"),
        (lambda: GeometryEarlyStopping(action=[]), "action= is empty"),
        (lambda: GeometryEarlyStopping(hysteresis=1.0), "hysteresis"),
        (lambda: GeometryEarlyStopping("featgeo/val/id_two_nn", Drop()), "use Threshold"),
        (lambda: GeometryEarlyStopping("featgeo/val/feature_sdt"), "Did you mean .featgeo/val/feature_std."),
        (lambda: GeometryEarlyStopping(patience=0), "patience"),
    ],
)
def test_wrong_rules_are_refused(make, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


class Collapse(Callback):
    """Shrinks the features towards one point from an epoch on: a real collapse, in the weights."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch >= self.at:
            with torch.no_grad():
                pl_module.net[0].weight.zero_()
                pl_module.net[0].bias.fill_(1.0)
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 0.0


def test_it_stops_on_a_collapse_says_why_and_writes_it_down() -> None:
    monitor, stop = FeatureGeometryMonitor(), GeometryEarlyStopping("featgeo/val/feature_std", Drop(0.5))
    assert isinstance(stop, EarlyStopping)
    run = trainer(Collapse(3), monitor, stop, max_epochs=20)
    with pytest.warns(UserWarning, match="has no value"):  # identical rows: the ranks are gaps
        run.fit(Classifier(), *loaders())
    assert run.current_epoch == 5
    assert stop.stopped_epoch == 4
    reason = stop.stopping_reason_message
    for part in ("featgeo/val/feature_std fell 100%", "limit 50%", "stopping", "2 checks in a row", "epoch 5.00"):
        assert part in reason
    (event,) = monitor.history.events
    assert event["reason"] in reason
    assert event["alarm"] == stop.alarms[0].as_dict()
    assert stop.state == "alarm"


def test_gaps_and_warm_up_are_no_checks() -> None:
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), patience=2, warmup=1)
    monitor = FeatureGeometryMonitor(windows=Windows(every_n_epochs=2), signals=["feature_std"])
    run = trainer(monitor, stop, max_epochs=20)
    run.fit(Classifier(), *loaders())
    assert len(stop.detectors[0].checks) == 3  # one warm-up, two checks
    assert run.current_epoch == 6


def test_it_stops_inside_an_epoch_when_a_window_closes() -> None:
    stop = GeometryEarlyStopping("featgeo/train/feature_std", Threshold(below=9.0), patience=2)
    monitor = FeatureGeometryMonitor(stages="train", windows=Windows(every_n_train_steps=2), signals=["feature_std"])
    run = trainer(monitor, stop, max_epochs=5)
    run.fit(Classifier(), *loaders(train=1024))
    assert run.global_step == 4


def test_a_name_nobody_logs_is_refused_and_state_resumes(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="never logs"):
        trainer(FeatureGeometryMonitor(signals=["rankme"]), GeometryEarlyStopping()).fit(Classifier(), *loaders())
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Plateau(50))
    run = trainer(FeatureGeometryMonitor(), stop, max_epochs=2)
    run.fit(Classifier(), *loaders())
    run.save_checkpoint(tmp_path / "x.ckpt")
    again = GeometryEarlyStopping("featgeo/val/feature_std", Plateau(50))
    trainer(FeatureGeometryMonitor(), again, max_epochs=3).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "x.ckpt")
    assert again.detectors[0].checks[:2] == stop.detectors[0].checks
    assert len(again.detectors[0].checks) == 3


def test_without_a_monitor_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs a FeatureGeometryMonitor"):
        trainer(GeometryEarlyStopping()).fit(Classifier(), *loaders())


def test_a_second_fit_has_no_past() -> None:
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), patience=3)
    for _ in range(2):
        run = trainer(FeatureGeometryMonitor(signals=["feature_std"]), stop, max_epochs=9)
        run.fit(Classifier(), *loaders())
        assert run.current_epoch == 3
        assert len(stop.detectors[0].checks) == 3


def test_every_stopper_reports_also_when_another_was_first() -> None:
    stops = [GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), patience=p) for p in (1, 2)]
    run = trainer(FeatureGeometryMonitor(signals=["feature_std"]), *stops, max_epochs=9, min_epochs=4)
    run.fit(Classifier(), *loaders())
    assert run.current_epoch == 4
    assert all(stop.stopping_reason_message for stop in stops)
