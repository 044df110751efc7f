"""What other people's libraries do, in a few lines each: found by ``make compat``, kept here."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from lightning_featgeo.capture.loss_graph import LossGraph
from lightning_featgeo.errors import FeatureGeometryWarning
from tests._helpers.models import trainer

X = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (96,), generator=torch.Generator().manual_seed(1))


class Graph:
    """A graph as PyTorch Geometric holds it: used as a mapping, and callable."""

    def __init__(self, **parts: Tensor) -> None:
        self._store = parts

    def keys(self) -> list[str]:
        return list(self._store)

    def __getitem__(self, key: str) -> Tensor:
        return self._store[key]

    def __call__(self, *keys: str) -> Any:
        return ((key, self._store[key]) for key in keys or self.keys())

    def to(self, *_: Any, **__: Any) -> Graph:
        return self


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.fc = nn.Sequential(nn.Linear(12, 16), nn.ReLU()), nn.Linear(16, 4)

    def loss(self, batch: Any, stage: str) -> Tensor:
        return cross_entropy(self.fc(self.encoder(batch[0])), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch, "val")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def data() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), 32)


@pytest.mark.parametrize("stage", ["train", "val"])
def test_of_one_graph_only_the_nodes_of_the_stage_are_rows(stage: str) -> None:
    class Nodes(Net):
        def loss(self, batch: Any, stage: str) -> Tensor:
            mask = batch[f"{stage}_mask"]
            return cross_entropy(self.fc(self.encoder(batch["x"]))[mask], batch["y"][mask])

    part = torch.arange(96) % 3
    graph = Graph(x=X, y=Y, train_mask=part == 0, val_mask=part == 1, test_mask=part == 2)
    loader = DataLoader([graph], batch_size=None)
    monitor = FeatureGeometryMonitor(stages=("train", "val"), signals=["feature_std", "nc1"])
    net = Nodes()
    trainer(monitor, max_epochs=1).fit(net, loader, loader)
    record = next(r for r in monitor.history if r.stage == stage)
    assert record.counts["seen"] == 32
    assert record.counts["labelled"] == 32
    assert any(f"{stage}_mask" in note for note in record.notes)
    if stage == "val":
        with torch.no_grad():
            rows = net.encoder(X[part == 1]).double()
        unit = rows / rows.norm(dim=1, keepdim=True)
        assert record.values["feature_std"] == pytest.approx(float(unit.std(0).mean() * 4), rel=1e-5)


def test_a_loss_that_trains_nothing_chooses_no_head() -> None:
    class Collects(Net):
        def loss(self, batch: Any, stage: str) -> Tensor:
            with torch.no_grad():
                self.fc(self.encoder(batch[0]))
            return torch.tensor(0.0, requires_grad=True)

    with pytest.raises(ConfigurationError, match="trained through no layer"):
        trainer(FeatureGeometryMonitor(), max_epochs=1).fit(Collects(), data(), data())


def test_a_declared_head_that_the_loss_does_not_read_is_not_taken() -> None:
    class Beside(Net):
        def __init__(self) -> None:
            super().__init__()
            self.projector = nn.Linear(16, 4)

        def get_classifier(self) -> nn.Module:
            return self.fc

        def loss(self, batch: Any, stage: str) -> Tensor:
            features = self.encoder(batch[0])
            self.fc(features.flip(1))  # it runs, and nobody reads it
            return cross_entropy(self.projector(features), batch[1])

    monitor = FeatureGeometryMonitor()
    trainer(monitor, max_epochs=1).fit(Beside(), data(), data())
    assert monitor.history.run["of"]["layer"] == "projector"


def test_a_declared_head_stays_where_another_loss_of_the_step_may_read_it() -> None:
    class Alternates(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization, self.auxiliary = False, nn.Linear(16, 4)

        def get_classifier(self) -> nn.Module:
            return self.fc

        def training_step(self, batch: Any, batch_idx: int) -> None:
            features, optimizer = self.encoder(batch[0]), self.optimizers()
            scores = self.fc(features)
            for loss in (self.auxiliary(features.detach()).square().mean(), cross_entropy(scores, batch[1])):
                self.manual_backward(loss)
            optimizer.step()

    monitor = FeatureGeometryMonitor()
    trainer(monitor, max_epochs=1).fit(Alternates(), data(), data())
    assert monitor.history.run["of"]["layer"] == "fc"


def test_a_target_that_is_constant_is_no_label() -> None:
    net = Net()
    scores = net.fc(net.encoder(X))
    for target, is_label in ((torch.ones_like(scores), False), ((X[:, :4] > 0).float(), True)):
        loss = binary_cross_entropy_with_logits(scores, target)
        assert LossGraph(loss).reading(net.fc, []).classifies is is_label


def test_regions_that_nobody_can_place_are_refused() -> None:
    class Regions(Net):
        def loss(self, batch: Any, stage: str) -> Tensor:
            found = self.encoder(torch.randn(64, 12).repeat(3, 1)[: 3 * len(batch[0])])
            return cross_entropy(self.fc(found), batch[1].repeat(3))

    monitor = FeatureGeometryMonitor()
    with pytest.warns(FeatureGeometryWarning, match="3 a sample, which may be regions"):
        trainer(monitor, max_epochs=1).fit(Regions(), data(), data())
    assert not monitor.history.records[-1].values
