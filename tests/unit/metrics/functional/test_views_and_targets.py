"""Signals of several views, of regression targets, of groups, and of the window before."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_featgeo import ConfigurationError, GeometryMetric, Neighbors
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional import density, regression, views
from tests._helpers import oracles


def two_views(n: int = 600, d: int = 12, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d) * torch.linspace(2, 0.2, d)
    return x + noise * torch.randn(n, d), x + noise * torch.randn(n, d)


def streamed(signals, parts: tuple[Tensor, ...], batch: int = 100, **settings) -> GeometryMetric:
    metric = GeometryMetric(signals, **settings)
    for start in range(0, len(parts[0]), batch):
        for view, rows in enumerate(parts):
            piece = rows[start : start + batch]
            metric.update(piece, sample_index=torch.arange(start, start + len(piece)), view=view)
    return metric


@pytest.mark.parametrize("count", [2, 3])
def test_lidar_and_alignment_equal_their_definitions(count: int) -> None:
    base = two_views()
    parts = (*base, base[0] + 0.1)[:count]
    ours = streamed(["lidar", "alignment"], parts).window()
    groups = np.stack([p.double().numpy() for p in parts], axis=1)
    truth = oracles.views(groups)
    assert ours.values["lidar"] == pytest.approx(truth["lidar"], rel=1e-10)
    assert ours.values["alignment"] == pytest.approx(truth["alignment"], rel=1e-12)
    unit = groups / np.linalg.norm(groups, axis=2, keepdims=True)
    pairs = [((unit[:, i] - unit[:, j]) ** 2).sum(1) for i in range(count) for j in range(i)]
    assert ours.standard_errors["alignment"] == pytest.approx(np.mean(pairs, 0).std(ddof=1) / len(unit) ** 0.5)


def test_lidar_of_fewer_samples_than_dimensions_stays_below_its_ceiling() -> None:
    parts = two_views(10, 40)
    ours = streamed("lidar", parts).window().values["lidar"]
    groups = np.stack([p.double().numpy() for p in parts], axis=1)
    assert ours == pytest.approx(oracles.views(groups)["lidar"], rel=1e-6)
    assert ours <= 9


def test_views_that_agree_have_alignment_zero_and_opposite_ones_four() -> None:
    x = torch.randn(50, 6)
    assert streamed("alignment", (x, 3 * x)).window().values["alignment"] == pytest.approx(0, abs=1e-13)
    assert streamed("alignment", (x, -x)).window().values["alignment"] == pytest.approx(4)


def test_a_small_bank_keeps_samples_whole_whatever_the_order() -> None:
    parts = two_views()
    a = streamed(["alignment", "lidar"], parts, neighbors=Neighbors(bank_size=101)).window().values
    b = streamed(["alignment", "lidar"], parts, batch=37, neighbors=Neighbors(bank_size=101)).window().values
    assert a == pytest.approx(b, rel=1e-12)
    index = torch.randperm(600)
    shuffled = GeometryMetric(["alignment", "lidar"], neighbors=Neighbors(bank_size=101))
    for view in (1, 0):
        shuffled.update(parts[view][index], sample_index=index, view=view)
    assert shuffled.window().values == pytest.approx(a, rel=1e-12)
    kept = shuffled.accumulators["views"].compute()
    assert kept.shape == (50, 2, 12)


def test_banks_of_views_merge_and_survive_a_checkpoint() -> None:
    parts = two_views()
    whole = streamed(["alignment", "effective_rank"], parts, neighbors=Neighbors(bank_size=128))
    halves = []
    for half in (slice(0, 250), slice(250, 600)):
        metric = GeometryMetric(["alignment", "effective_rank"], neighbors=Neighbors(bank_size=128))
        for view in (0, 1):
            metric.update(parts[view][half], sample_index=torch.arange(600)[half], view=view)
        file = io.BytesIO()
        torch.save(metric.checkpoint(), file)
        file.seek(0)
        halves.append(torch.load(file, weights_only=True))
    merged = GeometryMetric(["alignment", "effective_rank"], neighbors=Neighbors(bank_size=128))
    for half in halves:
        merged.merge_state(half)
    assert merged.window().values == pytest.approx(whole.window().values, rel=1e-10)


def test_views_are_needed_for_signals_of_views() -> None:
    with pytest.raises(ConfigurationError, match="lidar needs two views of each sample"):
        GeometryMetric(["lidar"]).update(torch.randn(9, 3))
    lonely = GeometryMetric(["alignment"])
    lonely.update(torch.randn(9, 3), view=0)
    assert "at least 2 views" in lonely.window().gaps["alignment"]
    with pytest.raises(Undefined, match="same mean"):
        views.lidar(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 4.0], [1.0, 2.0]]]))
    with pytest.raises(Undefined, match="view that is zero"):
        views.alignment(torch.zeros(4, 2, 3))


def regression_data(n: int = 800, t: int = 3) -> tuple[Tensor, Tensor]:
    targets = torch.rand(n, t)
    return targets @ torch.randn(t, 16) + 0.05 * torch.randn(n, 16), targets


def test_regression_signals_equal_their_definitions() -> None:
    x, targets = regression_data()
    metric = GeometryMetric("regression")
    for start in range(0, len(x), 90):
        metric.update(x[start : start + 90], targets[start : start + 90])
    ours = metric.window()
    for name, value in oracles.regression(x.double().numpy(), targets.double().numpy()).items():
        assert ours.values[name] == pytest.approx(value, rel=1e-7)
    assert 0 < ours.standard_errors["id_ratio"] < 0.5


def test_features_in_as_many_directions_as_targets_have_nrc1_zero() -> None:
    targets = torch.randn(300, 2)
    metric = GeometryMetric(["nrc1"])
    metric.update(targets @ torch.randn(2, 9) + 5, targets)
    assert metric.window().values["nrc1"] < 1e-12


def test_rows_without_a_target_are_left_out_of_regression_signals_only() -> None:
    x, targets = regression_data()
    holes = targets.clone()
    holes[::4, 1] = torch.nan
    ours, fewer = GeometryMetric(["id_ratio", "id_two_nn"]), GeometryMetric(["id_ratio", "id_two_nn"])
    ours.update(x, holes)
    there = holes.isfinite().all(1)
    fewer.update(x[there], targets[there])
    assert ours.window().values["id_ratio"] == pytest.approx(fewer.window().values["id_ratio"], rel=1e-12)
    assert ours.window().values["n_samples"] == len(x)


def test_one_target_a_row_and_the_ways_it_has_no_value() -> None:
    x = torch.randn(60, 4)
    metric = GeometryMetric("regression")
    metric.update(x, torch.randn(60))
    assert set(metric.window().values) == {"nrc1", "id_ratio", "distance_correlation", "n_samples"}
    discrete = GeometryMetric("regression")
    discrete.update(x, torch.arange(60.0) % 2)
    assert "targets' dimension is undefined" in discrete.window().gaps["id_ratio"]
    with pytest.raises(Undefined, match="nothing lies outside"):
        regression.nrc1(x, torch.zeros(60, 4), torch.zeros(4), torch.eye(4))
    with pytest.raises(ConfigurationError, match="nrc1 needs regression targets"):
        GeometryMetric(["nrc1"]).update(x, torch.arange(60) % 2)
    none = GeometryMetric(["nrc1"])
    none.update(x, torch.full((60,), torch.nan))
    assert "no row of the bank has a regression target" in none.window().gaps["nrc1"]


def test_robustness_index_counts_neighbours() -> None:
    labels, groups = torch.randint(0, 3, (400,)), torch.randint(-1, 4, (400,))
    x = torch.randn(400, 5) + labels[:, None]
    metric = GeometryMetric(["robustness_index"], num_classes=3, neighbors=Neighbors(k=7))
    metric.update(x, labels, groups=groups)
    r = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    good = bad = 0
    for i, near in enumerate(r.topk(7, largest=False).indices.tolist()):
        for j in near:
            if min(groups[i], groups[j]) >= 0:
                good += int(labels[i] == labels[j] and groups[i] != groups[j])
                bad += int(labels[i] != labels[j] and groups[i] == groups[j])
    assert metric.window().values["robustness_index"] == pytest.approx(good / bad)
    with pytest.raises(ConfigurationError, match="needs the group of each row"):
        GeometryMetric(["robustness_index"], num_classes=3).update(x, labels)
    with pytest.raises(Undefined, match="no bound"):
        density.robustness_index(torch.tensor([[1], [0]]), torch.tensor([0, 0]), torch.tensor([0, 1]))


def test_neighbor_churn_compares_with_the_window_before() -> None:
    x = torch.randn(300, 6)
    metric = GeometryMetric(["neighbor_churn"], neighbors=Neighbors(k=5))
    metric.update(x)
    assert metric.window().gaps["neighbor_churn"] == "there is no window before this one"
    metric.window()  # asking twice is no window
    metric.reset()
    metric.update(x @ torch.linalg.qr(torch.randn(6, 6)).Q)
    assert metric.window().values["neighbor_churn"] == pytest.approx(0, abs=0.01)  # a rotation moves no neighbour
    metric.reset()
    y = x + 0.5 * torch.randn(300, 6)
    metric.update(y)
    before, after = ({i: set(row) for i, row in enumerate(near(v))} for v in (x, y))
    expected = np.mean([1 - len(before[i] & after[i]) / 5 for i in range(300)])
    assert metric.window().values["neighbor_churn"] == pytest.approx(expected, abs=0.01)


def near(x: Tensor) -> list[list[int]]:
    r = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    found: list[list[int]] = r.topk(5, largest=False).indices.tolist()
    return found


def test_churn_needs_the_same_samples_and_one_row_each() -> None:
    metric = GeometryMetric(["neighbor_churn"])
    metric.update(torch.randn(50, 3), sample_index=torch.arange(50))
    metric.window()
    metric.reset()
    metric.update(torch.randn(50, 3), sample_index=torch.arange(100, 150))
    assert "0 of 50 were in it" in metric.window().gaps["neighbor_churn"]
    tokens = GeometryMetric(["neighbor_churn"])
    for _ in range(2):
        tokens.reset()
        tokens.update(torch.randn(50, 3), sample_index=torch.arange(50) // 5)
        result = tokens.window()
    assert "several rows each" in result.gaps["neighbor_churn"]


def test_one_odd_sample_does_not_decide_for_all_views() -> None:
    a, b = two_views()
    metric = streamed(["alignment", "lidar"], (a, b))
    truth = metric.window().values
    metric.update(torch.full((1, 12), 5.0), sample_index=torch.tensor([0]), view=2)  # one sample has a third view
    rest = oracles.views(torch.stack([a, b], dim=1)[1:].double().numpy())
    assert {k: metric.window().values[k] for k in rest} == pytest.approx(rest, rel=1e-9)
    again = streamed(["alignment", "lidar"], (a, b))
    again.update(a, sample_index=torch.arange(600), view=0)  # the same view twice is one view
    assert again.window().values["lidar"] == pytest.approx(truth["lidar"], rel=1e-9)


def test_churn_is_no_number_where_rows_came_or_went() -> None:
    x = torch.randn(300, 4)
    metric = GeometryMetric(["neighbor_churn"])
    metric.update(x[:200])
    metric.window()
    metric.reset()
    metric.update(x)
    assert "200 of 300 were in it" in metric.window().gaps["neighbor_churn"]


def test_double_targets_stay_double() -> None:
    y = 1e8 + 100 * torch.rand(500, 2).double()
    metric = GeometryMetric(["id_ratio"])
    metric.update(y.clone(), y)
    assert metric.window().values["id_ratio"] == pytest.approx(1, rel=1e-9)
    copy = GeometryMetric(["id_ratio"])
    copy.merge_state(metric.checkpoint())
    assert copy.window().values == metric.window().values


def test_targets_of_another_width_are_refused() -> None:
    metric = GeometryMetric("regression")
    metric.update(torch.randn(40, 4), torch.rand(40, 2))
    with pytest.raises(ValueError, match="targets had 2 columns in the first batch and have 3 now"):
        metric.update(torch.randn(40, 4), torch.rand(40, 3))
