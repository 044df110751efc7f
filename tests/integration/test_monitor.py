"""The callback in real runs: stages, windows, loaders, layers, errors and gaps."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from data import digits
from lightning.pytorch.loggers import CSVLogger
from models import Classifier, loaders, trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeometryMetric,
    History,
)


def strict(**kwargs: Any) -> FeatureGeometryMonitor:
    return FeatureGeometryMonitor(**{"on_error": "raise", **kwargs})


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
    metric = GeometryMetric(num_classes=10, seed=monitor.history.records and 0)
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


def test_the_line_names_layer_reason_dimension_classes_signals_memory(capsys, caplog) -> None:
    monitor = strict()
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    line = monitor.history.run["described"]
    for part in ("the input of 'net.3'", "last trainable layer", "48 dimensions", "10 classes", "stages val"):
        assert part in line
    memory = monitor.history.run["memory_bytes"]
    assert f"{memory:,} bytes" in line
    assert line in caplog.text + capsys.readouterr().err


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


def test_without_validation_it_falls_to_training_windows_and_says_so(caplog) -> None:
    class TrainOnly(Classifier):
        validation_step = None

    monitor = strict(signals=["feature_std"])
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(monitor).fit(TrainOnly(), loaders()[0])
    assert [r.stage for r in monitor.history] == ["train", "train"]
    assert "there is no validation loader" in caplog.text


def test_several_validation_loaders_and_their_names() -> None:
    train, val = loaders()
    for names, expected in ((None, ["val", "val_1"]), (("val", "Train clean!"), ["val", "train_clean"])):
        monitor = strict(loader_names=names, signals=["effective_rank"])
        run = trainer(monitor, max_epochs=1)
        run.fit(Classifier(), train, [val, DataLoader(train.dataset, 64)])
        assert [r.stage for r in monitor.history] == expected
        assert [r.values["n_samples"] for r in monitor.history] == [200, 256]
        assert f"featgeo/{expected[1]}/effective_rank" in run.callback_metrics


def test_windows_of_n_steps_reach_loggers_at_their_step(tmp_path) -> None:
    monitor = strict(stages="train", every_n_train_steps=3, signals=["feature_std"])
    logger = CSVLogger(tmp_path)
    run = trainer(monitor, max_epochs=2, logger=logger, log_every_n_steps=50)
    run.fit(Classifier(), *loaders(train=512))
    assert [r.step for r in monitor.history] == [3, 6, 9, 12, 15]
    epochs = [r.epoch for r in monitor.history]
    assert epochs == sorted(set(epochs))
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column, step = (rows[0].split(",").index(n) for n in ("featgeo/train/feature_std", "step"))
    logged = {int(r.split(",")[step]): float(r.split(",")[column]) for r in rows[1:] if r.split(",")[column]}
    assert logged == pytest.approx({r.step: r.values["feature_std"] for r in monitor.history})
    assert "featgeo/train/feature_std" in run.callback_metrics


def test_several_layers_by_glob_and_by_list() -> None:
    monitor = strict(layer=["net.0", "net.*"], signals=["effective_rank"])
    run = trainer(monitor, max_epochs=1)
    run.fit(Classifier(), *loaders())
    assert [r.layer for r in monitor.history] == [None, "net_1", "net_2", "net_3"]
    assert {"featgeo/val/effective_rank", "featgeo/val/net_3/effective_rank"} <= set(run.callback_metrics)


class Returns(Classifier):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        h = self.net[:-1](batch[0])
        return {"loss": cross_entropy(self.net[-1](h), batch[1]), "features": h}


@pytest.mark.parametrize("features", ["features", lambda outputs, batch: outputs["features"]])
def test_features_from_the_steps_output(features) -> None:
    monitor, tapped = strict(features=features, head="net.3"), strict(head="net.3")
    trainer(monitor, tapped, max_epochs=1).fit(Returns(), *loaders())
    a, b = monitor.history.records[-1].values, tapped.history.records[-1].values
    assert a == pytest.approx(b, rel=1e-9)
    with pytest.raises(ConfigurationError, match=r"no such key. Did you mean 'features'"):
        trainer(strict(features="feature")).fit(Returns(), *loaders())
    with pytest.raises(ConfigurationError, match="must give a tensor"):
        trainer(strict(features=lambda outputs, batch: None)).fit(Returns(), *loaders())


def test_every_n_epochs() -> None:
    monitor = strict(every_n_epochs=2, signals=["feature_std"], stages=("train", "val"))
    run = trainer(monitor, max_epochs=5)
    run.fit(Classifier(), *loaders())
    assert [(r.stage, r.epoch) for r in monitor.history] == [("val", 2), ("train", 2), ("val", 4), ("train", 4)]
    assert "featgeo/val/feature_std" not in run.callback_metrics  # epoch 5 has no value, and epoch 4's is stale


def test_activation_checkpointing_and_manual_optimisation_count_rows_once() -> None:
    class Recomputed(Classifier):
        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False)

    class Manual(Classifier):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            loss = cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    for model in (Recomputed(), Manual()):
        monitor = strict(stages="train", signals=["n_samples"])
        trainer(monitor, max_epochs=1).fit(model, *loaders())
        assert [r.values["n_samples"] for r in monitor.history] == [256]


def test_a_model_compiled_before_fit_is_watched() -> None:
    torch._dynamo.reset()
    model = Classifier()
    model.net = torch.compile(model.net, backend="aot_eager")
    monitor = strict(layer="net.1", stages=("train", "val"), signals=["n_samples"])
    for _ in range(2):  # a second fit of the same compiled model too
        trainer(monitor, max_epochs=1).fit(model, *loaders())
    assert [r.values["n_samples"] for r in monitor.history] == [200, 256] * 2


def test_a_model_compiled_and_called_before_fit_is_a_gap_with_advice() -> None:
    torch._dynamo.reset()
    model = Classifier()
    model.net = torch.compile(model.net, backend="aot_eager")
    model.eval()
    with torch.no_grad():
        model(torch.randn(64, 64))
        model(torch.randn(8, 64))
    model.train()
    monitor = FeatureGeometryMonitor(layer="net.1", signals=["feature_std"])
    with pytest.warns(FeatureGeometryWarning, match="compiled and called before fit, compile it anew"):
        trainer(monitor, max_epochs=1, limit_train_batches=1).fit(model, *loaders())


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"layer": "net.9"}, "no module 'net.9'"),
        ({"head": "nett"}, "Did you mean 'net'"),
        ({"head": "net.*"}, "fits 4 modules"),
        ({"signals": ["effective_rnk"]}, "Did you mean 'effective_rank'"),
        ({"stages": ("valid",)}, "Did you mean 'val'"),
        ({"stages": ()}, "stages is empty"),
        ({"pool": "avg"}, "use one of mean"),
        ({"layer": "net", "features": "h"}, "not both"),
        ({"every_n_epochs": 0}, "at least 1"),
        ({"every_n_train_steps": 5}, 'add "train" to stages'),
        ({"views": 0}, "at least one view"),
        ({"labels": 7}, "has no such part"),
        ({"signals": ["nc1"], "labels": None}, "nc1 need class labels"),
        ({"signals": ["nc1"], "layer": "net.1"}, "give num_classes"),
    ],
)
def test_wrong_settings_are_an_error_at_fits_start_or_first_batch(kwargs: dict, says: str) -> None:
    model = Classifier()
    with pytest.raises(ConfigurationError, match=says):
        trainer(FeatureGeometryMonitor(**kwargs)).fit(model, *loaders())


class Breaks(Classifier):
    """Its features change dimension, or turn into NaN, in the second epoch's validation."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        h = self.net[:-1](batch[0])
        if self.current_epoch == 1 and self.how == "dimension" and batch_idx == 1:
            h = h[:, :7]
        if self.current_epoch == 1 and self.how == "nan":
            h = h * torch.nan
        if self.current_epoch == 1 and self.how == "some nan":
            h = torch.where(torch.arange(len(h))[:, None] == 3, torch.nan, h)
        return {"h": h}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("dimension", "48 dimensions in the first batch and have 7"),
        ("nan", "every row was left out"),
        ("some nan", "4 rows"),
    ],
)
def test_an_error_of_ours_is_one_warning_and_a_gap_and_the_next_window_is_whole(how: str, says: str) -> None:
    monitor = FeatureGeometryMonitor(features="h", signals=["effective_rank", "id_two_nn"])
    run = trainer(monitor, max_epochs=3)
    with pytest.warns(FeatureGeometryWarning) as caught:
        run.fit(Breaks(how), *loaders())
    ours = [str(w.message) for w in caught if issubclass(w.category, FeatureGeometryWarning)]
    assert any(says in text for text in ours)
    assert len(ours) <= 2
    first, second, third = monitor.history.records
    assert "effective_rank" in first.values
    assert "effective_rank" in third.values
    if how != "some nan":
        assert set(second.gaps) == {"effective_rank", "id_two_nn"}


def test_a_failing_signal_never_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(self, *args):
        raise MemoryError("no room")

    monkeypatch.setattr("lightning_featgeo.metrics.geometry.GeometryMetric.window", boom)
    monitor = FeatureGeometryMonitor(signals=["feature_std"])
    run = trainer(monitor, max_epochs=2)
    with pytest.warns(FeatureGeometryWarning, match="MemoryError: no room"):
        run.fit(Classifier(), *loaders())
    assert run.current_epoch == 2
    assert [r.gaps["feature_std"].split()[0] for r in monitor.history] == ["computing", "computing"]
    assert not [name for name in run.callback_metrics if name.startswith("featgeo/val")]


def test_labels_out_of_range_and_ignored_ones() -> None:
    x, y = digits()
    odd = DataLoader(TensorDataset(x[:200] / 16, torch.where(y[:200] == 3, -100, y[:200])), 50)
    monitor = strict(signals=["nc1", "n_samples"])

    class Quiet(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self(batch[0])

    trainer(monitor, max_epochs=1).fit(Quiet(), loaders()[0], odd)
    assert monitor.history.records[0].values["n_samples"] == 200
    wrong = DataLoader(TensorDataset(x[:200] / 16, y[:200] + 5), 50)
    gap = FeatureGeometryMonitor(signals=["nc1"])
    with pytest.warns(FeatureGeometryWarning, match="not below num_classes=10"):
        trainer(gap, max_epochs=1).fit(Quiet(), loaders()[0], wrong)


def test_a_conv_map_and_a_token_model_are_pooled_and_said() -> None:
    class Convolution(Classifier):
        def __init__(self) -> None:
            body = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            super().__init__(nn.Sequential(*body, nn.Linear(6, 10)))

    monitor = strict(layer="net.1", num_classes=10)
    trainer(monitor, max_epochs=1).fit(Convolution(), *loaders())
    assert "6 dimensions, pooled by 'b c h w -> b c'" in monitor.history.run["described"]
    assert "knn_accuracy" in monitor.history.records[0].values


def test_fast_dev_run_and_no_logger_and_several_loggers(tmp_path) -> None:
    trainer(strict(), fast_dev_run=True).fit(Classifier(), *loaders())
    two = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
    trainer(strict(signals=["feature_std"]), max_epochs=1, logger=two).fit(Classifier(), *loaders())
    for logger in two:
        assert "featgeo/val/feature_std" in (tmp_path / logger.name / "version_0" / "metrics.csv").read_text()


def test_the_history_is_next_to_the_run_and_readable_after_a_crash(tmp_path) -> None:
    class Crashes(Classifier):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                raise KeyboardInterrupt

    monitor = strict(signals=["feature_std", "effective_rank"])
    run = trainer(monitor, max_epochs=5, logger=CSVLogger(tmp_path))
    with pytest.raises(SystemExit) if pl.__name__ == "x" else pytest.raises((KeyboardInterrupt, SystemExit)):
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
    assert [(r.window, r.epoch) for r in c.history] == [(4, 3.0)]
