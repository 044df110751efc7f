"""The callback in real runs: its curves, its line, sanity checks, stages, loaders, epochs and steps."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeometryMetric,
    Neighbors,
    Windows,
)
from lightning_featgeo.watch.announcement import mebibytes
from tests._helpers.models import Classifier, loaders, strict, trainer


def features_of(model: Classifier, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        parts = [(model.net[:-1](x), y) for x, y in loader]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def test_validation_curves_equal_the_metric_on_the_final_weights() -> None:
    model, (train, val) = Classifier(), loaders()
    monitor = strict()
    run = trainer(monitor, max_epochs=3)
    run.fit(model, train, val)
    metric = GeometryMetric(num_classes=10)
    metric.update(*features_of(model, val))
    expected = metric.window().values
    last = monitor.history.records[-1]
    assert [r.epoch for r in monitor.history] == [1.0, 2.0, 3.0]
    assert last.values == pytest.approx(expected, rel=1e-5)
    for name, value in last.values.items():
        if name != "n_samples":
            assert float(run.callback_metrics[f"featgeo/val/{name}"]) == pytest.approx(value, rel=1e-12)
    assert float(run.callback_metrics["featgeo_monitor/val/n_samples"]) == 200
    assert 0 < float(run.callback_metrics["featgeo_monitor/val/share"]) <= 1
    assert float(run.callback_metrics["featgeo_monitor/val/id_two_nn_se"]) > 0


def test_the_block_names_layer_reason_dimension_classes_signals_memory(capsys) -> None:
    monitor = strict()
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    told = monitor.history.run["described"]
    for part in (
        "the input of 'net.3'",
        "the loss scores against classes",
        "48 dimensions",
        "classes: 10\n",
        "stages: val\n",
    ):
        assert part in told
    assert f"memory: {mebibytes(monitor.history.run['memory_bytes'])} a window" in told
    printed = capsys.readouterr().err
    assert all(len(line) <= 100 for line in printed.splitlines() if line.startswith("  "))
    for line in told.splitlines():  # each begins a line of its own in print
        what, _, value = line.partition(": ")
        assert " ".join(value.split()) in " ".join(printed.split())
        assert f"\n  {what:<8} {value[:40]}" in printed or what == "watching"


def test_the_sanity_check_leaves_no_trace_but_finds_errors() -> None:
    monitor = strict(layer="net.1")
    trainer(monitor, max_epochs=1, num_sanity_val_steps=2).fit(Classifier(), *loaders())
    assert [r.values["n_samples"] for r in monitor.history] == [200]
    model = Classifier()
    with pytest.raises(ConfigurationError, match="does not fit features of shape"):
        trainer(strict(layer="net.1", pool="b c h w -> b c")).fit(model, *loaders())
    assert model.global_step == 0  # said before anything was trained


def test_train_val_and_test_stages() -> None:
    monitor = strict(stages=("train", "val", "test"), signals=["effective_rank", "n_samples"])
    run, model = trainer(monitor, max_epochs=2), Classifier()
    train, val = loaders()
    run.fit(model, train, val)
    assert [(r.stage, r.values["n_samples"]) for r in monitor.history] == [("val", 200), ("train", 256)] * 2
    assert "featgeo/train/n_samples" in run.callback_metrics
    run.validate(model, val, verbose=False)
    run.test(model, val, verbose=False)
    a, b = monitor.history.records[-2:]
    assert (a.stage, b.stage) == ("val", "test")
    assert a.values == pytest.approx(b.values, rel=1e-9)


def test_without_validation_it_falls_to_training_windows_and_says_so(capsys) -> None:
    class TrainOnly(Classifier):
        validation_step = None

    monitor = strict(signals=["feature_std"])
    trainer(monitor).fit(TrainOnly(), loaders()[0])
    assert [r.stage for r in monitor.history] == ["train", "train"]
    assert "there is no validation loader" in capsys.readouterr().err


def test_several_validation_loaders_and_their_names() -> None:
    train, val = loaders()
    for names, expected in ((None, ["val", "val_1"]), (("val", "Train clean!"), ["val", "train_clean"])):
        monitor = strict(loader_names=names, signals=["effective_rank"])
        run = trainer(monitor, max_epochs=1)
        run.fit(Classifier(), train, [val, DataLoader(train.dataset, 64)])
        assert [r.stage for r in monitor.history] == expected
        assert [r.values["n_samples"] for r in monitor.history] == [200, 256]
        assert f"featgeo/{expected[1]}/effective_rank" in run.callback_metrics


def test_windows_of_n_steps_reach_loggers_where_lightning_files_their_last_batch(tmp_path) -> None:
    monitor = strict(stages="train", windows=Windows(every_n_train_steps=3), signals=["feature_std"])
    logger = CSVLogger(tmp_path)
    run = trainer(monitor, max_epochs=2, logger=logger, log_every_n_steps=50)
    run.fit(Classifier(), *loaders(train=512))
    assert [r.step for r in monitor.history] == [3, 6, 9, 12, 15]
    epochs = [r.epoch for r in monitor.history]
    assert epochs == sorted(set(epochs))
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column, step = (rows[0].split(",").index(n) for n in ("featgeo/train/feature_std", "step"))
    logged = {int(r.split(",")[step]): float(r.split(",")[column]) for r in rows[1:] if r.split(",")[column]}
    assert logged == pytest.approx({r.step - 1: r.values["feature_std"] for r in monitor.history})
    assert "featgeo/train/feature_std" in run.callback_metrics


def test_every_n_epochs() -> None:
    monitor = strict(windows=Windows(every_n_epochs=2), signals=["feature_std"], stages=("train", "val"))
    run = trainer(monitor, max_epochs=5)
    run.fit(Classifier(), *loaders())
    assert [(r.stage, r.epoch) for r in monitor.history] == [("val", 2), ("train", 2), ("val", 4), ("train", 4)]
    assert "featgeo/val/feature_std" not in run.callback_metrics  # epoch 5 has no value, and epoch 4's is stale


def test_fast_dev_run_and_no_logger_and_several_loggers(tmp_path) -> None:
    trainer(strict(), fast_dev_run=True).fit(Classifier(), *loaders())
    two = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
    trainer(strict(signals=["feature_std"]), max_epochs=1, logger=two).fit(Classifier(), *loaders())
    for logger in two:
        assert "featgeo/val/feature_std" in (tmp_path / logger.name / "version_0" / "metrics.csv").read_text()


def test_several_loaders_as_a_dict_and_watched_before_they_exist() -> None:
    train, val = loaders()
    monitor = strict(signals=["feature_std"])
    watching = pl.callbacks.EarlyStopping("featgeo/b/feature_std", mode="max")
    trainer(monitor, watching, max_epochs=1).fit(Classifier(), train, {"a": val, "b": val})
    assert [r.stage for r in monitor.history] == ["a", "b"]


def test_stale_values_of_step_windows_are_withdrawn_at_the_next_epoch() -> None:
    stop = pl.callbacks.EarlyStopping("featgeo/train/feature_std", mode="max", patience=1, min_delta=99.0)
    monitor = strict(stages="train", windows=Windows(every_n_train_steps=12), signals=["feature_std"])
    run = trainer(monitor, stop, max_epochs=7)
    run.fit(Classifier(), *loaders())  # 4 steps an epoch: windows close in epochs 3 and 6
    assert run.current_epoch == 6
    short = FeatureGeometryMonitor(stages="train", windows=Windows(every_n_train_steps=100))
    with pytest.warns(FeatureGeometryWarning, match="before a window of 100 steps was full"):
        trainer(short).fit(Classifier(), *loaders())


def test_an_unwatched_stage_alone_is_nobodys_business() -> None:
    class NoHead(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Identity())

    trainer(FeatureGeometryMonitor(stages="val")).test(NoHead(), loaders()[1], verbose=False)


def test_a_property_that_is_not_ready_and_a_large_seed() -> None:
    class Unready(Classifier):
        @property
        def num_classes(self) -> int:
            raise RuntimeError("not set up")

    monitor = strict(neighbors=Neighbors(seed=2**40), signals=["id_two_nn"])
    trainer(monitor, max_epochs=1).fit(Unready(), *loaders())
    assert "id_two_nn" in monitor.history.records[0].values
