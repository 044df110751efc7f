"""Rows that are sorted, selected or put back on their way to the loss: labels follow them, or there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import TensorDataset

from lightning_featgeo.rows.words import MAPPED
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.scored import Kept, check, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


def by_hand(logits: Tensor, y: Tensor) -> Tensor:
    """A loss that keeps no classes."""
    return binary_cross_entropy_with_logits(logits, one_hot(y, CLASSES).float())


def put(out: Tensor, order: Tensor) -> Tensor:
    back = torch.zeros_like(out)
    back[order] = out
    return back


BACK: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda out, order: out[order.argsort()],
    "gather": lambda out, order: out.gather(0, order.argsort()[:, None].expand_as(out)),
    "put": put,
    "index_copy": lambda out, order: torch.zeros_like(out).index_copy(0, order, out),
    "scatter": lambda out, order: torch.zeros_like(out).scatter(0, order[:, None].expand_as(out), out),
    "one by one": lambda out, order: torch.stack([out[i] for i in order.argsort()]),
}


@pytest.mark.parametrize("back", BACK.values(), ids=BACK)
@pytest.mark.parametrize("inputs", [True, False], ids=["inputs sorted", "rows sorted"])
def test_logits_that_are_put_back_in_order(back: Callable[[Tensor, Tensor], Tensor], inputs: bool) -> None:
    """The head's rows are in another order than the labels, though the loss is in the batch's."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        h = net.two(net.one(x[order]) if inputs else net.one(x)[order])
        return cross_entropy(back(net.head(net.keep(h, y[order])), order), y)

    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    if inputs:
        check(monitor, model, "val")
    else:  # between layers, where no graph tells
        assert [one.counts["labelled"] for one in monitor.history if one.stage == "val"] == [0, 0]


@pytest.mark.parametrize("back", ["put", "index_copy", "scatter", "index"])
def test_features_that_are_put_back_in_order(back: str) -> None:
    """The inputs are sorted, the head's rows are not, and the loss tells nothing."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return by_hand(net.head(net.keep(BACK[back](net.one(x[order]), order), y)), y)

    model = Kept(step, one=nn.Linear(10, 16))
    monitor = run(model, blobs(), head="head")
    check(monitor, model, "train")


@pytest.mark.parametrize("stages", [("train", "val"), ("val",)])
def test_sequences_that_are_sorted_before_they_are_packed(stages: Any) -> None:
    """Numbers are compared as they are packed; without a graph, before what an embedding made of words is packed."""

    def step(net: Kept, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        x, y = x[order], y[order]
        rows = pack_padded_sequence(net.embed(x) if net.embed else x, lengths.cpu(), batch_first=True)
        return by_hand(net.head(net.keep(net.lstm(rows)[1][0][-1], y)), y)

    x, y = blobs().tensors
    lengths = torch.randint(1, 5, (len(x),), generator=torch.Generator().manual_seed(0))
    x = x[:, None] * (torch.arange(4)[:, None] < lengths[:, None, None])
    for embed in (None, nn.Linear(10, 10)):
        model = Kept(step, lstm=nn.LSTM(10, 16, batch_first=True))
        model.embed = embed
        monitor = run(model, TensorDataset(x, lengths, y), stages, head="head", labels=2, num_classes=CLASSES)
        for stage in stages:
            check(monitor, model, stage)


def test_a_validation_step_that_sorts_rows_between_modules() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h = net.one(x)
        if not net.training:
            y, order = y.sort()
            h = h[order]
        return cross_entropy(net.head(net.keep(h, y)), y)

    model = Kept(step, one=nn.Linear(10, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")


@pytest.mark.parametrize("compiled", [False, True])
def test_something_else_that_is_compiled_changes_nothing(compiled: bool) -> None:
    """Rows of a model that isn't are followed as before: torch.compile is of the whole process."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = torch.randperm(len(x))
        return by_hand(net.head(net.keep(net.one(x[order]), y[order])), y[order])

    if compiled:
        torch.compile(nn.Linear(2, 2), backend="eager")(torch.zeros(1, 2))
    model = Kept(step, one=nn.Linear(10, 16))
    monitor = run(model, blobs(), head="head")
    check(monitor, model, "train")
    check(monitor, model, "val")


TABLE = torch.tensor([3, 3, 0, 1, 1])


def shuffled(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    order = torch.randperm(len(x))
    made = TABLE[y[order]]
    return cross_entropy(net.head(net.keep(net.one(x[order]), made)), made)


def selected(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    some = y > 0
    made = TABLE[y[some]]
    return cross_entropy(net.head(net.keep(net.one(x[some]), made)), made)


@pytest.mark.parametrize("step", [shuffled, selected])
def test_classes_that_are_made_of_the_labels_of_moved_rows(step: Callable[..., Tensor]) -> None:
    """One convention in a window, whichever classes occur in its batches."""
    model = Kept(step, one=nn.Linear(10, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")
    assert any(MAPPED in note for one in monitor.history for note in one.notes)


@pytest.mark.parametrize("ignored", [-100, 2])
def test_a_class_that_the_loss_ignores_has_none(ignored: int) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        kept = torch.where(y == 2, -1, y)
        target = torch.where(y == 2, ignored, y)
        return cross_entropy(net.head(net.keep(net.one(x), kept)), target, ignore_index=ignored)

    model = Kept(step, one=nn.Linear(10, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")
