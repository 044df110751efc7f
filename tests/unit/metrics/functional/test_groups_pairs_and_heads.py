"""Signals of groups, two towers, targets, labels' share of diffusion, and of heads: formulas, and what they claim."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from lightning_featgeo import ConfigurationError, GeometryMetric, Neighbors
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.functional import (
    activity,
    diffusion,
    fidelity,
    head_scores,
    lengths,
    outliers,
    retrieval,
    shares,
    spanning_tree,
    subspaces,
)
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.sinks import tables
from tests._helpers import oracles
from tests._helpers.data import digits, digits_features

GROUP_RETRIEVAL = ["group_recall_at_1", "group_recall_at_5", "group_recall_at_10", "group_map_at_10"]


def window(signals: list[str], x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor | None = None, **given: object):
    metric = GeometryMetric(signals, num_classes=int(y.max()) + 1, **given)
    for part in torch.arange(len(x)).split(100):
        metric.update(x[part], y[part], groups=None if groups is None else groups[part])
    order = metric.accumulators["bank"].compute().samples
    return metric.window(), order


def test_groups_by_scipy_and_scikit_learn() -> None:
    x, y = digits_features()
    x, y = x[:600], y[:600]
    groups = torch.arange(600) % 3 - (torch.arange(600) % 50 == 0).long() * 4  # some are unknown
    shifted = x + 0.3 * (groups == 1)[:, None] * x.std()
    found, order = window(["group_variance_share", "macro_std"], shifted, y, groups, neighbors=Neighbors(knn_k=15))
    known = groups >= 0
    a = shifted.double().numpy()
    truth = oracles.eta_squared(a[known], groups[known].numpy())
    assert found.values["group_variance_share"] == pytest.approx(truth, rel=1e-9)
    a, b, g = a[order], y[order].numpy(), groups[order].numpy()
    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    right = []
    for i in range(len(unit)):
        others = np.arange(len(unit)) != i
        vote = KNeighborsClassifier(15, algorithm="brute", weights=lambda r: np.exp((1 - r**2 / 2) / 0.07))
        right.append(vote.fit(unit[others], b[others]).predict(unit[i : i + 1])[0] == b[i])
    truth = oracles.macro_std(np.array(right)[g >= 0], b[g >= 0], g[g >= 0])
    assert found.values["macro_std"] == pytest.approx(truth, rel=1e-9)


def test_a_planted_site_shows_in_its_share_while_accuracy_stays() -> None:
    x, y = digits_features()
    groups = torch.arange(len(x)) % 2
    planted = torch.cat([x, 3 * x.std() * groups[:, None].float()], dim=1)
    before, _ = window(["group_variance_share", "knn_accuracy"], torch.cat([x, 0 * groups[:, None]], dim=1), y, groups)
    after, _ = window(["group_variance_share", "knn_accuracy"], planted, y, groups)
    assert before.values["group_variance_share"] < 0.002
    assert after.values["group_variance_share"] > 0.02
    assert after.values["knn_accuracy"] == pytest.approx(before.values["knn_accuracy"], abs=0.02)


def test_two_towers_apart_have_a_gap_of_that_distance() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 16, generator=g)
    metric, together = GeometryMetric(["modality_gap"]), GeometryMetric(["modality_gap"])
    offset = torch.zeros(16)
    offset[0] = 4.0
    for which, other in ((metric, x + offset), (together, x)):
        which.update(x, sample_index=torch.arange(300), view=0)
        which.update(other, sample_index=torch.arange(300), view=1)
    a, b = (v.double().numpy() / np.linalg.norm(v.double().numpy(), axis=1, keepdims=True) for v in (x, x + offset))
    assert metric.window().values["modality_gap"] == pytest.approx(np.linalg.norm(a.mean(0) - b.mean(0)), rel=1e-9)
    assert together.window().values["modality_gap"] == pytest.approx(0, abs=1e-12)


def test_distance_correlation_is_its_definition_and_sees_what_correlation_does_not() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=g)
    t = torch.stack([x[:, 0].square(), torch.randn(500, generator=g)], dim=1)
    metric = GeometryMetric(["distance_correlation"])
    metric.update(x, t)
    bank = metric.accumulators["bank"].compute()
    truth = oracles.distance_correlation(bank.rows.double().numpy(), bank.targets.double().numpy())
    assert metric.window().values["distance_correlation"] == pytest.approx(truth, rel=1e-9)
    assert abs(float(torch.corrcoef(torch.stack([x[:, 0], t[:, 0]]))[0, 1])) < 0.25
    nothing = GeometryMetric(["distance_correlation"])
    nothing.update(x, torch.randn(500, 2, generator=g))
    assert nothing.window().values["distance_correlation"] < 0.6 * truth


def test_labels_explain_states_of_clean_classes_and_none_where_they_are_shuffled() -> None:
    x, y = digits()
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    clean, _ = window(["dsmi"], x, y)
    noise, _ = window(["dsmi"], x, shuffled)
    assert clean.values["dsmi"] > 0.3
    assert abs(noise.values["dsmi"]) < 0.1 * clean.values["dsmi"]


def test_the_scale_of_features_is_in_the_bandwidth_and_not_in_the_entropy() -> None:
    x, _ = digits()
    found = [diffusion.distances_of(s * x) for s in (0.1, 1.0, 10.0)]
    values = [(float(diffusion.dse(one)), float(diffusion.dse_bandwidth(one))) for one in found]
    assert values[0][0] == pytest.approx(values[2][0], rel=1e-6)
    assert values[2][1] == pytest.approx(100 * values[0][1], rel=1e-6)
    assert str(float(diffusion.dse(diffusion.distances_of(torch.ones(50, 3))))) == "0.0"
    two = torch.tensor([[0.0], [1.0]]).repeat_interleave(25, 0)  # two states: one bit, or less as they are near
    assert 0 < float(diffusion.dse(diffusion.distances_of(torch.cat([two] * 2, dim=1)))) <= 1 + 1e-9


def test_a_spanning_tree_finds_dimensions_that_noise_hides_from_two_neighbours() -> None:
    g = torch.Generator().manual_seed(0)
    sheet = torch.rand(1000, 2, generator=g) @ torch.linalg.qr(torch.randn(64, 2, generator=g)).Q.T
    noisy = sheet + 0.002 * torch.randn(1000, 64, generator=g)
    metric = GeometryMetric(["id_mst", "id_two_nn"])
    metric.update(noisy)
    values = metric.window().values
    assert abs(values["id_mst"] - 3.0) < 0.7
    assert values["id_two_nn"] > 1.8 * values["id_mst"]
    five = torch.rand(1000, 5, generator=g)
    assert float(spanning_tree.id_mst(diffusion.distances_of(five))) == pytest.approx(5, abs=0.8)


def test_units_that_repeat_one_another_count_once() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=g)
    copies = torch.cat([x, -2 * x[:, :3] + 0.01 * torch.randn(2000, 3, generator=g), torch.ones(2000, 1)], dim=1)
    covariance = torch.cov(copies.double().T, correction=0)
    assert float(activity.unit_redundancy(covariance)) == pytest.approx(1 - 6 / 9)
    assert float(activity.unit_kurtosis(x)) == pytest.approx(3, abs=0.3)
    chain = torch.stack([math.cos(0.2 * i) * x[:, 0] + math.sin(0.2 * i) * x[:, 1] for i in range(12)], dim=1)
    assert float(activity.unit_redundancy(torch.cov(chain.double().T))) == pytest.approx(11 / 12)  # each near the next


def test_a_class_on_a_line_is_the_lowest_rank() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 8, generator=g), torch.arange(300) % 3
    x[y == 1] = torch.randn(100, 1, generator=g) * torch.ones(8)
    ranks = subspaces.class_ranks(x, y, 4)
    assert ranks.tolist()[:3] == pytest.approx([float(r) for r in (ranks[0], 1.0, ranks[2])], rel=1e-6)
    assert bool(ranks[3].isnan())
    assert float(subspaces.class_rank_lowest(ranks)) == pytest.approx(1, rel=1e-6)
    assert float(subspaces.class_rank(ranks)) > 7
    metric = GeometryMetric(["class_rank", "nc1"], num_classes=5, policy=Policy(details=Details()))
    metric.update(x, y)
    curves = metric.window().curves
    assert curves["class_rank"][:3].tolist() == pytest.approx(ranks[:3].tolist(), rel=1e-6)
    assert bool(curves["class_rank"][3:].isnan().all())
    table = tables.class_table(curves, None)
    assert table is not None
    column = table.columns.index("effective rank")
    assert sorted((row[1], row[column]) for row in table.rows)[1] == (1, pytest.approx(1, rel=1e-5))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: lengths.feature_norm(torch.zeros(0, 3)), "needs 1 rows"),
        (lambda: lengths.feature_norm_cv(torch.zeros(5, 3)), "every row is zero"),
        (lambda: diffusion.distances_of(torch.randn(5, 3)), "needs 10 rows"),
        (lambda: diffusion.dsmi(diffusion.distances_of(torch.randn(20, 3)), torch.zeros(20).long()), "needs 2 classes"),
        (lambda: spanning_tree.id_mst(diffusion.distances_of(torch.zeros(100, 3))), "the rows are the same"),
        (
            lambda: shares.group_variance_share(torch.randn(9, 2), torch.full((9,), -1)),
            "needs 2 groups with at least 2 rows each, found 0",
        ),
        (lambda: shares.group_variance_share(torch.ones(9, 2), torch.arange(9) % 2), "the rows are the same"),
        (lambda: activity.unit_kurtosis(torch.ones(9, 2)), "no unit varies"),
        (lambda: activity.unit_redundancy(torch.zeros(3, 3).double()), "no unit varies"),
        (lambda: subspaces.class_rank(torch.full((3,), torch.nan).double()), "no class has two labelled rows"),
        (
            lambda: outliers.gaussian_low_variance_share(torch.ones(3, 1), torch.zeros(1), torch.ones(1, 1)),
            "one dimension has no halves",
        ),
    ],
)
def test_what_has_no_value_says_why(call, says: str) -> None:
    with pytest.raises(Undefined, match=says):
        call()


def test_entropy_falls_as_rows_collapse_one_after_the_other() -> None:
    """No bandwidth jumps where half of the distances have become 0."""
    g = torch.Generator().manual_seed(0)
    rows, found = torch.randn(200, 5, generator=g), []
    for share in (0.5, 0.6, 0.7, 0.72, 0.75, 0.9, 1.0):
        some = rows.clone()
        some[: int(200 * share)] = 0.0
        found.append(float(diffusion.dse(diffusion.distances_of(some))))
    assert all(later < before + 0.1 for before, later in pairwise(found)), found
    assert found[-1] == 0


@pytest.mark.parametrize("dims", [100, 200])
def test_distances_by_a_product_are_those_of_scipy(dims: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, dims, generator=g) + 1000
    x[1] = x[0]
    squares = diffusion.squared_distances(x)
    truth = cdist(x.double().numpy(), x.double().numpy(), "sqeuclidean")
    assert squares.numpy() == pytest.approx(truth, rel=1e-10, abs=1e-9)
    assert float(squares[0, 1]) == 0


def test_scores_are_scanned_in_blocks_of_rows_and_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all scores at once: torch's logsumexp, its Categorical, and the two largest."""
    g = torch.Generator().manual_seed(0)
    rows, weight, bias = torch.randn(40, 6, generator=g), torch.randn(33, 6, generator=g), torch.randn(33, generator=g)
    monkeypatch.setattr(head_scores, "_ELEMENTS", 42)  # seven classes, six rows
    found = head_scores.scores_of(rows, weight, bias)
    z = rows.double() @ weight.double().T + bias.double()
    assert found.total.numpy() == pytest.approx(z.logsumexp(1).numpy(), rel=1e-12)
    entropy = torch.distributions.Categorical(logits=z).entropy()
    assert found.entropy.numpy() == pytest.approx(entropy.numpy(), rel=1e-10)
    top = z.topk(2, dim=1)
    apart = (weight[top.indices[:, 0]].double() - weight[top.indices[:, 1]].double()).norm(dim=1)
    assert found.margin.numpy() == pytest.approx(((top.values[:, 0] - top.values[:, 1]) / apart).numpy(), rel=1e-10)


def test_a_head_that_is_not_finite_or_scores_no_classes_gives_gaps() -> None:
    names = ["energy_score", "prediction_entropy", "margin_density", "nc3_uniform"]
    head = nn.Linear(6, 4)
    head.weight.data.fill_(torch.nan)
    broken = GeometryMetric(names, num_classes=4, head=head)
    broken.update(torch.randn(90, 6), torch.arange(90) % 4)
    gaps = broken.window().gaps
    assert set(gaps) == set(names)
    assert all("not finite" in str(gaps[name]) for name in names)
    with pytest.raises(ConfigurationError, match="energy_score needs class labels"):
        GeometryMetric("head", head=nn.Linear(6, 3)).update(torch.randn(90, 6), torch.randn(90, 3))


def test_a_group_of_signals_that_compare_asks_for_a_reference() -> None:
    assert GeometryMetric("ood").has_reference
    assert GeometryMetric("fidelity").has_reference
    assert not GeometryMetric("head").has_reference


@pytest.mark.parametrize("name", ["gaussian_auroc", "mixture_log_density", "gaussian_log_density", "mahalanobis"])
def test_a_reference_of_as_many_rows_as_dimensions_has_no_gaussian(name: str) -> None:
    reference, window = (GeometryMetric([name], num_classes=2) for _ in range(2))
    reference.update(torch.randn(64, 64), torch.arange(64) % 2)
    window.update(torch.randn(100, 64), torch.arange(100) % 2)
    assert "singular" in window.window(reference=reference).gaps[name]


def test_copies_are_found_where_the_reference_holds_copies_of_its_own() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(300, 16, generator=g)
    twice = torch.cat([a, a])
    leaked = a + 1e-4 * torch.randn(300, 16, generator=g)
    assert float(fidelity.authenticity(twice, leaked)) == 0
    assert float(fidelity.authenticity(twice, torch.randn(300, 16, generator=g))) > 0.5


@pytest.mark.parametrize("groups", [30, 200], ids=["large groups", "groups of two"])
def test_a_row_finds_its_group_as_scikit_learn_says(groups: int) -> None:
    x, y = digits_features()
    x, y = x[:400], y[:400]
    g = torch.randperm(400, generator=torch.Generator().manual_seed(0)) % groups
    x = x + 0.6 * x.std() * torch.randn(groups, x.shape[1], generator=torch.Generator().manual_seed(1))[g]
    found, _ = window(GROUP_RETRIEVAL, x, y, g)
    truth = oracles.retrieval(x.double().numpy(), g.numpy(), knn_k=10)
    for k in (1, 5, 10):
        assert found.values[f"group_recall_at_{k}"] == pytest.approx(truth[f"recall_at_{k}"], abs=1e-12)
    assert found.values["group_map_at_10"] == pytest.approx(truth["map_at_k"], rel=1e-9)
    assert found.values["group_recall_at_1"] > 0.2
    assert found.standard_errors["group_recall_at_1"] > 0


def test_rows_without_a_group_and_of_the_same_sample_are_not_found() -> None:
    rows = torch.tensor([[1.0, 0], [1, 0.01], [1, 0.1], [0, 1], [0.1, 1], [0, 0], [1, 0.005]])
    samples = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    groups = torch.tensor([7, 7, 7, 8, 8, 7, -1])
    hits, others = retrieval.found_by_group(rows, samples, groups)
    assert others.tolist() == [1, 1, 2, 1, 1]  # the zero row and the one without a group are no part of it
    assert hits[:, 0].all()
    assert hits.sum(dim=1).tolist() == others.tolist()
    with pytest.raises(Undefined, match="4 rows can be found, fewer than 5"):
        retrieval.group_recall_at((hits, others), k=5)
    with pytest.raises(Undefined, match="another sample in its group"):
        retrieval.group_map_at_10((hits, 0 * others))
    with pytest.raises(Undefined, match="two rows that have a group"):
        retrieval.found_by_group(rows, samples, torch.full_like(groups, -1))
