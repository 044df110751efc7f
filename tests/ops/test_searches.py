"""Neighbours of rows: the true ones, in a stated order, at every scale, with groups and kernel sums."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lightning_featgeo.cuda_ext import knn, library, selection
from lightning_featgeo.cuda_ext.distances import EPS
from lightning_featgeo.cuda_ext.ops import (
    knn_with_kernel,
    self_neighbors,
)


@pytest.mark.parametrize(("n", "m", "d", "k"), [(7, 7, 1, 3), (40, 300, 16, 10), (300, 40, 3, 40), (1500, 1500, 8, 5)])
def test_knn_equals_scikit_learn(n: int, m: int, d: int, k: int) -> None:
    q, b = torch.randn(n, d), torch.randn(m, d)
    distances, indices = knn(q, b, k)
    expected, where = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(b.double()).kneighbors(q.double())
    np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=1e-12)
    assert (indices.numpy() == where).mean() > 0.999


@pytest.mark.parametrize("kind", ["plain", "far", "lengths", "copies", "lattice", "wide"])
def test_self_neighbors_equal_two_searches_and_a_kernel_sum(kind: str) -> None:
    n, d = (300, 6) if kind != "wide" else (1700, 3)  # the wide one selects within blocks of columns
    x = torch.randn(n, d) if kind in ("plain", "wide") else torch.relu(torch.randn(n, d))
    x[3] = 0
    if kind == "far":
        x = x + 1000
    elif kind == "lengths":
        x = x * 10 ** torch.linspace(-6, 6, n)[:, None]
    elif kind == "copies":
        x = x[torch.arange(n) // 3]
    elif kind == "lattice":
        x = torch.randint(0, 3, (n, d)).float()
    groups = torch.arange(n) // 2
    groups[5:9] = -1
    voters = torch.rand(n) > 0.3
    found = self_neighbors(x, 20, groups, voters, 30, 2.0)
    pairs = {"query_groups": groups, "reference_groups": groups}
    distances, indices = knn(x, x, 20, True, **pairs)
    torch.testing.assert_close(found.distances, distances, rtol=1e-12, atol=0)
    assert torch.equal(found.indices, indices)
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    some = (voters & (x != 0).any(1)).nonzero().squeeze(1)
    mine = dict.fromkeys(pairs, groups[some])
    chords, nearest = knn(unit[some], unit[some], 30, True, **mine)
    # which they are is exact; how near, as a compiled scan has it
    torch.testing.assert_close(found.chords[some].square(), chords.square(), rtol=0, atol=2e-6)
    if kind in ("plain", "wide"):  # elsewhere directions tie, up to the rounding of the normalisation
        assert torch.equal(found.voted[some].sort().values, some[nearest].sort().values)
    to_them = torch.linalg.vector_norm(unit[some][:, None] - unit[found.voted[some]], dim=2)
    torch.testing.assert_close(found.chords[some].square(), to_them.square(), rtol=0, atol=2e-6)
    directed = (x != 0).any(1)
    theirs = dict.fromkeys(pairs, groups[directed])
    _, _, sums, counts = knn_with_kernel(unit[directed], unit[directed], 1, True, **theirs, kernel_scale=2.0)
    torch.testing.assert_close(found.kernel_sums[directed], sums, rtol=1e-6, atol=0)
    assert torch.equal(found.kernel_counts[directed], counts)
    assert found.kernel_counts[~directed].sum() == 0
    everyone = set(range(n)) - set(some.tolist())
    assert bool((found.voted[list(everyone)] == -1).all())
    assert bool(found.chords[list(everyone)].isinf().all())


@pytest.mark.parametrize("case", ["one giant", "twelve decades", "half zero", "a speck"])
def test_neighbours_are_the_true_ones_whatever_the_lengths(case: str) -> None:
    x = torch.randn(400, 5)
    if case == "one giant":
        x[7] *= 1e7
    elif case == "twelve decades":
        x = x * 10 ** torch.linspace(-6, 6, 400)[:, None]
    elif case == "half zero":
        x[::2] = 0
    else:
        x[9] = 1e-30
    rows = x.double()
    exact = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    order = exact.sort(dim=1, stable=True)
    everyone = torch.ones(400, dtype=torch.bool)
    # compiled ops measure every neighbour by subtraction; plain torch only where a product has lost four digits of 16
    rtol = 1e-12 if "cpu" in library.libraries else 16 * EPS / selection._CANCELLING
    for distances, indices in (
        knn(x, x, 7, True),
        self_neighbors(x, 7, torch.arange(400), everyone, 7, 2.0)[:2],
    ):
        torch.testing.assert_close(distances, order.values[:, :7], rtol=rtol, atol=0)
        assert torch.equal(indices, order.indices[:, :7])


def test_self_neighbors_of_nothing_of_one_row_and_of_more_than_there_are() -> None:
    for n in (0, 1, 4):
        x, groups = torch.randn(n, 3), torch.arange(n)
        found = self_neighbors(x, 6, groups, groups >= 0, 5, 2.0)
        assert found.distances.shape == (n, 6)
        assert int(found.distances.isfinite().sum()) == n * max(0, n - 1)
        assert int((found.voted >= 0).sum()) == n * max(0, n - 1)
        assert found.kernel_counts.tolist() == [n - 1] * n
    zeros = self_neighbors(torch.zeros(4, 3), 2, torch.arange(4), torch.ones(4, dtype=torch.bool), 2, 2.0)
    assert zeros.distances.eq(0).all()
    assert zeros.voted.eq(-1).all()
    assert zeros.kernel_sums.eq(0).all()
    with pytest.raises(ValueError, match="must not be negative"):
        self_neighbors(torch.zeros(4, 3), -1, torch.arange(4), torch.ones(4, dtype=torch.bool))


def test_knn_far_from_the_origin_and_in_tight_clusters_keeps_full_precision() -> None:
    x = 1000 + torch.randint(0, 3, (200, 1)) + 1e-3 * torch.randn(200, 6)
    distances, _ = knn(x, x, 4, exclude_self=True)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    np.testing.assert_allclose(distances, exact.topk(4, largest=False).values, rtol=1e-9)


def test_knn_ties_go_to_the_lower_index_even_when_all_rows_are_equal() -> None:
    x = torch.ones(60, 4)
    distances, indices = knn(x, x, 3, exclude_self=True)
    assert torch.equal(distances, torch.zeros_like(distances))
    assert indices[0].tolist() == [1, 2, 3]
    assert indices[30].tolist() == [0, 1, 2]


def test_exact_ties_are_not_decided_by_round_off() -> None:
    x = torch.randint(0, 3, (400, 6)).float() + 0.5
    distances, indices = knn(x, x, 10, exclude_self=True)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    expected = exact.sort(dim=1, stable=True)
    torch.testing.assert_close(distances, expected.values[:, :10], rtol=1e-15, atol=0)
    assert torch.equal(indices, expected.indices[:, :10])


def test_knn_bars_rows_of_the_same_group_and_fills_up_with_nothing() -> None:
    x = torch.randn(6, 2)
    groups = torch.tensor([0, 0, 0, 0, 1, -1])
    distances, indices = knn(x, x, 4, exclude_self=True, query_groups=groups, reference_groups=groups)
    assert set(indices[0].tolist()) == {4, 5, -1}
    assert distances[0, 2:].isinf().all()
    assert -1 not in indices[5, :4].tolist()  # group -1 is no group


def test_kernel_sums_come_from_the_same_pass() -> None:
    x = torch.randn(50, 3)
    _, _, sums, counts = knn_with_kernel(x, x, 2, True, kernel_scale=2.0)
    exact = torch.exp(-2 * torch.cdist(x.double(), x.double()).square()).fill_diagonal_(0)
    np.testing.assert_allclose(sums, exact.sum(1), rtol=1e-10)
    assert counts.unique().tolist() == [49]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"k": 1, "reference": torch.randn(4, 3)}, "queries have 2 dimensions, reference 3"),
        ({"k": 1, "query_groups": torch.zeros(4, dtype=torch.int64)}, "both query_groups and reference_groups"),
    ],
)
def test_knn_refuses_bad_input(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        knn(**{"queries": torch.randn(4, 2), "reference": torch.randn(4, 2), **arguments})
