"""Training batches that come sorted, as bucketing by length makes them: a step that sorts leaves them as they are, and
shows no order that validation's batches, which are not sorted, could be followed by."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.blobs import CLASSES
from tests._helpers.models import trainer
from tests._helpers.scored import SIGNALS, Kept, check

LENGTH = 7
WORDS = 1 + CLASSES * 8


def sentences(n: int) -> Any:
    generator = torch.Generator().manual_seed(n)
    y = torch.randint(CLASSES, (n,), generator=generator)
    length = torch.randint(3, LENGTH + 1, (n,), generator=generator)
    words = 1 + y[:, None] * 8 + torch.randint(8, (n, LENGTH), generator=generator)
    words = words * (torch.arange(LENGTH) < length[:, None])
    return [(words[i], int(length[i]), int(y[i])) for i in range(n)]


def together(samples: Any) -> tuple[Tensor, Tensor, Tensor]:
    words, lengths, classes = zip(*samples, strict=True)
    return torch.stack(words), torch.tensor(lengths), torch.tensor(classes)


def by_length(samples: Any) -> tuple[Tensor, Tensor, Tensor]:
    return together(sorted(samples, key=lambda one: -one[1]))


def read(net: Any, embedded: Tensor, lengths: Tensor, enforce_sorted: bool = True) -> Tensor:
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=enforce_sorted)
    last: Tensor = net.rnn(packed)[1][-1]
    return last


def sorted_behind(net: Kept, words: Tensor, lengths: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = lengths.argsort(descending=True, stable=True)
    return read(net, net.embed(words)[order], lengths[order]), y[order]


def sorted_before(net: Kept, words: Tensor, lengths: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = lengths.argsort(descending=True, stable=True)
    return read(net, net.embed(words[order]), lengths[order]), y[order]


def put_back(net: Kept, words: Tensor, lengths: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = lengths.argsort(descending=True, stable=True)
    return read(net, net.embed(words)[order], lengths[order])[order.argsort()], y


def packed_by_pytorch(net: Kept, words: Tensor, lengths: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return read(net, net.embed(words), lengths, enforce_sorted=False), y


def last_word(net: Kept, words: Tensor, lengths: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return net.middle(net.rnn(net.embed(words))[0][torch.arange(len(y)), lengths - 1]), y


@pytest.mark.filterwarnings("ignore:featgeo")
@pytest.mark.parametrize("sorts", [True, False], ids=["bucketed", "shuffled"])
@pytest.mark.parametrize("features", [sorted_behind, sorted_before, put_back, packed_by_pytorch, last_word])
def test_validation_has_the_right_labels_or_none(features: Any, sorts: bool) -> None:
    def step(net: Kept, *batch: Tensor) -> Tensor:
        rows, y = features(net, *batch)
        return cross_entropy(net.head(net.keep(rows, y)), y)

    torch.manual_seed(0)
    model = Kept(
        step,
        embed=nn.Embedding(WORDS, 16),
        rnn=nn.GRU(16, 16, batch_first=True),
        middle=nn.Sequential(nn.Linear(16, 16)),
    )
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("train", "val"), labels=2, on_error="raise")
    training: Any = DataLoader(sentences(96), 16, shuffle=True, collate_fn=by_length if sorts else together)
    trainer(monitor, max_epochs=2).fit(model, training, DataLoader(sentences(80), 16, collate_fn=together))
    check(monitor, model, "train")
    shows_none = sorts or features is sorted_behind  # in validation nothing tells the order behind a layer
    if features in (sorted_behind, sorted_before) and shows_none:
        last = [one for one in monitor.history if one.stage == "val"][-1]
        assert last.counts["labelled"] == 0
        assert "order" in str(last.gaps["nc1"])
    else:
        check(monitor, model, "val")


class Curriculum(torch.utils.data.Sampler[int]):
    """The shortest samples first in the first epoch, any order later."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.epoch = lengths, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        self.epoch += 1
        if self.epoch == 1:
            return iter(sorted(range(len(self)), key=lambda one: -self.lengths[one]))
        return iter(torch.randperm(len(self), generator=torch.Generator().manual_seed(self.epoch)).tolist())


def test_an_order_that_begins_with_the_second_epoch_is_seen() -> None:
    """The embedding is frozen: no graph shows that its rows are sorted; the loss does, of which each epoch's first ones
    are looked at."""

    def step(net: Kept, *batch: Tensor) -> Tensor:
        rows, y = sorted_behind(net, *batch)
        return cross_entropy(net.head(net.keep(rows, y)), y)

    torch.manual_seed(0)
    model = Kept(step, embed=nn.Embedding(WORDS, 16).requires_grad_(False), rnn=nn.GRU(16, 16, batch_first=True))
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("train",), labels=2, on_error="raise")
    samples = sentences(160)
    loader: Any = DataLoader(samples, 16, sampler=Curriculum([one[1] for one in samples]), collate_fn=together)
    trainer(monitor, max_epochs=3).fit(model, loader)
    check(monitor, model, "train")
