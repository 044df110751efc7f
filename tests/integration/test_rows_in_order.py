"""Ordinary networks that take rows on the way and leave them in order, under a loss that keeps no classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from lightning_featgeo import GeometryMetric
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.scored import Kept, by_hand, check, labelled, layer, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
SETTINGS: dict[str, Any] = {"head": "head", "num_classes": CLASSES}


def experts_beside_a_residual(net: Kept, x: Tensor) -> Tensor:
    h = net.one(x)
    chosen = h[:, 0] > 0
    order = torch.cat([chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]])
    first, second = h[order].split([int(chosen.sum()), int((~chosen).sum())])
    parts = torch.cat([net.a(first), net.b(second)])
    return net.two(h + torch.zeros_like(h).index_add(0, order, parts))


def a_graph_of_as_many_edges_as_nodes(net: Kept, x: Tensor) -> Tensor:
    h, source = net.one(x), torch.arange(len(x))
    return net.two(h + torch.zeros_like(h).index_add(0, (source + 1) % len(h), h[source]))


def a_normalised_table_of_as_many_entries_as_rows(net: Kept, x: Tensor) -> Tensor:
    return net.two(net.one(net.norm(x)) + net.table((x[:, 0] > 0).long()))


def columns_under_checkpointing(net: Kept, x: Tensor) -> Tensor:
    columns = torch.arange(16).flip(0)
    return checkpoint(lambda x: net.two(net.one(x)[:, columns].index_select(1, columns)), x, use_reentrant=False)


def a_normalised_table_under_checkpointing(net: Kept, x: Tensor) -> Tensor:
    return checkpoint(lambda x: net.two(net.one(x) + net.table((x[:, 0] > 0).long())), x, use_reentrant=False)


def other_rows_as_context_of_normalised_ones(net: Kept, x: Tensor) -> Tensor:
    return net.two(net.one(net.norm(x)) + 0.1 * net.a(x)[torch.randperm(len(x))])


def edges(nodes: int) -> tuple[Tensor, Tensor]:
    """From and to, with one from each node to itself."""
    own, g = torch.arange(nodes), torch.Generator().manual_seed(nodes)
    more = torch.randint(nodes, (2, 2 * nodes), generator=g)
    return torch.cat([own, more[0]]), torch.cat([own, more[1]])


def messages_added_up(net: Kept, x: Tensor) -> Tensor:
    h, (source, target) = net.one(x), edges(len(x))
    return net.two(torch.zeros_like(h).index_add(0, target, h[source]))


def messages_scattered(net: Kept, x: Tensor) -> Tensor:
    h, (source, target) = net.one(x), edges(len(x))
    return net.two(torch.zeros_like(h).scatter_add(0, target[:, None].expand(-1, 16), h[source]).relu())


def the_largest_messages(net: Kept, x: Tensor) -> Tensor:
    h, (source, target) = net.one(x), edges(len(x))
    messages = h.index_select(0, source)
    return net.two(torch.zeros_like(h).scatter_reduce(0, target[:, None].expand(-1, 16), messages, "amax"))


def messages_twice(net: Kept, x: Tensor) -> Tensor:
    h, (source, target) = net.one(x), edges(len(x))
    for one in (net.two, net.b):
        h = one(torch.zeros_like(h).index_add(0, target, h[source]))
    return h


def messages_right_before_the_head(net: Kept, x: Tensor) -> Tensor:
    h, (source, target) = net.two(net.one(x)), edges(len(x))
    return torch.zeros_like(h).index_add(0, target, h[source])


NETWORKS = [
    messages_added_up, messages_scattered, the_largest_messages, messages_right_before_the_head, messages_twice,
    experts_beside_a_residual, a_graph_of_as_many_edges_as_nodes, a_normalised_table_of_as_many_entries_as_rows,
    a_normalised_table_under_checkpointing, columns_under_checkpointing, other_rows_as_context_of_normalised_ones,
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_have_their_own_labels(network: Callable[[Kept, Tensor], Tensor]) -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        return by_hand(net.head(net.keep(network(net, x), y)), y)

    torch.manual_seed(0)
    layers = {name: layer(10 if name == "one" else 16) for name in ("one", "two", "b")}
    layers["a"] = layer(10 if network is other_rows_as_context_of_normalised_ones else 16)
    model = Kept(step, **layers, norm=nn.BatchNorm1d(10), table=spectral_norm(nn.Embedding(16, 16)))
    monitor = run(model, blobs(), **SETTINGS)
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_noisy_targets_of_augmented_samples_leave_labels_as_they_are() -> None:
    """What entered is no copy of the batch, and the loss mostly scores other classes: not those of the batch before."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        if net.trainer.training:
            x = torch.stack([torch.rot90(one, int(torch.randint(1, 4, ())), (0, 1)) for one in x])
        target = (y + torch.randint(1, CLASSES, y.shape)) % CLASSES if net.trainer.training else y
        return cross_entropy(net.head(net.keep(net.one(x.flatten(1)), y)), target)

    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (208,), generator=g)
    x = 2 * torch.randn(CLASSES, 6, 6, generator=g)[y] + torch.randn(208, 6, 6, generator=g)
    model = Kept(step, one=layer(36))
    monitor = run(model, TensorDataset(x, y), num_classes=CLASSES)
    check(monitor, model, "train")
    check(monitor, model, "val")


@pytest.mark.parametrize("changed", ["standardised", "noisy"])
def test_pieces_of_changed_samples_in_encoders_of_their_own(changed: str) -> None:
    """In batches in which they are recognised by likeness each row has its sample's label, in others none has."""

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x = (x - x.mean(0)) / x.std(0) if changed == "standardised" else x + 0.01 * torch.randn_like(x)
        first = x[:, 0] > 0
        y = torch.cat([y[first], y[~first]])
        h = net.two(torch.cat([net.one(x[first]), net.other(x[~first])]))
        return by_hand(net.head(net.keep(h, y)), y)

    model = Kept(step, one=layer(10), other=layer(10), two=layer(16))
    monitor = run(model, blobs(), **SETTINGS)
    assert all(one.counts["labelled"] == 0 for one in monitor.history if one.stage == "val")
    if changed == "noisy":
        check(monitor, model, "train")
    else:
        by_place = GeometryMetric(["nc1"], num_classes=CLASSES)
        for rows, y in model.kept["train"]:
            by_place.update(rows, y)
        right = by_place.window().values["nc1"]
        found = [one for one in monitor.history if one.stage == "train"][-1]
        assert found.values.get("nc1", right) == pytest.approx(right, rel=0.2)  # of some batches, or of all


def test_pieces_of_what_resembles_nothing_have_no_label_in_encoders_of_their_own() -> None:
    turn = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(5))).Q

    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x = torch.sin(3 * x @ turn)
        first = x[:, 0] > 0
        y = torch.cat([y[first], y[~first]])
        h = net.two(torch.cat([net.one(x[first]), net.other(x[~first])]))
        return by_hand(net.head(net.keep(h, y)), y)

    monitor = run(Kept(step, one=layer(10), other=layer(10), two=layer(16)), blobs(), **SETTINGS)
    assert labelled(monitor, "train") == labelled(monitor, "val") == [0, 0]


def test_chunks_of_augmented_samples_in_one_encoder_are_in_order() -> None:
    def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        x = (x - x.mean(0)) / x.std(0)
        h = net.two(torch.cat([net.one(part) for part in x.chunk(3)]))
        return by_hand(net.head(net.keep(h, y)), y)

    model = Kept(step, one=layer(10), two=layer(16))
    monitor = run(model, blobs(), **SETTINGS)
    check(monitor, model, "train")
    check(monitor, model, "val")
