"""Samples that are found again in the next window: by their place, by their id, or not at all, and then it is said."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

from lightning_featgeo import Display, FeatureGeometryMonitor
from lightning_featgeo.errors import FeatureGeometryWarning, GapKind
from lightning_featgeo.rows.draw import priorities
from lightning_featgeo.watch.sample_ids import SampleIds
from tests._helpers.models import Frozen, loaders, trainer


class Stream(IterableDataset[Any]):
    """The same samples, in an order that nobody can tell."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return (self.data[i] for i in torch.randperm(len(self.data)).tolist())


class RandomBatches(Sampler[list[int]]):
    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(200).view(-1, 40).tolist())

    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    "how", [lambda data: DataLoader(data, 64, shuffle=True), lambda data: DataLoader(Stream(data), 64),
            lambda data: DataLoader(data, batch_sampler=RandomBatches())],
)  # fmt: skip
def test_churn_of_samples_that_are_not_known_is_a_gap(how: Any) -> None:
    train, val = loaders()
    monitor = FeatureGeometryMonitor(signals=["neighbor_churn", "id_two_nn"], on_error="raise")
    trainer(monitor, use_distributed_sampler=False, num_sanity_val_steps=0).fit(Frozen(), train, how(val.dataset))
    assert [set(r.values) for r in monitor.history] == [{"id_two_nn", "n_samples"}] * 2
    assert "not training windows, and not a loader that shuffles" in monitor.history.run["described"]
    assert [r.gaps["neighbor_churn"].kind for r in monitor.history] == [GapKind.NOT_PAIRED] * 2


def test_churn_of_loaders_in_a_dict_is_told_for_each() -> None:
    train, val = loaders()
    names = ("clean", "shuffled")
    monitor = FeatureGeometryMonitor(signals=["neighbor_churn"], loader_names=names, on_error="raise")
    both = {"clean": val, "shuffled": DataLoader(val.dataset, 64, shuffle=True)}
    trainer(monitor, num_sanity_val_steps=0).fit(Frozen(), train, both)
    last = {record.stage: record for record in monitor.history}
    assert last["clean"].values["neighbor_churn"] == 0
    assert last["shuffled"].gaps["neighbor_churn"].kind is GapKind.NOT_PAIRED


class WithIds(torch.utils.data.Dataset):
    """Samples with a name and a number."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, y = self.data[index]
        return {"x": x, "y": y, "name": f"image-{index}.png", "number": index - 50}


class OfNamed(Frozen):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["x"], batch["y"]), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step((batch["x"], batch["y"]), batch_idx)


@pytest.mark.parametrize("key", ["name", "number", lambda batch: batch["name"]])
def test_samples_with_ids_are_found_again_in_any_order(key: Any) -> None:
    train, val = (WithIds(loader.dataset) for loader in loaders())
    display = Display(id_key=key)
    signals = ["neighbor_churn", "cka_drift", "unit_match", "label_disagreement"]
    monitor = FeatureGeometryMonitor(signals=signals, stages=("train", "val"), display=display, on_error="raise")
    shuffled = [DataLoader(data, 40, shuffle=True) for data in (train, val)]
    trainer(monitor, max_epochs=3, num_sanity_val_steps=0).fit(OfNamed(), *shuffled)
    for record in list(monitor.history)[2:]:
        assert record.values["neighbor_churn"] == record.values["cka_drift"] == 0, record.stage
        assert record.values["unit_match"] == pytest.approx(1)
    assert not any(gap.kind is GapKind.NOT_PAIRED for record in monitor.history for gap in record.gaps.values())


def test_as_many_ids_as_samples_are_needed_to_find_them_again() -> None:
    train, val = (DataLoader(WithIds(loader.dataset), 40, shuffle=True) for loader in loaders())
    display = Display(id_key=lambda batch: batch["name"][:3])
    monitor = FeatureGeometryMonitor(signals=["neighbor_churn"], display=display)
    with pytest.warns(FeatureGeometryWarning, match="gives 3 ids, and the batch has 40 samples"):
        trainer(monitor, max_epochs=1).fit(OfNamed(), train, val)
    assert "each needs one" in str(monitor.history.records[0].gaps["neighbor_churn"])


class Shuffles(Frozen):
    """Its rows are turned into another order inside of the network, which validation can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.net = nn.Linear(64, 32), nn.Sequential(nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        order = torch.randperm(len(x))
        return self.net(self.first(x)[order])[order.argsort()]


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_rows_in_an_order_that_cannot_be_told_are_paired_with_nothing() -> None:
    monitor = FeatureGeometryMonitor(signals=["cka_drift", "neighbor_churn", "feature_std"])
    trainer(monitor, max_epochs=3).fit(Shuffles(), *loaders())
    for record in list(monitor.history)[1:]:
        assert "can't be told" in str(record.gaps["cka_drift"])
        assert "neighbor_churn" in record.gaps
        assert "feature_std" in record.values


def test_large_ids_and_ids_of_one_size_are_drawn_alike() -> None:
    ids = SampleIds(0)
    numbers = ids.numbers([torch.arange(300) << 40])
    assert numbers.unique().numel() == priorities(numbers, torch.zeros_like(numbers), 0).unique().numel() == 300
    assert torch.equal(numbers, ids.numbers([(torch.arange(300) << 40).tolist()]))
    assert int(numbers.min()) >= 0


class OfGroups(Frozen):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch["x"])


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_ids_that_several_samples_have_change_no_other_curve() -> None:
    """Samples of one id were taken for one sample, which is no neighbour of itself."""
    train, val = loaders()
    rows = [{"x": x, "y": y, "group": i // 8} for i, (x, y) in enumerate(zip(*val.dataset.tensors, strict=True))]
    torch.manual_seed(0)
    model, found = OfGroups(), []
    for key in (None, "group", "y"):
        signals = ["knn_accuracy", "id_two_nn", "cka_drift"]
        monitor = FeatureGeometryMonitor(signals=signals, head="net.3", display=Display(id_key=key))
        trainer(monitor, num_sanity_val_steps=0).fit(model, train, DataLoader(rows, 50, shuffle=True))
        found.append(monitor.history.records[-1])
    for record in found[1:]:
        assert record.values["knn_accuracy"] == pytest.approx(found[0].values["knn_accuracy"])
        assert record.values["id_two_nn"] == pytest.approx(found[0].values["id_two_nn"], rel=1e-6)
        assert "ids that several samples have" in record.gaps["cka_drift"]
