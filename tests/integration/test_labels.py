"""Labels as data loaders give them: class signals read the rows that have one class, and the rest is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from lightning_featgeo.history.record import Record
from lightning_featgeo.rows.labels import LabelReader
from tests._helpers.data import digits
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.still import Still, digit_loaders

X, Y = digits()
X, Y = X[:400] / 16, Y[:400]
EYE = one_hot(Y, 10)
SIGNALS = ["nc1", "knn_accuracy", "feature_std"]


class Quiet(Still):
    """Takes labels of any kind."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])


def curve(labels: Tensor, keep: Tensor | None = None, **settings: Any) -> Record:
    rows = slice(None) if keep is None else keep
    loader = DataLoader(TensorDataset(X[rows], labels[rows]), 64)
    monitor = FeatureGeometryMonitor(**{"signals": SIGNALS, "on_error": "raise", "num_classes": 10, **settings})
    torch.manual_seed(0)
    trainer(monitor, max_epochs=1).fit(Quiet(), digit_loaders()[0], loader)
    return monitor.history.records[0]


@pytest.fixture(scope="module")
def plain() -> Record:
    return curve(Y)


@pytest.mark.parametrize(
    "labels",
    [EYE, EYE.float(), EYE.bool(), 0.9 * EYE + 0.01, (0.9 * EYE + 0.01).bfloat16(), Y[:, None]],
    ids=["one-hot", "one-hot floats", "one-hot booleans", "smoothed", "smoothed bf16", "a column"],
)
def test_labels_of_one_class_in_any_form_are_that_class(labels: Tensor, plain: Record) -> None:
    found = curve(labels)
    assert found.values == plain.values
    assert found.counts == plain.counts


class Two(Quiet):
    """Two layers that could be the head: only the loss shows which one it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = torch.nn.Linear(64, 10)
        self.first = torch.nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("given", ["auto", 1])
@pytest.mark.parametrize("labels", [0.9 * EYE + 0.01, EYE.float()], ids=["smoothed", "one-hot floats"])
def test_soft_labels_wait_for_the_head_that_says_how_many_classes_there_are(labels: Tensor, given: Any) -> None:
    found = []
    for target in (Y, labels):
        loader = DataLoader(TensorDataset(X, target), 64)
        monitor = FeatureGeometryMonitor(signals=SIGNALS, labels=given, on_error="raise")
        trainer(monitor, max_epochs=1).fit(Two(), loader, loader)
        found.append(monitor.history.records[-1].values)
    assert found[0] == found[1]
    assert {"nc1", "knn_accuracy"} <= found[0].keys()


@pytest.mark.parametrize("table", [2 * torch.rand(400, 10), torch.zeros(400, 10)], ids=["numbers", "zeros"])
def test_tables_that_are_no_soft_labels_are_still_refused(table: Tensor) -> None:
    loader = DataLoader(TensorDataset(X, table), 64)
    with pytest.raises(ConfigurationError, match="need class labels and the batch has none"):
        trainer(FeatureGeometryMonitor(signals=SIGNALS), max_epochs=1).fit(Two(), loader, loader)


def test_mixtures_are_left_out_of_class_signals_and_counted() -> None:
    mixed = torch.arange(400) % 4 == 0
    soft = torch.where(mixed[:, None], 0.7 * EYE + 0.3 * EYE.roll(1, 1), EYE.float())
    several = torch.where(mixed[:, None], EYE | EYE.roll(3, 1), EYE)
    only = curve(Y, ~mixed)
    for labels in (soft, several, several.float(), several.bool(), torch.where(mixed, 255, Y)):
        found = curve(labels, ignore_index=255)
        assert found.counts["labelled"] == int((~mixed).sum())
        assert found.counts["seen"] == 400
        assert found.values["n_samples"] == 400
        assert found.values["nc1"] == pytest.approx(only.values["nc1"], rel=1e-9)


def test_unlabelled_rows_are_logged_and_the_kind_is_told(caplog: pytest.LogCaptureFixture) -> None:
    monitor = FeatureGeometryMonitor(signals=SIGNALS, num_classes=10, on_error="raise")
    mixed = torch.where(torch.arange(400)[:, None] % 2 == 0, 0.5 * EYE + 0.5 * EYE.roll(1, 1), EYE.float())
    run = trainer(monitor, max_epochs=1)
    run.fit(Quiet(), digit_loaders()[0], DataLoader(TensorDataset(X, mixed), 64))
    assert run.callback_metrics["featgeo_monitor/val/n_unlabelled"] == 200
    assert "are soft: rows of one class have it" in str(monitor.history.run["described"])


def test_auto_takes_soft_labels_for_classes() -> None:
    class Mixes(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    monitor = FeatureGeometryMonitor(on_error="raise")
    trainer(monitor, max_epochs=1).fit(Mixes(), digit_loaders()[0], DataLoader(TensorDataset(X, 0.9 * EYE + 0.01), 64))
    assert "nc1" in monitor.history.records[0].values


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (torch.randn(6, 3), 3, "targets"),
        (torch.rand(6, 4), 4, "targets"),  # in [0, 1], but neither weights nor marks
        (torch.rand(6, 3), 4, "targets"),
        (torch.rand(6), 4, "targets"),
        (torch.arange(6) % 3, 3, "classes"),
        (torch.eye(3), 3, "soft"),
        (torch.ones(6, 3), 3, "multi-label"),
        (torch.tensor([[0.6, 0.4]]), 2, "soft"),
    ],
)
def test_the_kind_is_told_by_the_first_batch(labels: Tensor, classes: int, expected: str) -> None:
    reader = LabelReader(num_classes=classes)
    found, targets = reader.read((torch.zeros(len(labels), 2), labels))
    assert reader.kind == expected
    assert (targets is not None) == (expected == "targets")
    assert (found is not None) == (expected != "targets")
    if labels.shape == (1, 2):
        assert found.tolist() == [-1]  # of two classes, smoothing and mixup look the same


def test_later_rows_of_several_classes_have_none_whatever_the_first_batch_was() -> None:
    later = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    for first in (torch.eye(4), torch.tensor([[1.0, 1, 0, 0]])):
        reader = LabelReader(num_classes=4)
        reader.read((torch.zeros(len(first), 2), first))
        assert reader.read((torch.zeros(4, 2), later))[0].tolist() == [-1, -1, -1, 0]


def test_zeros_say_nothing_about_what_labels_are() -> None:
    reader = LabelReader(num_classes=2)
    assert reader.read((torch.zeros(4, 3), torch.zeros(4, 2)))[0] is None
    found, targets = reader.read((torch.zeros(4, 3), 7 * torch.rand(4, 2)))
    assert found is None
    assert targets.shape == (4, 2)


@pytest.mark.parametrize("batch", [(X, Y, Y % 3), {"x": X, "label": Y, "target": Y % 3}])
def test_groups_are_no_labels(batch: Any) -> None:
    groups = 2 if isinstance(batch, tuple) else "target"
    found, _ = LabelReader(num_classes=10, groups=groups).read(batch)
    assert torch.equal(found, Y)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_zeros_and_ones_behind_one_output_are_two_classes(shape: tuple[int, ...]) -> None:
    weights = torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1]).reshape(shape)
    reader = LabelReader(num_classes=2)
    found, targets = reader.read((torch.randn(8, 3), weights))
    assert found.tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert targets is None
    assert "read as two classes" in str(reader.notes)
    assert LabelReader().read((torch.randn(8, 3), weights + 0.5))[1] is not None  # of a regression


def test_what_may_be_labels_is_said() -> None:
    reader = LabelReader()
    x, y = torch.randn(8, 3), torch.arange(8)
    assert reader.read((x, y, y)) == (None, None)
    assert "2 parts of the batch could be labels" in str(reader.notes)
    reader = LabelReader()
    assert reader.read((torch.arange(8)[:, None].expand(8, 5), torch.zeros(8, 5, dtype=torch.int64))) == (None, None)
    assert "may be labels of tokens" in str(reader.notes)
    reader = LabelReader()
    assert reader.read((x, torch.randn(8, 20))) == (None, None)  # a second tower's input
    assert "is not used as regression targets" in str(reader.notes)
    assert LabelReader(selector=1).read((x, torch.randn(8, 20)))[1] is not None
    assert LabelReader(num_classes=20).read((x, torch.randn(8, 20)))[1] is not None


def test_a_dict_with_labels_of_an_unusual_name_is_told_which_key_it_may_be() -> None:
    class Keyed(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["pixels"], batch["target_class"]), batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self(batch["pixels"])

    x, y = digits()
    samples = [{"pixels": x[i] / 16, "target_class": y[i]} for i in range(128)]
    loader = DataLoader(samples, 32)
    watched = strict()
    trainer(watched, max_epochs=1).fit(Keyed(), loader, loader)
    assert "nc1" in watched.history.records[-1].values  # the loss of the first step has told
    alone = strict(head="net.3")
    trainer(alone).validate(Keyed(), loader, verbose=False)
    assert "nc1" not in alone.history.records[-1].values
    assert "say labels='target_class'" in alone.history.run["described"]
    named = strict(labels="target_class")
    trainer(named, max_epochs=1).fit(Keyed(), loader, loader)
    assert "nc1" in named.history.records[-1].values


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
@pytest.mark.parametrize("first", [True, False])
def test_of_several_loaders_one_may_have_no_labels(first: bool) -> None:
    """It refused the whole run, though a named class signal has a value on the other one."""

    class Mixed(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self(batch[0])

    train, val = loaders()
    bare = DataLoader(TensorDataset(val.dataset.tensors[0]), 50)
    monitor = FeatureGeometryMonitor(signals=["nc1", "feature_std"])
    trainer(monitor, max_epochs=1).fit(Mixed(), train, [val, bare] if first else [bare, val])
    found = [("nc1" in one.values, "feature_std" in one.values) for one in monitor.history]
    assert found == ([(True, True), (False, True)] if first else [(False, True), (True, True)])
    with pytest.raises(ConfigurationError, match="nc1 needs class labels"):
        trainer(FeatureGeometryMonitor(signals=["nc1"])).fit(Mixed(), bare, [bare, bare])
