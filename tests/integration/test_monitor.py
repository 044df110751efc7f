"""The callback in real runs: stages, windows, loaders, layers, errors and gaps."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
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
from tests._helpers.data import digits
from tests._helpers.models import Classifier, loaders, trainer


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
    for each in (monitor, tapped):
        torch.manual_seed(0)
        trainer(each, max_epochs=1).fit(Returns(), *loaders(shuffle=False))
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
    for _ in range(2):  # a second fit of the same compiled model too, with a history of its own
        trainer(monitor, max_epochs=1).fit(model, *loaders())
        assert [r.values["n_samples"] for r in monitor.history] == [200, 256]


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
    with pytest.raises((KeyboardInterrupt, SystemExit)):
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
    assert [(r.window, r.epoch) for r in c.history] == [(0, 1.0), (1, 2.0), (2, 3.0)]


# --- what an independent reader broke --------------------------------------------------------------------------------


class Net(Classifier):
    """A classifier whose forward is given."""

    def __init__(self, net: nn.Module, forward: Any) -> None:
        super().__init__(net)
        self.run = forward

    def forward(self, x):
        return self.run(self.net, x)


def test_the_hook_never_reaches_into_the_users_forward() -> None:
    def per_sample(net, x):
        return net[3](torch.func.vmap(net[:3], randomness="different")(x))

    monitor = FeatureGeometryMonitor(layer="net.0", signals=["feature_std"])
    with pytest.warns(FeatureGeometryWarning, match=r"inside torch\.func"):
        trainer(monitor, max_epochs=1).fit(Net(Classifier().net, per_sample), *loaders())
    nested = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    head = nn.Linear(8, 10)
    model = Net(
        nn.ModuleList([nested, head]),
        lambda net, x: net[1](
            net[0](x.view(-1, 8, 8), src_key_padding_mask=torch.arange(8).expand(len(x), 8) > 5)[:, 0]
        ),
    )
    for kwargs in ({}, {"layer": "net.0.layers.0", "num_classes": 10}):
        monitor = FeatureGeometryMonitor(signals=["feature_std"], **kwargs)
        run = trainer(monitor, max_epochs=1)
        if kwargs:
            with pytest.warns(FeatureGeometryWarning, match="nested"):
                run.fit(model, *loaders())
        else:
            run.fit(model, *loaders())
            assert monitor.history.series("featgeo/val/feature_std")


def test_globs_stay_within_a_part_and_one_silent_layer_gaps_alone() -> None:
    class Blocks(Classifier):
        def __init__(self) -> None:
            super().__init__(
                nn.ModuleDict({"a": nn.Sequential(nn.Linear(64, 8)), "b": nn.Linear(8, 10), "c": nn.ReLU()})
            )

        def forward(self, x):
            return self.net["b"](self.net["a"](x))

    monitor = FeatureGeometryMonitor(layer="net*.*", signals=["feature_std"])
    with pytest.warns(FeatureGeometryWarning, match=r"'net\.c' did not run in val"):
        trainer(monitor, max_epochs=1).fit(Blocks(), *loaders())
    assert [r.layer for r in monitor.history] == [None, "net_b", "net_c"]
    assert [bool(r.gaps) for r in monitor.history] == [False, False, True]


@pytest.mark.parametrize("signals", ["auto", ["feature_std"]])
def test_a_window_that_nothing_reached_is_a_gap_also_before_auto_has_chosen(signals) -> None:
    class HeadOnlyInTraining(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.net[:-1](batch[0])

    monitor = FeatureGeometryMonitor(head="net.3", signals=signals)
    with pytest.warns(FeatureGeometryWarning, match=r"'net\.3' did not run in val"):
        trainer(monitor, max_epochs=1).fit(HeadOnlyInTraining(), *loaders())
    assert "did not run" in monitor.history.records[0].gaps["feature_std"]


def test_two_names_for_one_curve_are_refused() -> None:
    for monitors in ([strict(layer="net.0"), strict(layer="net.1")], [strict(loader_names=("a", "b")), strict()]):
        if monitors[0].settings.loader_names:
            with pytest.raises(ConfigurationError, match="would both be logged as 'a'"):
                strict(loader_names=("A", "a"))
            continue
        with pytest.raises(ConfigurationError, match="two FeatureGeometryMonitors would both log"):
            trainer(*monitors).fit(Classifier(), *loaders())
    a, b = strict(stages="val", signals=["feature_std"]), strict(stages="train", signals=["feature_std"])
    watching = pl.callbacks.EarlyStopping("featgeo/train/feature_std", mode="max")
    trainer(a, b, watching, max_epochs=1).fit(Classifier(), *loaders())
    assert (len(a.history), len(b.history)) == (1, 1)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"k": 1}, "k must be at least 2"),
        ({"bank_size": 1}, "bank_size"),
        ({"num_classes": 0}, "num_classes"),
        ({"views": "bv"}, 'use "auto", a number, "v b"'),
    ],
)
def test_wrong_numbers_are_refused_when_the_monitor_is_built(kwargs: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**kwargs)


def test_a_wrong_selector_is_an_error_in_the_sanity_check_and_a_gap_once_training_has_begun() -> None:
    for kwargs in ({"labels": "nope"}, {"signals": ["nc1"], "labels": None}):
        model = Classifier()
        with pytest.raises(ConfigurationError):
            trainer(FeatureGeometryMonitor(every_n_epochs=3, **kwargs)).fit(model, *loaders())
        late = FeatureGeometryMonitor(**kwargs)
        run = trainer(late, num_sanity_val_steps=0)
        with pytest.warns(FeatureGeometryWarning, match="Training goes on|has no value"):
            run.fit(Classifier(), *loaders())
        assert run.current_epoch == 2
        assert all(r.gaps for r in late.history)


def test_time_first_features_are_refused_and_sample_major_views_can_be_said() -> None:
    def recurrent(net, x):
        return net[1](net[0](x.view(-1, 8, 8).transpose(0, 1))[0][-1])

    model = Net(nn.ModuleList([nn.LSTM(8, 16), nn.Linear(16, 10)]), recurrent)
    with pytest.raises(ConfigurationError, match="axis 1 seems to be the batch"):
        trainer(strict(layer="net.0")).fit(model, *loaders())
    monitor = strict(layer="net.0", pool="t b d -> b d", num_classes=10)
    trainer(monitor, max_epochs=1).fit(model, *loaders())
    assert monitor.history.records[0].values["n_samples"] == 200


@pytest.mark.parametrize("broken", ["history", "logger"])
def test_one_broken_sink_leaves_the_others_alone(broken: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
    monitor = FeatureGeometryMonitor(stages="train", every_n_train_steps=2, signals=["feature_std"])
    run = trainer(monitor, max_epochs=1, logger=loggers)
    if broken == "history":
        (tmp_path / "a" / "version_0").mkdir(parents=True)
        (tmp_path / "a" / "version_0" / "featgeo").write_text("in the way")
        loggers[0]._version = 0
        says = "can't be written"
    else:
        says = "logging to CSVLogger failed with OSError: disk is full"
        original = loggers[0].log_metrics

        def log_metrics(metrics, step=None):
            if any(name.startswith("featgeo/") for name in metrics):
                raise OSError("disk is full")
            original(metrics, step)

        monkeypatch.setattr(loggers[0], "log_metrics", log_metrics)
    with pytest.warns(FeatureGeometryWarning, match=says):
        run.fit(Classifier(), *loaders())
    assert len(monitor.history) == 2
    assert "featgeo/train/feature_std" in run.callback_metrics
    assert "featgeo/train/feature_std" in (tmp_path / "b" / "version_0" / "metrics.csv").read_text()


def test_a_copied_encoder_is_not_mistaken_for_the_watched_one() -> None:
    class Teacher(Classifier):
        def on_train_start(self) -> None:
            import copy

            self.ema = [copy.deepcopy(self.net)]
            for p in self.ema[0].parameters():
                p.data.zero_()

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if hasattr(self, "ema"):
                self.ema[0](batch[0])
            self(batch[0])

    monitor = strict(head="net.3", signals=["feature_std"])
    trainer(monitor, max_epochs=1).fit(Teacher(), *loaders())
    assert monitor.history.records[0].values["feature_std"] > 0.1


def test_several_loaders_as_a_dict_and_watched_before_they_exist() -> None:
    train, val = loaders()
    monitor = strict(signals=["feature_std"])
    watching = pl.callbacks.EarlyStopping("featgeo/val_1/feature_std", mode="max")
    trainer(monitor, watching, max_epochs=1).fit(Classifier(), train, {"a": val, "b": val})
    assert [r.stage for r in monitor.history] == ["val", "val_1"]


def test_stale_values_of_step_windows_are_withdrawn_at_the_next_epoch() -> None:
    stop = pl.callbacks.EarlyStopping("featgeo/train/feature_std", mode="max", patience=1, min_delta=99.0)
    monitor = strict(stages="train", every_n_train_steps=12, signals=["feature_std"])
    run = trainer(monitor, stop, max_epochs=7)
    run.fit(Classifier(), *loaders())  # 4 steps an epoch: windows close in epochs 3 and 6
    assert run.current_epoch == 6
    short = FeatureGeometryMonitor(stages="train", every_n_train_steps=100)
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

    monitor = strict(seed=2**40, signals=["id_two_nn"])
    trainer(monitor, max_epochs=1).fit(Unready(), *loaders())
    assert "id_two_nn" in monitor.history.records[0].values


def test_one_batch_of_features_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_featgeo.capture.stash.SLOT_BYTES", 1000)
    monitor = FeatureGeometryMonitor(layer="net", signals=["feature_std"])
    with pytest.warns(FeatureGeometryWarning, match="watch a smaller layer"):
        trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())


def test_a_signal_that_cannot_be_had_is_found_late_and_costs_no_other() -> None:
    late = FeatureGeometryMonitor(layer=["net.0", "net.1"], signals=["nc1", "feature_std"])
    with pytest.warns(FeatureGeometryWarning, match="nc1 has no value: needs the number of classes"):
        trainer(late, max_epochs=1, num_sanity_val_steps=0).fit(Classifier(), *loaders())
    for record in late.history:
        assert set(record.values) == {"feature_std", "n_samples"}
        assert set(record.gaps) == {"nc1"}
    early = FeatureGeometryMonitor(layer=["net.0", "net.1"], signals=["nc1", "feature_std"])
    with pytest.raises(ConfigurationError, match="nc1 needs the number of classes"):
        trainer(early, max_epochs=1).fit(Classifier(), *loaders())


def test_the_progress_bar_shows_the_chosen_curve_under_a_name_that_fits() -> None:
    shown: list[dict] = []

    class Bar(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            shown.append({k: v for k, v in trainer.progress_bar_metrics.items() if k != "v_num"})

    monitor = FeatureGeometryMonitor(headline="effective_rank", on_error="raise")
    run = trainer(monitor, Bar(), max_epochs=2)
    run.fit(Classifier(), *loaders())
    assert [set(metrics) for metrics in shown[1:]] == [{"effective_rank"}] * 2
    assert shown[-1]["effective_rank"] == pytest.approx(monitor.history.records[-1].values["effective_rank"])
    monitor = FeatureGeometryMonitor(signals=["nc1", "cdnv"], on_error="raise")
    run = trainer(monitor, max_epochs=1)
    run.fit(Classifier(), *loaders())
    assert set(run.progress_bar_metrics) == {"nc1"}  # the first one
    with pytest.raises(ConfigurationError, match=r"headline='efective_rank' is not among the signals.*effective_rank"):
        FeatureGeometryMonitor(headline="efective_rank")


@pytest.mark.parametrize("sanity", [0, 2])
def test_what_cannot_be_shown_is_an_error_before_anything_is_trained(sanity: int) -> None:
    for settings, said in (
        ({"embedding_rows": 2000}, "embedding_rows=2000: a whole number from 0 to 1,000"),
        ({"matrix_classes": 1}, "matrix_classes=1: a whole number from 2 to 100"),
        ({"class_names": "cat"}, "class_names is one string"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            FeatureGeometryMonitor(**settings)
    for settings, said in (
        ({"class_names": ["a", "b"]}, "class_names= has 2 names, and there are 10 classes"),
        ({"id_key": "path"}, "id_key='path': the batch has no such part"),
    ):
        for head in ("net.3", None):
            if sanity == 0 and "id_key" in settings:
                continue  # nobody has seen a validation batch: see below
            run = trainer(FeatureGeometryMonitor(head=head, **settings), num_sanity_val_steps=sanity)
            with pytest.raises(ConfigurationError, match=said):
                run.fit(Classifier(), *loaders())
            assert run.global_step == 0


def test_ids_that_go_wrong_later_cost_no_curve() -> None:
    def late(batch: Any) -> Any:
        return ["x"] * len(batch[0]) if len(batch[0]) == 64 else ["x"]

    monitor = FeatureGeometryMonitor(id_key=late)
    with pytest.warns(FeatureGeometryWarning, match="Samples of this window have no ids"):
        trainer(monitor, max_epochs=2).fit(Classifier(), *loaders())
    assert all(len(record.values) == 9 for record in monitor.history)


def test_ids_and_names_that_nobody_could_check_cost_no_curve(tmp_path: Path) -> None:
    monitor = FeatureGeometryMonitor(id_key="path")
    with pytest.warns(FeatureGeometryWarning, match="id_key='path': the batch has no such part"):
        trainer(monitor, max_epochs=2, num_sanity_val_steps=0).fit(Classifier(), *loaders())
    assert all(len(record.values) == 9 for record in monitor.history)
    monitor = FeatureGeometryMonitor(layer="net.1", signals=["nc1"], class_names=["a"])
    monitor.settings.check_class_names = lambda classes: None  # as if nobody had known how many there are
    monitor.settings.num_classes = 10
    run = trainer(monitor, logger=TensorBoardLogger(tmp_path))
    with pytest.warns(FeatureGeometryWarning, match="has 1 names, and there are 10 classes: their numbers"):
        run.fit(Classifier(), *loaders())
    assert all("nc1" in record.values for record in monitor.history)
