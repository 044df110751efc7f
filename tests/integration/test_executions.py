"""However Lightning runs a model, the numbers are those of one process, eager, in fp32."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from lightning_featgeo._hooks import breaks_when_compiled_whole
from tests._helpers.data import digits
from tests._helpers.models import Classifier, trainer
from tests._helpers.still import TRAIN, VAL, Still, digit_loaders
from tests._helpers.ways import AVERAGED, COMPILED, EXACT, PRECISIONS, SIGNALS, Rows, averaging, furthest, net, run


@pytest.fixture(scope="module")
def plain() -> Rows:
    return run(Still(net()))


@pytest.mark.no_cover  # tracing slows the compiler; what is ours here is covered by test_taps and test_layers
@pytest.mark.parametrize("way", COMPILED)
def test_compiled_models(way: str, plain: Rows) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = COMPILED[way]()
    if breaks_when_compiled_whole(model):  # an older torch
        with pytest.raises(ConfigurationError, match="compiled as a whole"):
            run(model)
        return
    ours = run(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # it was compiled, with the hook in it
    assert furthest(ours, plain)[0] < 2e-5


def test_what_an_older_torch_would_die_of_is_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.0+cu128")
    with pytest.raises(ConfigurationError, match=r"compiled as a whole .* torch 2\.10\.0.*self\.net\.compile\(\)"):
        run(torch.compile(Still(net())))
    run(Still(net()))  # not compiled


@pytest.mark.parametrize("way", EXACT)
def test_whatever_the_trainer_does_around_the_forward_changes_nothing(way: str, plain: Rows) -> None:
    assert furthest(EXACT[way](), plain)[0] == 0.0


@pytest.mark.parametrize("way", AVERAGED)
def test_averaged_weights(way: str, plain: Rows) -> None:
    # the average of weights that don't move is those weights, up to the rounding of averaging
    assert furthest(AVERAGED[way](), plain)[0] < 1e-5


@pytest.mark.parametrize("way", PRECISIONS)
def test_other_precisions(way: str, plain: Rows) -> None:
    # the features are rounded to the precision, the statistics are not
    assert furthest(PRECISIONS[way](), plain)[0] < (1e-6 if way == "64-true" else 2e-2)


@pytest.mark.no_cover  # tracing slows the compiler; what is ours here is covered by test_taps and test_layers
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


def test_validation_sees_the_averaged_weights() -> None:
    seen: dict[str, torch.Tensor] = {}

    class Watches(pl.Callback):
        def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, out: Any, batch: Any, *rest: Any) -> None:
            seen[trainer.current_epoch] = module.net[:2](batch[0]).detach()

    torch.manual_seed(0)
    x, y = digits()
    val = DataLoader(TensorDataset(x[TRAIN : TRAIN + VAL] / 16, y[TRAIN : TRAIN + VAL]), VAL)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    average = averaging("EMAWeightAveraging", decay=0.9)
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
    assert furthest({record.stage: record for record in monitor.history}, plain)[0] == 0.0
    assert [record.window for record in monitor.history] == [0, 1]
