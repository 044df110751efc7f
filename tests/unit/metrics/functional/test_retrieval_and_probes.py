"""Retrieval by class and by pair, and linear read-outs that nobody trains."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.functional import retrieval
from lightning_featgeo.sinks import pictures, tables
from tests._helpers import oracles
from tests._helpers.data import digits, digits_features, far_from_origin, long_tailed
from tests._helpers.processes import on_ranks


def halves(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    cut = 2 * len(x) // 3
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def against(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], signals, classes: int | None = 10):
    reference, window = (GeometryMetric(signals, num_classes=classes) for _ in range(2))
    for metric, (x, y) in ((reference, train), (window, val)):
        for part in torch.arange(len(x)).split(200):
            metric.update(x[part], y[part])
    return window.window(reference=reference)


@pytest.mark.parametrize("make", [digits, digits_features, far_from_origin, long_tailed])
def test_the_probe_is_scikit_learns_ridge_classifier(make) -> None:
    train, val = halves(*make())
    found = against(train, val, ["linear_probe_accuracy"], int(make()[1].max()) + 1)
    truth = oracles.probe_accuracy(
        *(t.double().numpy() if t.is_floating_point() else t.numpy() for t in (*train, *val))
    )
    assert found.values["linear_probe_accuracy"] == pytest.approx(truth, abs=1.01 / len(val[0]) if truth < 1 else 1e-12)


@pytest.mark.parametrize("d", [30, 900])
def test_the_probe_of_targets_is_scikit_learns_ridge(d: int) -> None:
    x = torch.randn(600, d)
    t = x[:, :2] + 0.3 * torch.randn(600, 2) + 5
    found = against((x[:400], t[:400]), (x[400:], t[400:]), ["linear_probe_r2"], None)
    truth = oracles.probe_r2(*(v.double().numpy() for v in (x[:400], t[:400], x[400:], t[400:])))
    assert found.values["linear_probe_r2"] == pytest.approx(truth, rel=1e-6)


def test_it_ranks_features_as_a_trained_probe_does() -> None:
    """Twelve kinds of features of the digits, from useless to good."""
    x, y = digits()
    ours, trained = [], []
    for i, noise in enumerate(np.geomspace(0.2, 12, 12)):
        generator = torch.Generator().manual_seed(i)
        features = torch.relu(x @ torch.randn(64, 48, generator=generator) / 8)
        features = features + noise * features.std() * torch.randn(features.shape, generator=generator)
        train, val = halves(features, y)
        ours.append(against(train, val, ["linear_probe_accuracy"]).values["linear_probe_accuracy"])
        scale = train[0].std()
        probe = LogisticRegression(max_iter=300).fit(train[0] / scale, train[1])
        trained.append(probe.score(val[0] / scale, val[1]))
    assert spearmanr(ours, trained).statistic > 0.98
    assert np.abs(np.subtract(ours, trained)).max() < 0.05


def test_what_the_probe_needs() -> None:
    x, y = torch.randn(300, 4), torch.arange(300) % 3
    found = against((x, torch.zeros(300).long()), (x, y), ["linear_probe_accuracy"], 3)
    assert "two classes" in found.gaps["linear_probe_accuracy"]
    found = against((torch.ones(300, 4), y), (x, y), ["linear_probe_accuracy"], 3)
    assert "no spread" in found.gaps["linear_probe_accuracy"]
    found = against((x[:150], y[:150] % 2), (x, y), ["linear_probe_accuracy"], 3)  # a class that was never seen
    assert 0 <= found.values["linear_probe_accuracy"] <= 1
    lonely = GeometryMetric(["nearest_mean_accuracy"], num_classes=3)
    lonely.update(x, torch.zeros(300).long())
    assert "two classes" in lonely.window().gaps["nearest_mean_accuracy"]


def test_retrieval_from_a_reference() -> None:
    train, val = halves(*digits_features())
    names = ["recall_at_1", "recall_at_5", "recall_at_10", "map_at_k"]
    found = against(train, val, [*names, "knn_ood_score"])
    a, b = (t / t.norm(dim=1, keepdim=True) for t in (train[0].double(), val[0].double()))
    order = (b @ a.T).argsort(dim=1, descending=True, stable=True)
    right = train[1][order] == val[1][:, None]
    for k in (1, 5, 10):
        assert found.values[f"recall_at_{k}"] == pytest.approx(float(right[:, :k].any(1).double().mean()), abs=1e-12)
    k = len(train[0]) // 10
    precision = (right[:, :k].cumsum(1) / torch.arange(1, k + 1) * right[:, :k]).sum(1)
    assert found.values["map_at_k"] == pytest.approx(float((precision / right.sum(1).clamp(max=k)).mean()), rel=1e-6)


@pytest.mark.parametrize("rows_a_class", [2, 5])
def test_many_small_classes(rows_a_class: int) -> None:
    y = torch.arange(200).repeat_interleave(rows_a_class)
    x = torch.randn(200, 12)[y] + 0.4 * torch.randn(len(y), 12)
    metric = GeometryMetric(["retrieval", "knn_accuracy"], num_classes=200)
    metric.update(x, y)
    found = metric.window()
    order = metric.accumulators["bank"].compute().samples
    truth = oracles.retrieval(x[order].double().numpy(), y[order].numpy())
    for name in ("recall_at_1", "recall_at_5", "recall_at_10", "map_at_k"):
        assert found.values[name] == pytest.approx(truth[name], abs=1e-9)
    alone = GeometryMetric(["knn_accuracy"], num_classes=200)
    alone.update(x, y)
    assert found.values["knn_accuracy"] == alone.window().values["knn_accuracy"]  # as many vote as did before


@pytest.mark.parametrize("samples", [40, 1500])
def test_pairs_between_two_views(samples: int) -> None:
    one = torch.randn(samples, 16)
    other = one + 1.5 * torch.randn(samples, 16)
    metric = GeometryMetric(["retrieval"])
    for view, rows in enumerate((one, other)):
        metric.update(rows, sample_index=torch.arange(samples), view=view)
    found = metric.window().values
    groups = metric.accumulators["views"].compute().double().numpy()
    truth = oracles.pairs(groups)
    assert {name: found[name] for name in truth} == pytest.approx(truth, rel=1e-9)


def test_copies_of_a_partner_do_not_count_as_found() -> None:
    rows = torch.ones(20, 2, 3, dtype=torch.float64)  # a collapse: everything is as near as its own
    assert float(retrieval.pair_recall_at(rows, k=1).value) == 0
    assert float(retrieval.pair_auroc(rows)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="more than 5 are needed"):
        retrieval.pair_recall_at(rows[:4], k=5)
    with pytest.raises(ValueError, match="no sample has two views"):
        retrieval.pair_recall_at(rows[:, :1], k=1)


def _probed(size: int) -> dict[str, float]:
    rank = 0
    if size > 1:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    train, val = halves(*digits())
    names = ["linear_probe_accuracy", "nearest_mean_accuracy", "recall_at_5", "map_at_k", "verification_auroc"]
    reference, window = (GeometryMetric(names, num_classes=10) for _ in range(2))
    for metric, (x, y) in ((reference, train), (window, val)):
        index = torch.arange(len(x))[rank::size]
        metric.update(x[index], y[index], index)
    return dict(window.window(reference=reference).values)


def test_processes_agree() -> None:
    alone, both = _probed(1), on_ranks(2, _probed, 2)
    assert both[0] == both[1] == pytest.approx(alone, rel=1e-9)


def test_histograms_of_pairs_lie_apart_or_on_each_other_and_are_drawn() -> None:
    x, noise = torch.randn(400, 16), torch.randn(2, 400, 16)
    found = {}
    for how, views in (("alike", x + 0.05 * noise), ("independent", noise)):
        metric = GeometryMetric(["pair_overlap"])
        for view, rows in enumerate(views):
            metric.update(rows, sample_index=torch.arange(400), view=view)
        window = metric.window()
        found[how] = window.values["pair_overlap"]
        ((name, chart),) = tables.charts(window.curves, None, "featgeo/train", 1.0)
        assert name == "pair_cosines"
        assert isinstance(chart, tables.Lines)
        assert [sum(y) for _, y in chart.series.values()] == pytest.approx([1, 1])
        assert pictures.drawn(chart).shape[2] == 3
    assert found["alike"] < 0.02
    assert found["independent"] > 0.8


def test_one_threshold_for_classes_alike_and_for_classes_of_other_widths() -> None:
    """The score is 0 where classes are told alike, and rises when some are wider than others."""
    y = torch.arange(600) % 6
    means = 3 * torch.nn.functional.one_hot(y, 16)[:, :16].float()
    noise = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for widths in (torch.ones(6), torch.tensor([0.2, 0.2, 0.2, 2.0, 2.0, 2.0])):
        metric = GeometryMetric(["opis", "verification_auroc"], num_classes=6)
        metric.update(means + 0.6 * widths[y, None] * noise, y)
        found.append(metric.window().values["opis"])
    assert found[0] < 0.01
    assert found[1] > 5 * found[0]
