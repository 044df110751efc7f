"""How many directions the outputs can need: from the head, or from what the loss scores, where no head is known."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.models import OfLoss, trainer
from tests._helpers.processes import on_ranks

X = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(96) % 5


class Net(OfLoss):
    """An encoder with a head of so many outputs."""

    def __init__(self, outputs: int, loss: Any) -> None:
        super().__init__()
        self.encoder, self.head, self.loss = nn.Sequential(nn.Linear(12, 16), nn.ReLU()), nn.Linear(16, outputs), loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.head(self.encoder(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.encoder(batch[0]))


def against_itself(z: Tensor, y: Tensor) -> Tensor:
    near = functional.normalize(z, dim=1) @ functional.normalize(z, dim=1).T
    return functional.cross_entropy(near, torch.arange(len(z)))


def binary_loss(z: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(z.squeeze(1), y)


BINARY = (CLASSES > 2).float()
NUMBERS = torch.stack([BINARY, 2 * BINARY, 3 * BINARY], dim=1)
CASES = [
    (5, functional.cross_entropy, CLASSES, 4),
    (5, lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.1), CLASSES, 4),
    (1, binary_loss, BINARY, 1),
    (3, functional.mse_loss, NUMBERS, 1),
    (8, against_itself, CLASSES, None),
]


@pytest.mark.parametrize("stages", ["val", ("train", "val")])
@pytest.mark.parametrize("where", [{"layer": "encoder"}, {"head": "head"}])
@pytest.mark.parametrize(("outputs", "loss", "y", "needed"), CASES)
def test_directions_that_the_outputs_need(
    where: Any, outputs: int, loss: Any, y: Tensor, needed: Any, stages: Any
) -> None:
    if loss is against_itself and "head" in where:
        needed = outputs - 1  # of a head that was named, that is all there is
    monitor = FeatureGeometryMonitor(**where, labels=None, signals=["effective_rank"], stages=stages)
    data = DataLoader(TensorDataset(X, y), 32)
    trainer(monitor, max_epochs=2).fit(Net(outputs, loss), data, data)
    last = {record.stage: record.facts.get("needed_directions") for record in monitor.history}
    assert set(last.values()) == {needed}


def needed_on_a_rank() -> list[Any]:
    """Rank 0 has one class only: its loss tells nothing of classes."""
    torch.manual_seed(0)
    y = BINARY * int(os.environ["RANK"])
    monitor = FeatureGeometryMonitor(layer="encoder", labels=None, signals=["effective_rank"])
    data = DataLoader(TensorDataset(X, y), 16)
    trainer(monitor, max_epochs=2, strategy="ddp", devices=2).fit(Net(1, binary_loss), data, data)
    return [record.facts.get("needed_directions") for record in monitor.history]


def test_ranks_agree_on_them_as_they_decide_on_a_stop_each_by_itself() -> None:
    assert on_ranks(2, needed_on_a_rank) == [[1, 1], [1, 1]]
