"""More classes than can be compared pair by pair: a hashed part stands for all; the rest counts in totals."""

from typing import Any

import numpy as np
import pytest
import torch

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.metrics.functional.coding import half_log_det, rate, rates_by_class
from lightning_featgeo.metrics.functional.long_tail import log_volume
from lightning_featgeo.metrics.functional.segments import by_size
from lightning_featgeo.metrics.functional.votes import voted_classes
from lightning_featgeo.metrics.statistics.sums import MOST_CLASSES

SIGNALS = ["nc1", "nc1_ratio", "cdnv", "nc2_equiangle", "nc2_equinorm", "gnc2", "nc3", "effective_rank", "feature_std"]


def many(classes: int, rows: int, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(rows) % classes
    return torch.randn(classes, dim)[labels] + 0.3 * torch.randn(rows, dim), labels


def window(
    x: torch.Tensor, y: torch.Tensor, classes: int, signals: list[str], head: torch.nn.Module | None = None
) -> tuple[Any, Any]:
    metric = GeometryMetric(signals, num_classes=classes, head=head)
    for start in range(0, len(x), 5000):
        metric.update(x[start : start + 5000], y[start : start + 5000])
    return metric, metric.window()


def few_at_once(patch: pytest.MonkeyPatch, most: int) -> None:
    """So many classes are compared, instead of 4,096."""
    for where in ("statistics.sums", "evaluation"):
        patch.setattr(f"lightning_featgeo.metrics.{where}.MOST_CLASSES", most)


@pytest.mark.parametrize("declared", [10, MOST_CLASSES, 5000, 50_000])
def test_classes_that_do_not_occur_change_nothing(declared: int) -> None:
    x, y = many(10, 3000)
    signals = [name for name in SIGNALS if name != "nc3"]
    _, exact = window(x, y, 10, signals)
    _, found = window(x, 7 * y, 70 if declared == 10 else declared, signals)  # ten of so many
    assert found.values == pytest.approx(exact.values, rel=1e-9)
    assert not found.gaps
    assert "classes_left_out" not in found.counts


def test_a_part_of_the_classes_reads_what_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = 3000
    x, y = many(classes, 30_000)
    head = torch.nn.Linear(16, classes)
    _, exact = window(x, y, classes, SIGNALS, head)
    few_at_once(monkeypatch, 1000)
    metric, part = window(x, y, classes, SIGNALS, head)
    assert part.counts["classes_left_out"] == 2000
    assert any("of 1,000 of 3,000 classes" in note for note in part.notes)
    for name in ("effective_rank", "feature_std"):  # of all rows
        assert part.values[name] == pytest.approx(exact.values[name], rel=1e-9), name
    for name in ("nc1", "nc1_ratio", "cdnv", "nc2_equinorm", "gnc2", "nc2_equiangle"):
        assert part.values[name] == pytest.approx(exact.values[name], rel=0.1), name
    kept = metric._statistics().classes_drawn
    assert kept is not None
    assert len(kept) == 1000
    inside = torch.isin(y, kept)
    alone = GeometryMetric(["cdnv", "nc3"], num_classes=1000, head=_part_of(head, kept))
    alone.update(x[inside], torch.searchsorted(kept, y[inside]))
    for name, value in alone.window().values.items():
        if name != "n_samples":
            assert part.values[name] == pytest.approx(value, rel=1e-9), name  # exactly that of the classes drawn


def _part_of(head: torch.nn.Linear, kept: torch.Tensor) -> torch.nn.Linear:
    part = torch.nn.Linear(16, len(kept))
    with torch.no_grad():
        part.weight.copy_(head.weight[kept])
        part.bias.copy_(head.bias[kept])
    return part


@pytest.mark.parametrize("most", [500, 1000])
def test_classes_of_one_row_spread_nothing_and_are_not_drawn(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """600 classes of ten rows and 1,500 of one row: the spread of a row is that of the rows that can tell one."""
    x, y = many(600, 6000)
    x, y = torch.cat([x, torch.randn(1500, 16)]), torch.cat([y, 600 + torch.arange(1500)])
    signals = ["nc1", "nc1_ratio", "cdnv"]
    _, exact = window(x, y, 2100, signals)
    few_at_once(monkeypatch, most)
    metric, found = window(x, y, 2100, signals)
    assert found.values == pytest.approx(exact.values, rel=0.1 if most < 600 else 1e-9)
    assert int(metric._statistics().class_counts.min()) == 10
    assert found.counts.get("classes_left_out", 0) == max(0, 600 - most)


@pytest.mark.parametrize("single", [0, 40])
def test_few_of_many_declared_classes_with_single_rows(single: int) -> None:
    x, y = many(10, 300)
    x, y = torch.cat([x, torch.randn(single, 16)]), torch.cat([y, 10 + torch.arange(single)])
    _, exact = window(x, y, 50, ["nc1", "cdnv"])
    _, found = window(x, y, 10_000, ["nc1", "cdnv"])
    assert found.values == pytest.approx(exact.values, rel=1e-9)


def test_what_needs_all_classes_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_once(monkeypatch, 10)
    x, y = many(40, 800)
    _, found = window(
        x, y, 40, ["nc4", "tail_min_angle", "class_volume_tail_gap", "knn_accuracy"], torch.nn.Linear(16, 40)
    )
    assert set(found.gaps) == {"nc4", "tail_min_angle", "class_volume_tail_gap"}
    assert "all classes" in found.gaps["nc4"]
    assert found.values["knn_accuracy"] > 0.9  # a vote among rows needs no statistics of classes


def test_wide_features_of_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = many(40, 400)
    few_at_once(monkeypatch, 10)
    metric = GeometryMetric(["nc1"], num_classes=40, spectrum_rows=400)
    metric.update(x, y)
    whole = GeometryMetric(["nc1"], num_classes=40)
    whole.update(x, y)
    assert metric.window().values["nc1"] == pytest.approx(whole.window().values["nc1"], rel=0.3)  # of other rows


def test_wide_features_whose_bank_holds_no_class_that_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spread of no rows is not 0, which would read as perfect collapse."""
    few_at_once(monkeypatch, 2)
    metric = GeometryMetric(["nc1"], num_classes=100, spectrum_rows=2, neighbors=Neighbors(bank_size=2, seed=1))
    metric.update(torch.randn(400, 6), torch.arange(400) % 100)
    held = metric.accumulators["bank"].compute().labels
    assert not torch.isin(held, metric._statistics().classes_drawn).any()
    found = metric.window()
    assert "too few to tell" in found.gaps["nc1"]


def test_classes_of_as_many_rows_come_together() -> None:
    labels = torch.tensor([3, 1, 3, 0, 1, 3, 7, 0, 3])
    found = {
        int(c): rows.tolist() for classes, index in by_size(labels, 4) for c, rows in zip(classes, index, strict=True)
    }
    assert found == {0: [3, 7], 1: [1, 4], 3: [0, 2, 5, 8], 7: [6]}
    most = {
        int(c): rows.tolist()
        for classes, index in by_size(labels, 4, 2)
        for c, rows in zip(classes, index, strict=True)
    }
    assert most == {0: [3, 7], 1: [1, 4], 3: [0, 2], 7: [6]}
    assert sum(len(classes) for classes, _ in by_size(torch.arange(100), 2**21)) == 100  # in pieces, and every one


def test_class_by_class_measures_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    labels = torch.cat([torch.arange(30), torch.randint(0, 5, (200,))])
    unit = torch.nn.functional.normalize(torch.randn(230, 12).double(), dim=1)
    whole, within = rates_by_class(unit, labels)
    parts = [(labels == c).double().mean() * rate(unit[labels == c]) for c in labels.unique()]
    assert float(whole) == pytest.approx(float(rate(unit)), rel=1e-12)
    assert float(within) == pytest.approx(float(sum(parts)), rel=1e-12)
    assert log_volume(unit[:20].reshape(4, 5, 12)).tolist() == pytest.approx(
        [float(log_volume(part)) for part in unit[:20].split(5)], rel=1e-12
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e12])
def test_volumes_at_any_scale(scale: float) -> None:
    torch.manual_seed(0)
    z = scale * torch.randn(5, 40, 6).double() @ torch.randn(6, 20).double()  # of rank 6: the others are round-off
    expected = np.log1p(np.linalg.svd(z.numpy(), compute_uv=False)[:, :6] ** 2).sum(axis=1) / 2
    assert half_log_det(z.mT @ z).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert float(half_log_det((z.mT @ z)[0])) == pytest.approx(expected[0], rel=1e-6)


def test_votes_for_many_classes_take_little_memory() -> None:
    labels = torch.tensor([99_999, 5, 99_999, 7])
    similarities = torch.tensor([[0.9, 0.8], [0.9, 0.8], [0.9, 0.2], [0.5, 0.5]])
    votes = torch.tensor([[99_999, 5], [5, 7], [5, 99_999], [7, 5]])
    assert voted_classes(similarities, votes, labels).tolist() == [99_999, 5, 5, 5]  # of a tie the lower class


@pytest.mark.parametrize(("labelled", "told"), [(40, False), (3000, True)])
def test_few_labelled_rows_of_wide_features_tell_no_spread(labelled: int, told: bool) -> None:
    x, y = many(10, 3000)
    few = torch.where(torch.arange(3000) < labelled, y, -1)
    metric, whole = GeometryMetric(["nc1"], num_classes=10, spectrum_rows=256), GeometryMetric(["nc1"], num_classes=10)
    metric.update(x, few)
    whole.update(x, few)
    found = metric.window()
    if told:
        assert found.values["nc1"] == pytest.approx(whole.window().values["nc1"], rel=0.2)
    else:
        assert "too few to tell how they spread" in found.gaps["nc1"]


def test_all_labelled_rows_are_enough_however_few() -> None:
    x, y = many(4, 200)
    few = torch.where(torch.arange(200) < 20, y, -1)
    metric, whole = GeometryMetric(["nc1"], num_classes=4, spectrum_rows=200), GeometryMetric(["nc1"], num_classes=4)
    metric.update(x, few)
    whole.update(x, few)
    assert metric.window().values["nc1"] == pytest.approx(whole.window().values["nc1"], rel=1e-8)
