"""Branches inside of a model that are given other rows than the batch: those before the head stay its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.scored import Kept, by_hand, check, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


class Branched(nn.Module):
    """A body, a branch beside it, and a head."""

    def __init__(self, forward: Callable[..., Tensor], width: int = 16) -> None:
        super().__init__()
        self.body, self.branch = (nn.Sequential(nn.Linear(10, 16), nn.Tanh()) for _ in range(2))
        self.joined, self.head = nn.Sequential(nn.Linear(width, 16), nn.Tanh()), nn.Linear(16, CLASSES)
        self.inner, self.beside = forward, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.inner(self, x)
        return self.head(self.h)


def no_gradient(net: Branched, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.branch(x[torch.randperm(len(x))])
    return net.body(x)


def afterwards(net: Branched, x: Tensor) -> Tensor:
    h = net.body(x)
    net.beside = net.body(x.flip(0)).square().mean()
    return h


def negatives(net: Branched, x: Tensor) -> Tensor:
    h = net.body(x)
    near = torch.cdist(h, h).detach().argmax(dim=1)
    net.beside = (h - net.body(x[near])).square().mean()
    return h


def added(net: Branched, x: Tensor) -> Tensor:
    return net.body(x) + 0.3 * net.branch(x.flip(0))


def mixed(net: Branched, x: Tensor) -> Tensor:
    net.beside = net.branch(0.6 * x + 0.4 * x.roll(1, 0)).square().mean()
    return net.body(x)


def context(net: Branched, x: Tensor) -> Tensor:
    return net.joined(torch.cat([x, net.branch(x.roll(1, 0))], dim=1))


def messages(net: Branched, x: Tensor) -> Tensor:
    """As many edges as nodes, and raw inputs beside what arrives."""
    order = torch.randperm(len(x))
    arrived = torch.zeros(len(x), 16).index_add(0, torch.randint(len(x), (len(x),)), net.branch(x[order]))
    return net.joined(torch.cat([x, arrived], dim=1))


def experts(net: Branched, x: Tensor) -> Tensor:
    """Sorted for two experts, and put back."""
    order = x[:, 0].argsort()
    half = len(x) // 2
    parts = torch.cat([net.body(x[order][:half]), net.branch(x[order][half:])])
    return torch.tanh(net.joined(torch.zeros(len(x), 16).index_copy(0, order, parts)))


BRANCHES: dict[str, tuple[Callable[..., Tensor], int]] = {
    "without a gradient": (no_gradient, 16),
    "after the body": (afterwards, 16),
    "mined negatives": (negatives, 16),
    "added": (added, 16),
    "of mixtures": (mixed, 16),
    "as context of raw inputs": (context, 26),
    "messages beside raw inputs": (messages, 26),
    "experts": (experts, 16),
}


@pytest.mark.parametrize("loss", [cross_entropy, by_hand])
@pytest.mark.parametrize("branch", BRANCHES)
def test_rows_before_the_head_are_the_batchs(branch: str, loss: Any) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        logits = net.model(x)
        net.keep(net.model.h, y)
        return loss(logits, y) + 0.1 * net.model.beside

    model = Kept(step, model=Branched(*BRANCHES[branch]))
    monitor = run(model, blobs(), head="model.head", num_classes=CLASSES)
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_a_module_that_smooths_a_little_is_no_mixing() -> None:
    class Smooth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.01 * x.roll(1, 0)

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(net.head(net.keep(net.one(net.smooth(x)), y)), y)

    model = Kept(step, smooth=Smooth(), one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_a_loss_of_some_rows_against_something_else_is_none_of_the_labels() -> None:
    """Pseudo-labels of the unlabelled rows are scored, and the labels by a loss that keeps none."""

    def step(net: Kept, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        n = len(x)
        h = net.one(torch.cat([x, other]))
        net.keep(h[:n], y)
        z = net.head(h)
        return by_hand(z[:n], y) + 0.1 * cross_entropy(z[n:], z[n:].detach().argmax(1))

    x, y = blobs().tensors
    others = 2 * torch.randn(len(x), 10, generator=torch.Generator().manual_seed(3))
    model = Kept(step, one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, TensorDataset(x, y, others), ("train",), head="head", num_classes=CLASSES)
    record = [one for one in monitor.history if one.stage == "train"][-1]
    assert record.counts["labelled"] == 208
    assert not any("other numbers" in str(note) for one in monitor.history for note in one.notes)
