"""Which loaders are known to give the same samples in the same order: all others are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_featgeo.adapters import FeatureWatch
from lightning_featgeo.errors import GapKind
from lightning_featgeo.watch.samplers import in_order, keeps_order

DATA = TensorDataset(torch.arange(40.0)[:, None])


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randn(40, 1))


class MyBatches(Sampler[list[int]]):
    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(40).view(-1, 8).tolist())

    def __len__(self) -> int:
        return 5


class MyOrder(SequentialSampler):
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(40).tolist())


def spread(shuffle: bool) -> Any:
    return DistributedSampler(DATA, num_replicas=2, rank=0, shuffle=shuffle)


def wrapped(sampler: Any) -> Any:
    return DistributedSamplerWrapper(sampler, num_replicas=2, rank=0, shuffle=False)


@pytest.mark.parametrize(
    ("loader", "known"),
    [
        (DataLoader(DATA, 8), True),
        (DataLoader(DATA, batch_size=None), True),
        (DataLoader(DATA, 8, sampler=spread(False)), True),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 8, False)), True),
        ([torch.randn(8, 1)], True),
        (DataLoader(DATA, 8, shuffle=True), False),
        (DataLoader(DATA, batch_size=None, shuffle=True), False),
        (DataLoader(DATA, 8, sampler=spread(True)), False),
        (DataLoader(DATA, 8, sampler=wrapped(RandomSampler(DATA))), False),
        (DataLoader(DATA, 8, sampler=SubsetRandomSampler(range(40))), False),
        (DataLoader(DATA, 8, sampler=WeightedRandomSampler([1.0] * 40, 40)), False),
        (DataLoader(DATA, 8, sampler=MyOrder(DATA)), False),
        (DataLoader(DATA, batch_sampler=MyBatches()), False),
        (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 8, False)), False),
        (DataLoader(Stream(), 8), False),
        (DataLoader(Stream(), batch_size=None), False),
        (iter([torch.randn(8, 1)]), False),
        (object(), False),
        (None, False),
    ],
)
def test_only_what_reads_from_front_to_back_is_known(loader: Any, known: bool) -> None:
    assert keeps_order(loader) is known
    assert known or not in_order(loader)


def still() -> FeatureWatch:
    model = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 2))
    return FeatureWatch(model, signals=["effective_rank", "neighbor_churn"], head="2", on_error="raise")


def read(watch: FeatureWatch, batches: Any, **given: Any) -> Any:
    watch.open("val", **given)
    for batch in batches:
        with torch.no_grad(), watch.batch(batch):
            watch.model(batch[0])
    watch.close()
    return watch.history.records[-1]


def test_windows_of_a_known_loader_are_paired() -> None:
    watch, loader = still(), DataLoader(DATA, 8)
    assert read(watch, loader, loader=loader).gaps["neighbor_churn"].kind is GapKind.NO_EARLIER
    assert read(watch, loader, loader=loader).values["neighbor_churn"] == 0.0


@pytest.mark.parametrize("how", [{"batch_sampler": MyBatches()}, {"batch_size": 8, "shuffle": True}])
def test_windows_of_an_unknown_loader_are_gaps(how: dict[str, Any]) -> None:
    batches: Any = DataLoader(DATA, **how)
    for given in ({}, {"loader": batches}):
        watch = still()
        for _ in range(2):
            gap = read(watch, batches, **given).gaps["neighbor_churn"]
            assert gap.kind is GapKind.NOT_PAIRED
            assert "Use a DataLoader of a map-style data set without shuffle=" in gap
            assert "open(…, loader=it)" in gap


def test_a_loader_that_begins_to_shuffle_is_no_longer_paired() -> None:
    watch, loader, shuffled = still(), DataLoader(DATA, 8), DataLoader(DATA, 8, shuffle=True)
    read(watch, loader, loader=loader)
    assert read(watch, shuffled, loader=shuffled).gaps["neighbor_churn"].kind is GapKind.NOT_PAIRED
    assert read(watch, loader, loader=loader).gaps["neighbor_churn"].kind is GapKind.NO_EARLIER
    assert read(watch, loader, loader=loader).values["neighbor_churn"] == 0.0
