"""What a run logs itself is kept in its history, beside the windows that it stands for."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_featgeo import FeatureGeometryMonitor, History, Windows
from lightning_featgeo.adapters import FeatureWatch
from tests._helpers.models import Classifier, loaders, trainer


class Logs(Classifier):
    """Logs on steps and over epochs, what is no number, and what is not finite."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        result = super().training_step(batch, batch_idx)
        self.log("loss", result["loss"] if isinstance(result, dict) else result, on_step=True, on_epoch=True)
        return result

    def on_validation_epoch_end(self) -> None:
        self.log("val/epoch", float(self.current_epoch + 1))
        self.log("val/broken", float("nan"))
        self.log_dict({"val": 1.0, "val_epoch": 2.0})


def monitor(**given: Any) -> FeatureGeometryMonitor:
    return FeatureGeometryMonitor(signals=["feature_std"], **given)


def fit(callback: pl.Callback, epochs: int, *more: pl.Callback, ckpt: Any = None, **given: Any) -> pl.Trainer:
    runs = trainer(callback, *more, max_epochs=epochs, **given)
    runs.fit(Logs(), *loaders(), ckpt_path=ckpt)
    return runs


def test_metrics_of_each_epoch_stand_beside_its_windows() -> None:
    watched = monitor()
    fit(watched, 3)
    metrics = watched.history.metrics
    assert metrics.series("val/epoch") == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    assert [epoch for epoch, _ in metrics.series("loss_epoch")] == [1.0, 2.0, 3.0]
    assert "loss" not in metrics.names()  # now a step's, now an epoch's
    assert "val" in metrics.names()  # beside a metric that is called val_epoch
    assert metrics.series("val/broken") == []
    times = [(record.epoch, record.step) for record in watched.history]
    assert metrics.at("val/epoch", times) == [1.0, 2.0, 3.0]
    assert not any(name.startswith("featgeo") for name in metrics.names())


def test_windows_inside_an_epoch_have_the_metrics_of_their_step() -> None:
    watched = monitor(stages=("train",), windows=Windows(every_n_train_steps=2))
    run = fit(watched, 1)
    steps = [moment.step for moment in watched.history.metrics.moments if "loss_step" in moment.values]
    assert steps == list(range(2, run.global_step + 1, 2))


def test_a_resumed_run_goes_on_with_them(tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    fit(monitor(), 2, save, enable_checkpointing=True)
    resumed = monitor()
    fit(resumed, 4, ckpt=tmp_path / "last.ckpt", enable_checkpointing=False)
    assert resumed.history.metrics.series("val/epoch") == [(float(i), float(i)) for i in (1, 2, 3, 4)]


def test_an_epochs_training_metrics_are_in_its_checkpoint(tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    first, resumed = monitor(), monitor()
    fit(first, 2, save, enable_checkpointing=True)
    fit(resumed, 3, ckpt=tmp_path / "last.ckpt", enable_checkpointing=False)
    before, after = (dict(one.history.metrics.series("loss_epoch")) for one in (first, resumed))
    assert sorted(before) == [1, 2]
    assert sorted(after) == [1, 2, 3]
    assert [after[epoch] for epoch in before] == list(before.values())


def test_another_file_of_a_run_says_what_still_stands(tmp_path: Path) -> None:
    watched, model = monitor(), Logs()
    run = trainer(watched, max_epochs=1, default_root_dir=tmp_path)
    run.fit(model, *loaders())
    of_fit = watched.history.path
    run.validate(model, loaders()[1], verbose=False)
    assert watched.history.path != of_fit
    files = [History.load(path) for path in (of_fit, watched.history.path)]
    assert [file.run["doing"] for file in files] == ["fit", "validate"]
    assert [file.metrics.last("val_loss") for file in files] == [pytest.approx(files[0].metrics.last("val_loss"))] * 2


@pytest.mark.parametrize("stages", [("val", "test"), ("val",)])
def test_a_test_after_the_fit_adds_its_own(stages: tuple[str, ...]) -> None:
    class Tested(Logs):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])
            self.log("test/accuracy", 0.5)

    watched, model = monitor(stages=stages), Tested()
    run = trainer(watched, max_epochs=1)
    run.fit(model, *loaders())
    run.test(model, loaders()[1])
    assert [value for _, value in watched.history.series("test/accuracy")] == [0.5]


def test_metrics_that_raise_cost_a_warning_and_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = monitor()
    monkeypatch.setattr(pl.Trainer, "callback_metrics", property(lambda self: {"a": torch.tensor(0.0).to("meta")}))
    with pytest.warns(UserWarning, match="keeping the run's own metrics"):
        fit(watched, 1)
    assert watched.history.series("featgeo/val/feature_std")


def test_a_loop_of_ones_own_gives_them_when_it_closes_a_window(tmp_path: Path) -> None:
    model = Classifier()
    watch = FeatureWatch(model, signals=["feature_std"], on_error="raise", history_path=tmp_path / "h.jsonl")
    for epoch in (1, 2):
        watch.open("val")
        for batch in loaders()[1]:
            with torch.no_grad(), watch.batch(batch):
                model(batch[0])
        watch.close(epoch=epoch, metrics={"val/loss": torch.tensor(1 / epoch)})
    watch.remove()
    assert History.load(tmp_path / "h.jsonl").series("val/loss") == [(1.0, 1.0), (2.0, 0.5)]


def test_one_that_is_no_number_costs_itself_only_and_windows_count_where_no_epoch_is_given() -> None:
    model, batch = Classifier(), next(iter(loaders()[1]))
    watch = FeatureWatch(model, signals=["feature_std"])

    def windows() -> None:
        for number in range(3):
            watch.open("val")
            with torch.no_grad(), watch.batch(batch):
                model(batch[0])
            watch.close(metrics={"text": "none", "pair": torch.ones(2), "loss": 1.0 + number})

    with pytest.warns(UserWarning, match="keeping the metric '(text|pair)'"):
        windows()
    watch.remove()
    assert watch.history.metrics.names() == ["loss"]
    assert watch.history.metrics.series("loss") == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    assert [epoch for epoch, _ in watch.history.series("featgeo/val/feature_std")] == [1.0, 2.0, 3.0]
