"""The batch is moved or mixed before the first layer sees it: inside of a model, by a module before it, in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import TensorDataset

from lightning_featgeo.rows.calls import MIXED
from lightning_featgeo.rows.scored_calls import ONE_OF_THEM, SOME_OF_THEM
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.scored import Kept, by_hand, check, labelled, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


class Mixup(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        t = one_hot(y, CLASSES).float()
        return 0.6 * x + 0.4 * x.roll(1, 0), 0.6 * t + 0.4 * t.roll(1, 0)


class Shuffle(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(x))
        return x[order], y[order]


class Sorting(nn.Module):
    """Sorts its input, and its logits back."""

    def __init__(self, only_evaluates: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.only = (
            nn.Sequential(nn.Linear(10, 16), nn.Tanh()),
            nn.Linear(16, CLASSES),
            only_evaluates,
        )

    def forward(self, x: Tensor) -> Tensor:
        self.order = torch.arange(len(x)) if self.only and self.training else x[:, 0].argsort()
        self.h = self.body(x[self.order])
        return self.head(self.h)[self.order.argsort()]


class Recurrent(nn.Module):
    """Sorts sequences by length, packs them, and puts the logits back."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(10, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        ordered, self.order = lengths.sort(descending=True)
        self.h = self.gru(pack_padded_sequence(x[self.order], ordered.cpu(), batch_first=True))[1][0]
        return self.head(self.h)[self.order.argsort()]


def test_mixtures_by_a_module_have_no_class() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x, t = net.mixup(x, y) if net.training else (x, one_hot(y, CLASSES).float())
        return cross_entropy(net.head(net.keep(net.one(x), y)), t)

    model = Kept(step, mixup=Mixup(), one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, blobs())
    assert labelled(monitor, "train") == [0, 0]
    assert any(note == MIXED for one in monitor.history for note in one.notes)
    check(monitor, model, "val")


@pytest.mark.parametrize("loss", [cross_entropy, by_hand])
def test_rows_that_a_module_shuffles(loss: Any) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x, y = net.shuffle(x, y)
        return loss(net.head(net.keep(net.one(x), y)), y)

    model = Kept(step, shuffle=Shuffle(), one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")


@pytest.mark.parametrize("always", [True, False], ids=["always", "in evaluation only"])
def test_inputs_that_are_sorted_inside_of_a_model(always: bool) -> None:
    """Where training has not shown what becomes of sorted rows, those of an evaluation have no class."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        logits = net.model(x)
        net.keep(net.model.h, y[net.model.order])
        return by_hand(logits, y)

    model = Kept(step, model=Sorting(only_evaluates=not always))
    monitor = run(model, blobs(), head="model.head", num_classes=CLASSES)
    check(monitor, model, "train")
    if always:
        check(monitor, model, "val")
    else:
        assert labelled(monitor, "val") == [0, 0]


def test_sequences_that_are_sorted_and_packed_inside_of_a_model() -> None:
    def step(net: Kept, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        logits = net.model(x, lengths)
        net.keep(net.model.h, y[net.model.order])
        return by_hand(logits, y)

    x, y = blobs().tensors
    lengths = torch.randint(1, 5, (len(x),), generator=torch.Generator().manual_seed(0))
    x = x[:, None] * (torch.arange(6)[:, None] < lengths[:, None, None])
    model = Kept(step, model=Recurrent())
    monitor = run(model, TensorDataset(x, lengths, y), head="model.head", labels=2, num_classes=CLASSES)
    check(monitor, model, "train")
    check(monitor, model, "val")


@pytest.mark.parametrize("how", ["two calls", "one call, sliced", "one call, split", "one call, a second loss"])
def test_unlabelled_samples_beside_the_labelled_ones(how: str) -> None:
    """The batch has both, and one column of labels."""

    def step(net: Kept, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        n = len(x)
        if how == "two calls":
            free = net.head(net.one(other)).softmax(1)
            return cross_entropy(net.head(net.keep(net.one(x), y)), y) - 0.01 * free.square().mean()
        rows = torch.cat([other, x] if how == "one call, sliced" else [x, other + 0.05 * torch.randn_like(other)])
        h = net.one(rows)
        net.keep(h[n:] if how == "one call, sliced" else h[:n], y)
        z = net.head(h)
        if how == "one call, sliced":
            return cross_entropy(z[n:], y)
        own, free = z.split(n)
        more = cross_entropy(free, free.detach().argmax(1)) if how == "one call, a second loss" else free.mean()
        return cross_entropy(own, y) + 0.1 * more

    x, y = blobs().tensors
    others = 2 * torch.randn(len(x), 10, generator=torch.Generator().manual_seed(3))
    model = Kept(step, one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, TensorDataset(x, y, others), ("train",))
    check(monitor, model, "train")
    assert {ONE_OF_THEM if how == "two calls" else SOME_OF_THEM} <= {
        str(note) for one in monitor.history for note in one.notes
    }


def test_micro_batches_of_changed_samples_have_the_labels_that_they_are_scored_against() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        loss = torch.zeros(())
        for part in x[:, 0].argsort().chunk(2):
            h = net.keep(net.one(x[part][:, 2:]), y[part])
            loss = loss + cross_entropy(net.head(h), y[part]) / 2
        return loss

    model = Kept(step, one=nn.Sequential(nn.Linear(8, 16), nn.Tanh()))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    assert labelled(monitor, "val") == [0, 0]  # nothing tells whose rows those are


LOSSES: dict[str, Any] = {
    "classes that are not kept": by_hand,
    "a margin": lambda z, y: cross_entropy(torch.where(one_hot(y, CLASSES).bool(), z - 0.1, z), y),
    "soft labels": lambda z, y: cross_entropy(z, 0.9 * one_hot(y, CLASSES).float() + 0.1 / CLASSES),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("back", [False, True], ids=["left so", "put back by a second index"])
def test_rows_that_are_taken_behind_a_layer(loss: Any, back: bool) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = torch.randperm(len(x))
        h = net.two(net.one(x)[order])
        if back:
            h = torch.tanh(net.three(h[order.argsort()]))
        else:
            y = y[order]
        return loss(net.head(net.keep(h, y)), y)

    torch.manual_seed(0)
    layers = {
        name: nn.Sequential(nn.Linear(10 if name == "one" else 16, 16), nn.Tanh()) for name in ("one", "two", "three")
    }
    model = Kept(step, **layers)
    monitor = run(model, blobs(), head="head", num_classes=CLASSES)
    check(monitor, model, "train")
    if back:
        check(monitor, model, "val")
    else:  # between modules of an evaluation nobody sees what was taken
        assert labelled(monitor, "val") == [0, 0]


def test_pairs_of_samples_keep_their_own_labels() -> None:
    """A row and another one side by side: the way without the index leads to the batch."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h = net.one(x)
        h = net.two(torch.cat([h, h[torch.randperm(len(x))]], dim=1))
        return by_hand(net.head(net.keep(h, y)), y)

    model = Kept(step, one=nn.Linear(10, 8), two=nn.Sequential(nn.Linear(16, 16), nn.Tanh()))
    monitor = run(model, blobs(), ("train",), head="head", num_classes=CLASSES)
    check(monitor, model, "train")


def test_maps_of_labels_that_are_flipped_with_their_images() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x, y = (x.flip(3), y.flip(2)) if net.training else (x, y)
        h = net.one(x)
        net.keep(h.permute(0, 2, 3, 1).flatten(0, 2), y.flatten())
        return cross_entropy(net.head(h), y)

    x, y = blobs(16 * 36).tensors
    images = TensorDataset(x.view(16, 6, 6, 10).permute(0, 3, 1, 2).contiguous(), y.view(16, 6, 6))
    model = Kept(step, one=nn.Sequential(nn.Conv2d(10, 16, 1), nn.Tanh()))
    model.head = nn.Conv2d(16, CLASSES, 1)
    monitor = run(model, images, pool="b c h w -> (b h w) c", num_classes=CLASSES)
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_an_order_that_begins_late_is_seen_in_a_copy() -> None:
    """Copies of the batch, of which rows in the middle are exchanged from the fourth batch on."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = torch.arange(len(x))
        if net.global_step > 3:
            order[2:6] = order[2:6].flip(0)
        return by_hand(net.head(net.keep(net.one(x[order].clone()), y[order])), y[order])

    model = Kept(step, one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, blobs(), ("train",), head="head", num_classes=CLASSES)
    check(monitor, model, "train")


def test_modules_that_run_under_a_transform_are_left_alone() -> None:
    """Tensors without memory of their own, in a layer that keeps the width: what looks at them must not fail."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        one = torch.func.vmap(lambda row: net.wide(net.one, row[None])[0], randomness="different")(x)
        return cross_entropy(net.head(net.keep(one, y)), y)

    class Wide(nn.Module):
        def forward(self, layer: nn.Module, row: Tensor) -> Tensor:
            return layer(row.clone())

    model = Kept(step, wide=Wide(), one=nn.Sequential(nn.Identity(), nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, blobs(), head="head")
    assert [one.counts["seen"] for one in monitor.history] == [208] * 4


def test_a_batch_in_one_call_after_one_in_parts() -> None:
    """Its rows are mixtures, and have no class, though the loss scores one."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        if net.global_step % 2 == 0:
            halves = zip(x.chunk(2), y.chunk(2), strict=True)
            return sum(cross_entropy(net.head(net.keep(net.one(a), b)), b) for a, b in halves)
        h = net.one(x)
        return cross_entropy(net.head(net.keep(0.6 * h + 0.4 * h[torch.randperm(len(h))], None)), y)

    model = Kept(step, one=nn.Sequential(nn.Linear(10, 16), nn.Tanh()))
    monitor = run(model, blobs(), ("train",), head="head", num_classes=CLASSES)
    check(monitor, model, "train")
