"""However Lightning runs a model, the numbers are those of one process, eager, in fp32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from data import digits
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.tuner import Tuner
from models import Classifier, trainer
from ranked import SIGNALS as ALL
from ranked import TRAIN, VAL, Still, digit_loaders
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.history import Record

Rows = dict[str, Record]
SIGNALS = [name for name in ALL if name != "neighbor_churn"]  # needs a window before this one


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def run(model: pl.LightningModule, *callbacks: pl.Callback, head: str | None = None, **kwargs: Any) -> Rows:
    """The last record of each stage, of a run in which our errors are errors."""
    monitor = FeatureGeometryMonitor(head=head, signals=SIGNALS, stages=("train", "val"), on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(monitor, *callbacks, **{"max_epochs": 1, **kwargs}).fit(model, *digit_loaders())
    return {record.stage: record for record in monitor.history}


@pytest.fixture(scope="module")
def plain() -> Rows:
    return run(Still(net()))


def furthest(ours: Rows, theirs: Rows) -> float:
    """The largest relative difference, once counts and gaps are the same."""
    worst = 0.0
    for stage, record in theirs.items():
        assert ours[stage].gaps == record.gaps
        assert ours[stage].counts == record.counts
        assert ours[stage].values.keys() == record.values.keys()
        for name, value in record.values.items():
            worst = max(worst, abs(ours[stage].values[name] - value) / max(abs(value), 1e-9))
    return worst


def wrapped(**how: Any) -> Still:
    model = Still(net())
    model.net = torch.compile(model.net, **how)
    return model


class Block(nn.Module):
    """A module of the user's own: compiling a bare Sequential in place compiles nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = net()[:2], net()[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x))


def in_place() -> Still:
    model = Still(Block())
    model.net.compile(fullgraph=True)
    return model


def compiled_late() -> Still:
    class Late(Still):
        def configure_model(self) -> None:
            if not hasattr(self.net, "_orig_mod"):
                self.net = torch.compile(self.net)

    return Late(net())


@pytest.mark.parametrize(
    "make",
    [
        wrapped,
        lambda: wrapped(mode="reduce-overhead"),
        lambda: wrapped(fullgraph=True),
        in_place,
        compiled_late,
        lambda: torch.compile(Still(net())),
    ],
    ids=["default", "reduce-overhead", "fullgraph", "in place", "configure_model", "the whole module"],
)
def test_compiled_models(make: Callable[[], Still], plain: Rows) -> None:
    torch._dynamo.reset()
    ours = run(make())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # it was compiled, with the hook in it
    assert furthest(ours, plain) < 2e-5


def test_multi_crop_compiles_no_more_often_with_us() -> None:
    class Crops(Still):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            calls = [self(batch[0]) for _ in range(2)] + [self(batch[0][:, :64]) for _ in range(8)]
            return sum(cross_entropy(call, batch[1]) for call in calls)

    def graphs(*callbacks: pl.Callback) -> int:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = Crops(net())
        model.net = torch.compile(model.net, fullgraph=True)
        trainer(*callbacks, max_epochs=2).fit(model, *digit_loaders())
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    monitor = FeatureGeometryMonitor(head="net.2", signals=SIGNALS, stages=("train",), on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert graphs(monitor) <= graphs() + 1
    assert monitor.history.records[-1].values["n_samples"] == TRAIN  # ten views of each sample: the first is read


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_other_precisions(precision: Any, plain: Rows) -> None:
    # the features are rounded to the precision, the statistics are not
    assert furthest(run(Still(net()), precision=precision), plain) < (1e-6 if precision == "64-true" else 2e-2)


class Checkpointed(Still):
    """The forward runs again during backward, and fires every hook again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


class Reentrant(Still):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=True)


class Manual(Still):
    """Two optimisers, a forward for each: two views of a sample."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.0) for i in (0, 2)]


@pytest.mark.parametrize("model", [Checkpointed, Manual])
def test_other_ways_to_compute_a_gradient(model: type[Still], plain: Rows) -> None:
    assert furthest(run(model(net())), plain) == 0.0


def test_reentrant_checkpointing_with_a_named_head(plain: Rows) -> None:
    assert furthest(run(Reentrant(net()), head="net.2"), plain) == 0.0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"accumulate_grad_batches": 3},
        {"inference_mode": False},
        {"val_check_interval": 0.25},
        {"num_sanity_val_steps": 0},
        {"detect_anomaly": True},
        {"reload_dataloaders_every_n_epochs": 1},
        {"check_val_every_n_epoch": 2, "max_epochs": 2},
        {"gradient_clip_val": 1.0},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_the_trainers_switches(kwargs: dict[str, Any], plain: Rows) -> None:
    assert furthest(run(Still(net()), **kwargs), plain) == 0.0


@pytest.mark.parametrize(
    "callback", [WeightAveraging, EMAWeightAveraging, lambda: StochasticWeightAveraging(swa_lrs=1e-12)]
)
def test_averaged_weights(callback: Callable[[], pl.Callback], plain: Rows) -> None:
    # the average of weights that don't move is those weights, up to the rounding of averaging
    assert furthest(run(Still(net()), callback(), max_epochs=3), plain) < 1e-5


def test_validation_sees_the_averaged_weights() -> None:
    seen: dict[str, torch.Tensor] = {}

    class Watches(pl.Callback):
        def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, out: Any, batch: Any, *rest: Any) -> None:
            seen[trainer.current_epoch] = module.net[:2](batch[0]).detach()

    torch.manual_seed(0)
    x, y = digits()
    val = DataLoader(TensorDataset(x[TRAIN : TRAIN + VAL] / 16, y[TRAIN : TRAIN + VAL]), VAL)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    average = EMAWeightAveraging(decay=0.9)
    run = trainer(average, Watches(), monitor, max_epochs=2)
    run.fit(Classifier(net()), digit_loaders()[0], val)
    features = seen[1].double()
    sigma = torch.linalg.svdvals(features - features.mean(dim=0))
    p = sigma / sigma.sum()
    expected = float(torch.exp(-torch.special.xlogy(p, p).sum()))
    assert monitor.history.records[-1].values["effective_rank"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "train", "val"),
    [
        ({"overfit_batches": 2}, 64, 64),
        ({"limit_train_batches": 3, "limit_val_batches": 0.5}, 96, 7 * 32),
        ({"fast_dev_run": 2}, 64, 64),
        ({"max_steps": 4}, 128, None),
    ],
)
def test_windows_hold_what_ran(kwargs: dict[str, Any], train: int, val: int | None) -> None:
    ours = run(Still(net()), **kwargs)
    assert ours["train"].values["n_samples"] == train
    assert (ours["val"].values["n_samples"] if "val" in ours else None) == val


def test_two_monitors_at_once(plain: Rows) -> None:
    one = FeatureGeometryMonitor(signals=["feature_std", "id_two_nn"], on_error="raise")
    other = FeatureGeometryMonitor(layer="net.0", signals=["feature_std"], stages=("train",), on_error="raise")
    trainer(one, other, max_epochs=1).fit(Still(net()), *digit_loaders())
    assert one.history.records[0].values["id_two_nn"] == plain["val"].values["id_two_nn"]
    assert other.history.records[0].values["n_samples"] == TRAIN
    assert one.state_key != other.state_key


@pytest.mark.parametrize("task", ["validate", "test"])
def test_evaluation_alone(task: str, plain: Rows) -> None:
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("val", "test"), num_classes=10, on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (logged,) = getattr(trainer(monitor), task)(Still(net()), digit_loaders()[1], verbose=False)
    stage = "val" if task == "validate" else task
    for name, value in plain["val"].values.items():
        if "neighbor" not in name and name in monitor.history.records[0].values:
            assert logged[f"featgeo/{stage}/{name}"] == pytest.approx(value, rel=0.3 if stage == "test" else 1e-12)
    assert logged[f"featgeo/{stage}/effective_rank"] == pytest.approx(plain["val"].values["effective_rank"], rel=1e-12)


def test_the_tuner_leaves_no_trace(plain: Rows) -> None:
    class Rated(Still):
        lr = 0.1

    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("train", "val"), on_error="raise")
    run = trainer(monitor, max_epochs=1)
    model = Rated(net())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Tuner(run).lr_find(model, *digit_loaders(), num_training=12, update_attr=False)
        assert len(monitor.history) == 0
        run.fit(model, *digit_loaders())
    assert furthest({record.stage: record for record in monitor.history}, plain) == 0.0
    assert [record.window for record in monitor.history] == [0, 1]
