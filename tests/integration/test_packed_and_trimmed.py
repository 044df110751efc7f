"""Sequences that are packed or trimmed on the way, and rows that lose or get columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import TensorDataset

from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.scored import Kept, by_hand, check, labelled, layer, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes
SETTINGS: dict[str, Any] = {"head": "head", "num_classes": CLASSES}


def test_a_sorted_and_packed_embedding() -> None:
    def step(net: Kept, tokens: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        long, order = lengths.sort(descending=True)
        packed = pack_padded_sequence(net.emb(tokens)[order], long, batch_first=True)
        h = net.keep(net.gru(packed)[1][-1], y[order])
        return by_hand(net.head(h), y[order])

    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (208,), generator=g)
    lengths = torch.randint(1, 8, (208,), generator=g)
    tokens = torch.randint(1, 5, (208, 8), generator=g) + 4 * y[:, None]
    model = Kept(step, emb=nn.Embedding(40, 12), gru=nn.GRU(12, 16, batch_first=True))
    monitor = run(model, TensorDataset(tokens, lengths, y), labels=2, **SETTINGS)
    check(monitor, model, "train")
    assert labelled(monitor, "val") == [0, 0]


class Packs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(10, 16, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
        return self.gru(pack_padded_sequence(x[order], lengths[order], batch_first=True))[1][-1]


def test_packed_sequences_whose_padding_is_no_zeros() -> None:
    def step(net: Kept, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        order = lengths.argsort(descending=True)
        return by_hand(net.head(net.keep(net.packs(x, lengths, order), y[order])), y[order])

    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(208, 6, 10, generator=g), torch.randint(0, CLASSES, (208,), generator=g)
    lengths = torch.randint(1, 7, (208,), generator=g)
    model = Kept(step, packs=Packs())
    monitor = run(model, TensorDataset(x, lengths, y), labels=2, **SETTINGS)
    check(monitor, model, "train")
    check(monitor, model, "val")


@pytest.mark.parametrize("loss", [cross_entropy, by_hand])
def test_micro_batches_that_are_trimmed_to_their_longest(loss: Any) -> None:
    def step(net: Kept, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        total = torch.zeros(())
        for part in lengths.argsort().chunk(2):
            h = net.keep(net.one(x[part][:, : int(lengths[part].max())]).sum(dim=1), y[part])
            total = total + loss(net.head(h), y[part]) / 2
        return total

    g = torch.Generator().manual_seed(0)
    lengths, y = torch.randint(1, 8, (208,), generator=g), torch.randint(0, CLASSES, (208,), generator=g)
    x = torch.randn(208, 7, 10, generator=g) * (torch.arange(7) < lengths[:, None])[..., None]
    model = Kept(step, one=layer(10))
    monitor = run(model, TensorDataset(x, lengths, y), labels=2, **SETTINGS)
    check(monitor, model, "train")
    check(monitor, model, "val")


def test_columns_that_are_lost_or_added_and_sequences_that_are_trimmed() -> None:
    for cut in (lambda x: x[:, :6], lambda x: torch.cat([x, torch.ones(len(x), 2)], dim=1)):

        def step(net: Kept, x: Tensor, y: Tensor, cut: Any = cut) -> Tensor:
            order = x[:, 0].argsort()
            h = net.keep(net.one(cut(x[order])), y[order])
            return by_hand(net.head(h), y[order])

        model = Kept(step, one=layer(cut(torch.zeros(1, 10)).shape[1]))
        monitor = run(model, blobs(), **SETTINGS)
        check(monitor, model, "train")
        check(monitor, model, "val")
