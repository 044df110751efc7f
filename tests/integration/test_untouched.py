"""Training is untouched: final weights are bitwise the same with and without the monitor."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_featgeo import FeatureGeometryMonitor, GeometryEarlyStopping
from tests._helpers.models import Classifier, loaders, trainer


def network() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def weights(optimizer: str, compiled: bool, *callbacks: pl.Callback) -> torch.Tensor:
    pl.seed_everything(1, verbose=False)
    torch._dynamo.reset()
    model = Classifier(network(), optimizer)
    if compiled:
        model.net = torch.compile(model.net)
    trainer(*callbacks, max_epochs=2).fit(model, *loaders())
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


@pytest.mark.filterwarnings("ignore:featgeo. .* has no value. the classes have no tail")
@pytest.mark.filterwarnings("ignore:featgeo. .*(tail_min_angle|nc_count_slope) has no value")
@pytest.mark.parametrize(
    ("optimizer", "compiled"),
    [("sgd", False), ("adamw", False), pytest.param("adamw", True, marks=pytest.mark.compiler)],
    ids=["sgd", "adamw", "adamw, compiled"],
)
def test_final_weights_are_bitwise_the_same(optimizer: str, compiled: bool) -> None:
    plain = weights(optimizer, compiled)
    monitor = FeatureGeometryMonitor(signals="all", stages=("train", "val"), reference="train", on_error="raise")
    watched = weights(optimizer, compiled, monitor, GeometryEarlyStopping(patience=50))
    assert len(monitor.history) == 4
    assert len(monitor.history.series("featgeo/train/effective_rank")) == 2
    assert torch.equal(plain, watched)


def test_nothing_of_ours_travels_in_the_model_or_stays_on_it() -> None:
    model = Classifier()
    before = set(model.state_dict())
    monitor = FeatureGeometryMonitor(stages=("train", "val"), on_error="raise")
    trainer(monitor).fit(model, *loaders())
    assert set(model.state_dict()) == before
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
