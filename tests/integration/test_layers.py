"""Which features a run watches: layers by name and glob, a step's outputs, compiled models, odd forwards."""

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lightning_featgeo import (
    ConfigurationError,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    History,
)
from lightning_featgeo.errors import GapKind
from tests._helpers import oracles
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import windows


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


def test_a_conv_map_and_a_token_model_are_pooled_and_said() -> None:
    class Convolution(Classifier):
        def __init__(self) -> None:
            body = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            super().__init__(nn.Sequential(*body, nn.Linear(6, 10)))

    monitor = strict(layer="net.1", num_classes=10)
    trainer(monitor, max_epochs=1).fit(Convolution(), *loaders())
    assert "6 dimensions, pooled by 'b c h w -> b c'" in monitor.history.run["described"]
    assert "knn_accuracy" in monitor.history.records[0].values


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
        trainer(monitor, max_epochs=1).fit(model, *loaders())
        assert monitor.history.series("featgeo/val/feature_std")  # nested tensors are unpacked


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


class Wrapped(nn.Module):
    """A recurrent network inside of a module that does not say how its output lies."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 16)

    def forward(self, x):
        return self.rnn(x)


def test_time_first_features_are_turned_round_where_the_module_says_so_and_else_refused() -> None:
    def recurrent(net, x):
        return net[1](net[0](x.view(-1, 8, 8).transpose(0, 1))[0][-1])

    model = Net(nn.ModuleList([nn.LSTM(8, 16), nn.Linear(16, 10)]), recurrent)
    found = []
    for settings in ({}, {"pool": "t b d -> b d"}):
        monitor = strict(layer="net.0", num_classes=10, **settings)
        torch.manual_seed(0)
        trainer(monitor, max_epochs=1).fit(copy.deepcopy(model), *loaders())
        found.append(monitor.history.records[0].values)
    assert found[0] == found[1]
    assert found[0]["n_samples"] == 200
    wrapped = Net(nn.ModuleList([Wrapped(), nn.Linear(16, 10)]), recurrent)
    with pytest.raises(ConfigurationError, match="axis 1 seems to be the batch"):
        trainer(strict(layer="net.0")).fit(wrapped, *loaders())


def test_a_copied_encoder_is_not_mistaken_for_the_watched_one() -> None:
    class Teacher(Classifier):
        def on_train_start(self) -> None:
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


def test_one_batch_of_features_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_featgeo.capture.stash.SLOT_BYTES", 1000)
    monitor = FeatureGeometryMonitor(layer="net", signals=["feature_std"])
    with pytest.warns(FeatureGeometryWarning, match="watch a smaller layer"):
        trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())


BETWEEN = ["layer_cka", "layer_overlap", "layer_readout", "feature_std"]


def features_of(model: Classifier, paths: list[int]) -> tuple[list[np.ndarray], torch.Tensor]:
    """Outputs of some of its layers on the validation data, in eval mode."""
    x = loaders()[1].dataset.tensors[0]
    found = []
    with torch.no_grad():
        for index, module in enumerate(model.eval().net):
            x = module(x)
            found += [x.double().numpy()] if index in paths else []
    return found, x


def test_each_layer_is_compared_with_the_one_before_and_all_with_each_other(tmp_path: Path) -> None:
    """Against CKA by Gram matrices and scikit-learn's neighbours; the chart of all pairs is sent to the logger."""
    watched, model = strict(layer=["net.0", "net.1", "net.3"], signals=BETWEEN), Classifier()
    trainer(watched, max_epochs=1, logger=TensorBoardLogger(tmp_path)).fit(model, *loaders())
    rows, _ = features_of(model, [0, 1, 3])
    first, *others = watched.history.records
    assert first.gaps["layer_cka"].kind is GapKind.NO_EARLIER
    for number, record in enumerate(others, 1):
        assert record.values["layer_cka"] == pytest.approx(oracles.cka(rows[number], rows[number - 1]), rel=1e-6)
        overlap = oracles.overlap(rows[number], rows[number - 1])
        assert record.values["layer_overlap"] == pytest.approx(overlap, abs=2e-3)  # ties
        told = oracles.readouts(rows[number - 1], rows[number])
        assert record.values["layer_readout"] == pytest.approx(np.mean(told), rel=1e-6)
    pairs = [[oracles.cka(rows[i], rows[j]) for j in range(i)] for i in range(3)]
    assert [pytest.approx(row, abs=1e-4) for row in pairs] == first.layer_cka  # four digits, for the report
    assert History.load(watched.history.path).records[0].layer_cka == first.layer_cka
    assert not any(record.layer_cka for record in others)
    (events,) = tmp_path.rglob("events*")
    read = EventAccumulator(str(events.parent), size_guidance={"images": 0})
    read.Reload()
    charts = {f"featgeo_curves/val/layer_{name}" for name in ("cka_matrix", "overlap_matrix", "readouts")}
    assert charts <= set(read.Tags()["images"])


def test_one_layer_has_none_to_be_compared_with() -> None:
    for layer in (None, "net.0", ["net.0"]):
        with pytest.raises(ConfigurationError, match="layer_cka compares a layer with the one before it"):
            strict(signals=["layer_cka"], layer=layer)
    watched = strict(signals=["layers", "feature_std"])
    trainer(watched, max_epochs=1).fit(Classifier(), *loaders())
    assert watched.history.records[0].gaps == {}


def test_layers_are_compared_alike_on_two_processes_and_after_a_resume(tmp_path: Path) -> None:
    settings = {"layer": ["net.0", "net.2"], "signals": BETWEEN, "stages": ("val",)}
    one, two = (on_ranks(size, windows.curves, size, settings)[0]["records"] for size in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a["values"] == pytest.approx(b["values"], rel=1e-6)
    save = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    monitor = strict(layer=["net.0", "net.1"], signals=BETWEEN)
    trainer(monitor, save, max_epochs=1, enable_checkpointing=True).fit(Classifier(), *loaders())
    again = strict(layer=["net.0", "net.1"], signals=BETWEEN)
    trainer(again, max_epochs=2).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "last.ckpt")
    assert ["layer_cka" in record.values for record in again.history] == [False, True, False, True]
