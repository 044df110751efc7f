"""Rows that a loss reads and leaves out, or scores against another part of the batch than the usual one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.rows.scoring import Scoring
from tests._helpers.blobs import blobs
from tests._helpers.models import OfLoss, trainer
from tests._helpers.scored import SIGNALS, Kept, check, check_both, labelled, layer, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")


def by_index(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    return cross_entropy(logits[known], y[known])


def by_number(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    rows = known.nonzero().flatten()
    return cross_entropy(logits[rows], y[rows])


def from_the_end(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    rows = known.nonzero().flatten() - len(y)
    return cross_entropy(logits[rows], y[rows])


def by_ignoring(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    return cross_entropy(logits, torch.where(known, y, -100))


LOSSES = [by_index, by_number, from_the_end, by_ignoring]


def fitted(loss: Callable[..., Tensor], placeholder: bool, **settings: Any) -> tuple[FeatureGeometryMonitor, Kept]:
    x, y = blobs().tensors
    known = torch.rand(len(x), generator=torch.Generator().manual_seed(3)) < 0.5

    def step(net: Kept, x: Tensor, y: Tensor, known: Tensor) -> Tensor:
        h = net.one(x)
        if settings:
            net.keep(h[known], y[known])
        else:
            net.keep(h, torch.where(known, y, -1) if placeholder else y)
        return loss(net.head(h), y, known)

    model = Kept(step, one=layer(10))
    return run(model, TensorDataset(x, torch.where(known, y, 0) if placeholder else y, known), **settings), model


@pytest.mark.parametrize("loss", LOSSES)
def test_a_placeholder_is_no_class(loss: Callable[..., Tensor]) -> None:
    monitor, model = fitted(loss, placeholder=True)
    check(monitor, model, "train")
    assert labelled(monitor, "val") == [0, 0]
    gap = str(monitor.history.records[-1].gaps.get("nc1") or monitor.history.records[-2].gaps["nc1"])
    assert "0 may stand for unknown classes" in gap
    assert "mask=" in gap


@pytest.mark.parametrize("loss", LOSSES)
def test_the_line_that_is_offered_has_them_in_validation_too(loss: Callable[..., Tensor]) -> None:
    monitor, model = fitted(loss, placeholder=True, mask=2)
    for stage in ("train", "val"):
        check(monitor, model, stage)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_all_labels_that_are_left_out_keep_theirs_and_it_is_said(loss: Callable[..., Tensor]) -> None:
    monitor, model = fitted(loss, placeholder=False)
    for stage in ("train", "val"):
        check(monitor, model, stage)
    notes = [str(note) for record in monitor.history for note in record.notes]
    assert any("they count here, too" in note and "mask=" in note for note in notes)


def test_processes_agree_on_placeholders() -> None:
    """One has seen some left out, another one that others of the label count, a third one nothing."""
    ranks = [Scoring() for _ in range(3)]
    ranks[0].left_out.learn(torch.tensor([-1] * 8 + [1]), torch.tensor([0] * 8 + [1]))
    ranks[1].left_out.learn(torch.tensor([0, -1]), torch.tensor([0, 0]))
    for _ in range(2):  # once more: nothing grows
        told = [each.told for each in ranks]
        for each in ranks:
            each.agree(told)
    assert ranks[0].told == ranks[1].told == ranks[2].told
    assert all(each.left_out.are_placeholders for each in ranks)
    ranks[2].left_out.learn(torch.tensor([-1]), torch.tensor([3]))
    told = [each.told for each in ranks]
    for each in ranks:
        each.agree(told)
    assert not any(each.left_out.are_placeholders for each in ranks)


class Pairs(OfLoss):
    """Classes of edges beside those of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = layer(10), nn.Linear(16, 4)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        h = self.one(batch["x"])
        return cross_entropy(self.head(h[batch["edges"][0]] * h[batch["edges"][1]]), batch["edge_label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.training_step(batch, batch_idx)


@pytest.mark.parametrize("settings", [{}, {"labels": "edge_label"}], ids=["found", "named"])
def test_labels_of_another_length_than_the_usual_ones(settings: dict[str, Any]) -> None:
    x, y = blobs().tensors
    edges = torch.randint(len(x), (2, 90), generator=torch.Generator().manual_seed(0))
    graph = {"x": x, "y": y, "edges": edges, "edge_label": (y[edges[0]] + y[edges[1]]) % 4}
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("train", "val"), on_error="raise", **settings)
    loader = DataLoader([graph], batch_size=None)
    torch.manual_seed(0)
    trainer(monitor, max_epochs=2).fit(Pairs(), loader, loader)
    assert labelled(monitor, "train") == labelled(monitor, "val") == [90, 90]


def test_a_product_with_a_sparse_matrix_before_the_head() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        near = (one_hot(torch.arange(len(x)).roll(1), len(x)) + torch.eye(len(x))).to_sparse()
        return cross_entropy(net.head(net.keep(near @ net.one(x), y)), y)

    check_both(step)


def test_a_row_that_is_learned_beside_those_of_the_batch() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h = torch.cat([net.keep(net.one(x), y), net.more.weight])
        return cross_entropy(net.head(h)[: len(x)], y)

    model = Kept(step, one=layer(10), more=nn.Embedding(1, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
