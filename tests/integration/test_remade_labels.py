"""What the loss scores is not always what labels are to be: classes of episodes, of tasks, noise, a curriculum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.rows.remade import Remade
from lightning_featgeo.rows.scoring import Scoring
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.models import trainer
from tests._helpers.scored import SIGNALS, Kept, check, run

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


def model(step: Any) -> Kept:
    torch.manual_seed(0)
    return Kept(step, one=nn.Linear(10, 12), two=nn.Linear(12, 16))


def features(net: Kept, x: Tensor, labels: Tensor | None) -> Tensor:
    return net.head(net.keep(net.two(net.one(x)), labels))


def episodes(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    """Each batch numbers its classes anew."""
    return cross_entropy(features(net, x, y), torch.randperm(CLASSES)[y])


def noisy(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    """Some labels are flipped in training."""
    flipped = (torch.rand(len(y)) < 0.2) & net.trainer.training
    return cross_entropy(features(net, x, y), torch.where(flipped, (y + 1) % CLASSES, y))


def complementary(net: Kept, x: Tensor, y: Tensor) -> Tensor:
    """A class that a sample does not have."""
    other = (y + torch.randint(1, CLASSES, y.shape)) % CLASSES
    return -cross_entropy(features(net, x, y), other).clamp(max=5)


@pytest.mark.parametrize("step", [episodes, noisy, complementary])
@pytest.mark.parametrize("stages", [("train", "val"), "val"])
def test_other_classes_in_each_batch_are_no_labels(step: Any, stages: Any) -> None:
    net = model(step)
    monitor = run(net, blobs(), stages)
    for stage in [stages] if isinstance(stages, str) else stages:
        check(monitor, net, stage)


def test_what_is_named_is_believed_though_something_else_is_learned() -> None:
    net = model(noisy)
    monitor = run(net, blobs(), labels=1)
    check(monitor, net, "train")
    check(monitor, net, "val")


def test_classes_that_are_rare_in_a_batch_take_some_batches() -> None:
    x = torch.randn(640, 10, generator=torch.Generator().manual_seed(1))
    y = 1 + torch.arange(640) % CLASSES

    def shifted(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(features(net, x, y - 1), y - 1)

    net = model(shifted)
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages="val", on_error="raise")
    data = TensorDataset(x, y)
    trainer(monitor, max_epochs=2).fit(net, DataLoader(data, 6, shuffle=True), DataLoader(data, 64))
    check(monitor, net, "val")


def test_numbers_of_samples_are_no_labels() -> None:
    clusters = torch.randint(0, CLASSES, (208,), generator=torch.Generator().manual_seed(2))

    def clustered(net: Kept, x: Tensor, number: Tensor) -> Tensor:
        return cross_entropy(features(net, x, None), clusters[number])

    x = blobs().tensors[0]
    net = model(clustered)
    monitor = FeatureGeometryMonitor(signals=["feature_std"], stages=("train", "val"), on_error="raise")
    data = TensorDataset(x, torch.arange(208))
    trainer(monitor, max_epochs=2).fit(net, DataLoader(data, 16, shuffle=True), DataLoader(data, 16))
    assert [one.counts["labelled"] for one in monitor.history if one.stage == "val"] == [0, 0]


def test_an_evaluation_after_the_fit_reads_labels_as_its_windows_did() -> None:
    def merged(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(features(net, x, y // 2), y // 2)

    net = model(merged)
    monitor = FeatureGeometryMonitor(signals=SIGNALS, on_error="raise")
    made, data = trainer(monitor, max_epochs=2), blobs()
    made.fit(net, DataLoader(data, 16, shuffle=True), DataLoader(data, 16))
    made.validate(net, DataLoader(data, 16), verbose=False)
    last, alone = monitor.history.records[-2:]
    assert alone.values == pytest.approx(last.values, rel=1e-9)


def test_hooks_that_bring_tensors_back_are_not_run_for_us() -> None:
    """Checkpointing runs its function again when a saved tensor is asked for: statistics of batches counted twice."""

    def counted(watches: bool) -> tuple[int, Tensor]:
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(16)

        def step(net: Kept, x: Tensor, y: Tensor) -> Tensor:
            h = net.keep(net.two(net.one(x)), y)
            return checkpoint(lambda h: cross_entropy(net.head(norm(h)), y), h, use_reentrant=False)

        net = model(step)
        monitor = [FeatureGeometryMonitor(signals=SIGNALS, stages="train", on_error="raise")] if watches else []
        trainer(*monitor, max_epochs=2).fit(net, DataLoader(blobs(), 16))
        return int(norm.num_batches_tracked), torch.cat([p.detach().flatten() for p in net.parameters()])

    mine, without = counted(True), counted(False)
    assert mine[0] == without[0]
    assert torch.equal(mine[1], without[1])


def learned(*batches: tuple[list[int], list[int]]) -> Remade:
    made = Remade()
    for labels, scored in batches:
        made.learn(torch.tensor(labels), torch.tensor(scored))
    return made


def test_what_becomes_of_labels_is_believed_after_two_batches_and_given_up_where_it_varies() -> None:
    one = ([1, 1, 2, 2], [0, 0, 1, 1])
    assert learned(one).is_pending
    assert learned(one, one).table == {1: 0, 2: 1}
    assert learned(one, ([1, 1, 2, 2], [1, 1, 0, 0]), ([1, 1, 2, 2], [0, 0, 1, 1])).varies
    merges = ([0, 1, 2, 2], [0, 0, 1, 1])
    assert learned(merges, ([3, 3, 0, 1], [1, 1, 0, 0])).table == {0: 0, 1: 0, 2: 1, 3: 1}
    tasks = learned(([0, 1, 0, 1], [0, 1, 0, 1]), ([2, 3, 2, 3], [0, 1, 0, 1]))
    assert tasks.varies  # class-incremental: each task from 0 on
    assert tasks.table is None


def test_a_curriculum_that_splits_classes_once_is_followed() -> None:
    coarse, fine = ([0, 1, 2, 3], [0, 0, 1, 1]), ([0, 1, 2, 3], [0, 1, 2, 3])
    made = learned(coarse, coarse, coarse)
    assert made.table == {0: 0, 1: 0, 2: 1, 3: 1}
    for labels, scored in (fine, fine):
        made.learn(torch.tensor(labels), torch.tensor(scored))
    assert made.table is None
    assert not made.is_pending
    assert not made.varies


def test_labels_that_are_classes_already_and_those_that_were_never_scored() -> None:
    made = learned(([1, 2, 3, 3], [0, 1, 2, 2]), ([1, 2, 3, 3], [0, 1, 2, 2]))
    assert [made.are_classes(torch.tensor(given)) for given in ([3, 1, -1], [0, 1, 2], [1, 2])] == [False, True, None]
    assert made.of(torch.tensor([3, 1, -1]), are_classes=False).tolist() == [2, 0, -1]
    assert made.of(torch.tensor([0, 1, 2]), are_classes=True).tolist() == [0, 1, 2]  # an evaluation set from 0 on
    assert made.of(torch.tensor([1, 2, 2]), are_classes=None).tolist() == [-1, -1, -1]
    assert made.of(torch.tensor([7, 8, 3]), are_classes=False).tolist() == [-1, -1, -1]


def test_a_validation_set_whose_labels_may_be_classes_already_is_a_gap() -> None:
    def merged(net: Kept, x: Tensor, y: Tensor) -> Tensor:
        y = y // 2 if net.trainer.training else y
        return cross_entropy(features(net, x, y), y)

    x, y = blobs().tensors
    net = model(merged)
    monitor = FeatureGeometryMonitor(signals=SIGNALS, on_error="raise")
    train, val = DataLoader(TensorDataset(x, y), 16), DataLoader(TensorDataset(x, y // 2), 16)
    trainer(monitor, max_epochs=2, num_sanity_val_steps=0).fit(net, train, val)
    assert [one.counts["labelled"] for one in monitor.history] == [0, 0]
    assert "too few batches have shown" in monitor.history.records[-1].gaps["nc1"]


def test_processes_read_labels_alike() -> None:
    one, other = Scoring(), Scoring()
    one.made = learned(([1, 2, 1, 2], [0, 1, 0, 1]), ([1, 2, 1, 2], [0, 1, 0, 1]))
    one.in_place, other.in_place, other.followed = True, False, False
    told = [one.told, other.told]
    for each in (one, other):
        each.agree(told)
    assert one.told == other.told
    assert one.in_place is False
    assert other.made.table == {1: 0, 2: 1}
