"""Rows in another order where little shows it: tensors beside them, hidden indices, pieces, late beginnings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear, one_hot
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from lightning_featgeo.rows.words import BETWEEN, IN_ORDER, KNOWN, OTHERS_SCORED
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.models import trainer
from tests._helpers.scored import Kept, by_hand, check, labelled, layer, run
from tests._helpers.typed import unchecked

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes
SETTINGS: dict[str, Any] = {"head": "head", "num_classes": CLASSES}


def cell(net: Kept, h: Tensor, x: Tensor, order: Tensor) -> Tensor:
    state = torch.zeros(len(h), 16)
    return net.cell(h, (state, state))[0]


def noise(net: Kept, h: Tensor, x: Tensor, order: Tensor) -> Tensor:
    return net.joined(torch.cat([h, torch.randn(len(h), 4)], dim=1))


def scaled(net: Kept, h: Tensor, x: Tensor, order: Tensor) -> Tensor:
    """By another encoder of the same samples, taken alike."""
    return h * net.cond(x[order])


def beside(net: Kept, h: Tensor, x: Tensor, order: Tensor) -> Tensor:
    """Added to what the batch's own rows make: h is of other samples, as context."""
    return net.cond(x) + 0.3 * h


def beside_a_copy(net: Kept, h: Tensor, x: Tensor, order: Tensor) -> Tensor:
    """The same of a copy, which only its numbers show."""
    return beside(net, h, x.clone(), order)


@pytest.mark.parametrize(
    ("join", "told"),
    [(cell, "order"), (scaled, "order"), (noise, "nothing"), (beside, "the batch"), (beside_a_copy, "the batch")],
)
def test_what_is_joined_behind_an_index_is_looked_at(join: Callable[..., Tensor], told: str) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = torch.randperm(len(x))
        y = y if told == "the batch" else y[order]
        h = net.keep(join(net, net.one(x)[order], x, order), y)
        return by_hand(net.head(h), y)

    model = Kept(step, one=layer(10), cell=nn.LSTMCell(16, 16), joined=layer(20), cond=layer(10))
    monitor = run(model, blobs(), **SETTINGS)
    if told == "nothing":
        assert labelled(monitor, "train") == [0, 0]
    else:
        check(monitor, model, "train")
    if told != "the batch":
        assert labelled(monitor, "val") == [0, 0]


class Permutes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, order: Tensor) -> Tensor:
        ctx.order = order
        return h[order]

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(given[0]).index_copy_(0, ctx.order, given[0]), None


def recomputed(net: Kept, x: Tensor, order: Tensor) -> Tensor:
    return checkpoint(lambda x: net.two(net.one(x)[order]), x, use_reentrant=False)


def offloaded(net: Kept, x: Tensor, order: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return net.two(net.one(x)[order])


@pytest.mark.parametrize("body", [recomputed, offloaded])
def test_an_index_that_cannot_be_read_is_not_taken_for_none(body: Callable[..., Tensor]) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order = torch.randperm(len(x))
        return by_hand(net.head(net.keep(body(net, x, order), y[order])), y[order])

    monitor = run(Kept(step, one=layer(10), two=layer(16)), blobs(), **SETTINGS)
    assert labelled(monitor, "train") == labelled(monitor, "val") == [0, 0]


def test_mixtures_under_activation_checkpointing_have_no_class() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        order, target = torch.randperm(len(x)), one_hot(y, CLASSES).float()

        def body(x: Tensor) -> Tensor:
            h = net.one(x)
            return net.two(0.6 * h + 0.4 * h[order])

        h = checkpoint(body, x, use_reentrant=False)
        return cross_entropy(net.head(net.keep(h, None)), 0.6 * target + 0.4 * target[order])

    monitor = run(Kept(step, one=layer(10), two=layer(16)), blobs(), ("train",), **SETTINGS)
    assert labelled(monitor, "train") == [0, 0]


def test_a_function_of_ones_own_is_not_verified() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h = net.two(Permutes.apply(net.one(x), torch.randperm(len(x))))
        return by_hand(net.head(net.keep(h, y)), y)

    monitor = run(Kept(step, one=layer(10), two=layer(16)), blobs(), ("train",), **SETTINGS)
    assert monitor.history.run["rows"] == [BETWEEN]


def interleaved(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    n = len(h)
    return h.reshape(2, -1, 16).transpose(0, 1).reshape(n, 16), torch.arange(n).view(2, -1).t().flatten()


def looked_up(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(h))
    return embedding(order, h), order


def multiplied(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(h))
    return torch.eye(len(h))[order] @ h, order


def smoothed(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """As a graph's layer does: no permutation, and rows stay where they are."""
    near = 0.9 * torch.eye(len(h)) + 0.1 * torch.eye(len(h))[torch.randperm(len(h))]
    return near @ h, torch.arange(len(h))


@pytest.mark.parametrize("take", [interleaved, looked_up, multiplied, smoothed])
def test_other_ways_to_take_rows(take: Callable[..., tuple[Tensor, Tensor]]) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h, order = take(net.one(x), x)
        return by_hand(net.head(net.keep(net.two(h), y[order])), y[order])

    model = Kept(step, one=layer(10), two=layer(16))
    monitor = run(model, blobs(), **SETTINGS)
    check(monitor, model, "train")
    if take is smoothed:
        check(monitor, model, "val")
    else:
        assert labelled(monitor, "val") == [0, 0]


class Routes(nn.Module):
    """Two encoders, each of its own part of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.two = layer(10), layer(10), layer(16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = x[:, 0] > 0
        where = torch.arange(len(x))
        return self.two(torch.cat([self.a(x[first]), self.b(x[~first])])), torch.cat([where[first], where[~first]])


@pytest.mark.parametrize("inside", [False, True], ids=["in the step", "inside of a model"])
def test_pieces_that_went_through_encoders_of_their_own(inside: bool) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h, order = net.routes(x) if inside else Routes.forward(net.routes, x)
        return by_hand(net.head(net.keep(h, y[order])), y[order])

    model = Kept(step, routes=Routes())
    monitor = run(model, blobs(), **SETTINGS)
    check(monitor, model, "train")
    assert labelled(monitor, "val") == [0, 0]


def test_chunks_in_order_are_the_batch() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h = torch.cat([net.one(part) for part in x.chunk(3)])
        return by_hand(net.head(net.keep(net.two(h), y)), y)

    model = Kept(step, one=layer(10), two=layer(16))
    monitor = run(model, blobs(), **SETTINGS)
    check(monitor, model, "train")
    check(monitor, model, "val")


class Now(nn.Module):
    """Mixes or shuffles its input in the batches that it is told."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes, self.one, self.two = mixes, layer(10), layer(16)

    def forward(self, x: Tensor, now: bool) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(x)) if now else torch.arange(len(x))
        x = x if not now else 0.6 * x + 0.4 * x[order] if self.mixes else x[order]
        return self.two(self.one(x)), order


@pytest.mark.parametrize("mixes", [True, False], ids=["mixed", "shuffled"])
def test_what_a_model_does_to_its_input_now_and_then(mixes: bool) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        now = net.trainer.training and net.global_step % 7 == 5
        h, order = net.model(x, now)
        target = one_hot(y, CLASSES).float()
        if mixes:
            net.keep(h, None if now else y)
            target = 0.6 * target + 0.4 * target[order] if now else target
        else:
            net.keep(h, y[order])
            target = target[order]
        return cross_entropy(net.head(h), target)

    model = Kept(step, model=Now(mixes))
    monitor = run(model, blobs(), **SETTINGS)
    check(monitor, model, "train")
    check(monitor, model, "val") if mixes else None


def test_an_order_behind_a_layer_that_begins_late() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        h = net.one(x)
        if net.global_step > 5:
            order = torch.randperm(len(x))
            h, y = h[order], y[order]
        return by_hand(net.head(net.keep(net.two(h), y)), y)

    model = Kept(step, one=layer(10), two=layer(16))
    monitor = run(model, blobs(), ("train",), **SETTINGS)
    check(monitor, model, "train")


def test_a_step_that_trains_on_the_batch_before() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        if net.trainer.training:
            (x, y), net.before = getattr(net, "before", None) or (x, y), (x, y)
        return cross_entropy(net.head(net.keep(net.one(x), y)), y)

    model = Kept(step, one=layer(10))
    monitor = run(model, blobs())
    check(monitor, model, "train")
    check(monitor, model, "val")
    assert any(OTHERS_SCORED in str(note) for one in monitor.history for note in one.notes)


def test_a_list_of_heads_is_refused_with_what_to_name() -> None:
    with unchecked(), pytest.raises(ConfigurationError, match="name one module by its path"):
        FeatureGeometryMonitor(head=["a", "b"])  # type: ignore[arg-type]  # what is refused


def test_validation_says_where_less_is_known_of_its_rows() -> None:
    """In training the batch itself enters, in validation something that is no copy of it."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x = x if net.trainer.training else torch.randn(len(x), 10) @ torch.randn(10, 10)
        return cross_entropy(net.head(net.keep(net.one(x), y)), y)

    monitor = FeatureGeometryMonitor(signals=["feature_std"], stages=("train", "val"), num_classes=CLASSES)
    data = DataLoader(blobs(), 16)
    trainer(monitor, max_epochs=1, num_sanity_val_steps=0).fit(Kept(step, one=layer(10)), data, data)
    assert monitor.history.run["rows"] == [KNOWN]
    notes = {one.stage: [str(note) for note in one.notes] for one in list(monitor.history)[:2]}
    assert f"rows of val are {IN_ORDER}" in notes["val"]
    assert not any("rows of" in note for note in notes["train"])


def test_a_head_that_a_function_applies_is_refused_with_a_line_that_works() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(linear(net.keep(net.enc(x), y), net.head.weight), y)

    def model() -> Kept:
        torch.manual_seed(0)
        return Kept(step, enc=nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16)))

    with pytest.raises(ConfigurationError) as refused:
        run(model(), blobs(), ("train",))
    line = next(line for line in str(refused.value).splitlines() if "layer=" in line).strip()
    assert line.startswith("FeatureGeometryMonitor(layer='enc')")
    kept = model()
    check(run(kept, blobs(), ("train",), layer="enc", num_classes=CLASSES), kept, "train")
