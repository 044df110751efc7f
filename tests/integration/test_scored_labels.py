"""Labels by what the training loss scores: through layers that sort and sort back, and for classes a step makes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.rows.words import MAPPED, MOVED
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.models import trainer
from tests._helpers.scored import SIGNALS, Kept, check, check_both, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


def sentences(n: int = 160) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    lengths = torch.randint(3, 9, (n,), generator=generator)
    ids = 1 + 8 * y[:, None] + torch.randint(0, 8, (n, 8), generator=generator)
    return TensorDataset(ids * (torch.arange(8) < lengths[:, None]), lengths, y)


def packed(net: Kept, ids: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
    """As in every tutorial: sorted for the LSTM, and sorted back, by torch itself."""
    rows = pack_padded_sequence(net.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
    out, _ = pad_packed_sequence(net.lstm(rows)[0], batch_first=True)
    return cross_entropy(net.head(net.keep(out.mean(dim=1), y)), y)


@pytest.mark.parametrize("stages", [("train", "val"), ("val",)])
def test_rows_that_are_sorted_for_a_layer_and_sorted_back(stages: Any) -> None:
    model = Kept(packed, embed=nn.Embedding(50, 12), lstm=nn.LSTM(12, 16, batch_first=True))
    monitor = run(model, sentences(), stages)
    for stage in stages:
        check(monitor, model, stage)


def by_hand(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    order = x[:, 0].argsort()
    back = order.argsort()
    return cross_entropy(net.head(net.keep(net.two(net.one(x)[order])[back], y)), y)


def deduplicated(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    once, place = torch.unique(x, dim=0, return_inverse=True)
    return cross_entropy(net.head(net.keep(net.two(net.one(once))[place], y)), y)


@pytest.mark.parametrize("step", [by_hand, deduplicated])
def test_rows_that_are_sorted_back_by_hand(step: Callable[..., Tensor]) -> None:
    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")


def left_sorted(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    """Sorted behind the first layer; the labels are sorted alike."""
    h = net.one(x)
    order = h[:, 0].argsort()
    y = y[order]
    return cross_entropy(net.head(net.keep(net.two(h[order]), y)), y)


def test_an_order_that_only_the_loss_knows_is_a_gap_in_validation() -> None:
    model = Kept(left_sorted, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    record = [one for one in monitor.history if one.stage == "val"][-1]
    assert record.counts["labelled"] == 0
    assert record.gaps["nc1"] == MOVED
    assert any(MOVED in note for one in monitor.history for note in one.notes)
    only = run(Kept(left_sorted, one=nn.Linear(10, 12), two=nn.Linear(12, 16)), blobs(), "val")
    assert [one.counts["labelled"] for one in only.history] == [0, 0]  # known by the first batch of training


def test_no_order_is_believed_where_no_loss_tells() -> None:
    """Sorted and sorted back, and trained on numbers: which labels rows have can't be told."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        h = net.keep(net.two(net.one(x)[order])[order.argsort()], y)
        return mse_loss(net.head(h), x[:, :CLASSES])

    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs(), head="head", labels=1, num_classes=CLASSES)
    assert [one.counts["labelled"] for one in monitor.history if one.stage == "train"] == [0, 0]


TABLE = torch.tensor([0, 0, 1, 2, 2])


def merged(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    y = TABLE[y]
    return cross_entropy(net.head(net.keep(net.two(net.one(x)), y)), y)


@pytest.mark.parametrize("stages", [("train", "val"), "val"])
def test_classes_that_the_step_makes_of_the_labels(stages: Any) -> None:
    model = Kept(merged, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs(), stages)
    for stage in [stages] if isinstance(stages, str) else stages:
        check(monitor, model, stage)
    assert any(MAPPED in note for one in monitor.history for note in one.notes)


def one_based(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(net.head(net.keep(net.two(net.one(x)), y - 1)), y - 1)


def test_labels_from_one_on() -> None:
    model = Kept(one_based, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    x, y = blobs().tensors
    monitor = run(model, TensorDataset(x, y + 1))
    check(monitor, model, "train")
    check(monitor, model, "val")


class Both(torch.utils.data.Dataset):
    """Two whole numbers a sample: the one that is called "label" is not what is learned."""

    def __init__(self) -> None:
        self.x, self.y = blobs().tensors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "label": torch.tensor(i % 3), "category": self.y[i]}


@pytest.mark.parametrize("labels", ["auto", "label"])
def test_of_two_labels_the_one_that_is_scored(labels: str) -> None:
    class OfDict(Kept):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            y = batch["label" if labels == "label" else "category"]
            z = self.keep(self.two(self.one(batch["x"])), y)
            return cross_entropy(self.head(z), batch["category"])

        validation_step = training_step

    model = OfDict(merged, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    torch.manual_seed(0)
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("train", "val"), labels=labels, on_error="raise")
    trainer(monitor, max_epochs=2).fit(model, DataLoader(Both(), 16, shuffle=True), DataLoader(Both(), 16))
    check(monitor, model, "train")  # what the user has named is believed
    check(monitor, model, "val")


def test_batches_that_are_mixed_in_place_have_no_class_and_others_have() -> None:
    """CutMix as published writes into the batch: what entered is the batch, and the loss alone shows two classes."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        mixes = net.trainer.training and bool(torch.rand(()) < 0.5)
        if not mixes:
            return cross_entropy(net.head(net.keep(net.two(net.one(x)), y)), y)
        other = torch.randperm(len(x))
        x[:, :4] = x[other, :4]
        out = net.head(net.keep(net.two(net.one(x)), None))
        return 0.6 * cross_entropy(out, y) + 0.4 * cross_entropy(out, y[other])

    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs())
    assert any((labels < 0).all() for _, labels in model.kept["train"])
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_a_teachers_classes_beside_the_labels_take_nothing_away() -> None:
    teacher = nn.Linear(10, CLASSES).requires_grad_(False)

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        out = net.head(net.keep(net.two(net.one(x)), y))
        return cross_entropy(out, y) + cross_entropy(out, teacher(x).argmax(dim=1))

    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_an_order_that_only_validation_has_is_followed() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        if not net.trainer.training:
            order = x[:, 0].argsort()
            x, y = x[order], y[order]
        return cross_entropy(net.head(net.keep(net.two(net.one(x)), y)), y)

    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_watching_changes_no_training() -> None:
    def weights(watches: bool) -> Tensor:
        pl.seed_everything(3, verbose=False)
        model = Kept(packed, embed=nn.Embedding(50, 12), lstm=nn.LSTM(12, 16, batch_first=True))
        begin = copy.deepcopy(model.state_dict())
        monitor = [FeatureGeometryMonitor(signals=SIGNALS, on_error="raise")] if watches else []
        trainer(*monitor, max_epochs=2).fit(model, DataLoader(sentences(), 16), DataLoader(sentences(), 16))
        assert any(not torch.equal(value, begin[name]) for name, value in model.state_dict().items())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(True), weights(False))


def test_parts_of_samples_without_a_place_have_no_label() -> None:
    """``views=None``, as a refusal offers it: each row by itself. Their first rows had the first labels."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        out = net.head(net.two(net.one(x.repeat_interleave(2, dim=0))))
        return cross_entropy(out, y.repeat_interleave(2))

    model = Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))
    monitor = run(model, blobs(), views=None)
    assert {one.counts["seen"] for one in monitor.history} == {416}
    assert {one.counts["labelled"] for one in monitor.history if one.stage == "val"} == {0}


def test_labels_that_are_changed_from_an_epoch_on_are_the_batchs_all_the_same() -> None:
    """A few losses of each epoch are looked at, for the order of rows: not to take some batches' classes for others."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        late = net.training and net.current_epoch > 0
        return cross_entropy(net.head(net.keep(net.one(x), y)), y // 2 if late else y)

    check_both(step)


def test_a_few_labels_that_are_changed_from_an_epoch_on_are_noise_and_no_order() -> None:
    """Two are exchanged: the same classes, in another order."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        noisy = y.clone()
        if net.training and net.current_epoch > 0:
            noisy[:2] = y[:2].flip(0)
        return cross_entropy(net.head(net.keep(net.one(x), y)), noisy)

    check_both(step)


def test_rows_that_are_drawn_again_from_an_epoch_on() -> None:
    """As where a classifier is trained anew on balanced samples of frozen features."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        if not (net.training and net.current_epoch > 0):
            return cross_entropy(net.head(net.keep(net.one(x), y)), y)
        with torch.no_grad():
            h = net.one(x)
        drawn = torch.randint(len(x), (len(x),))
        return cross_entropy(net.head(net.keep(h[drawn], y[drawn])), y[drawn])

    check_both(step)
