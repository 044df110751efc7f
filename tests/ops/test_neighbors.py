"""Neighbours among blocks that come one after another, and by cosine."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lightning_featgeo.cuda_ext import StreamingNeighbors, knn, scan_ops, search
from lightning_featgeo.cuda_ext import scan as plain_scan
from lightning_featgeo.cuda_ext.ops import _check_rows, self_neighbors
from lightning_featgeo.cuda_ext.proof import BF16, F32, F64


@pytest.mark.parametrize("blocks", [[300], [100, 100, 100], [1, 199, 3, 97]])
def test_blocks_give_what_one_search_gives(blocks: list[int]) -> None:
    x = torch.randint(0, 3, (300, 4)).float()  # many ties
    queries, groups, mine = torch.randn(40, 4).round(), torch.arange(300) // 4, torch.arange(40)
    distances, indices = knn(queries, x, 7, query_groups=mine, reference_groups=groups)
    order = torch.randperm(len(blocks)).tolist()
    firsts = np.cumsum([0, *blocks])
    neighbors = StreamingNeighbors(queries, 7, mine)
    for b in order:
        part = slice(firsts[b], firsts[b + 1])
        neighbors.add(x[part], int(firsts[b]), groups[part])
    torch.testing.assert_close(neighbors.distances, distances, rtol=1e-12, atol=0)
    assert torch.equal(neighbors.indices, indices)


def test_a_shard_may_name_its_own_rows_and_be_empty_or_too_small() -> None:
    neighbors = StreamingNeighbors(torch.zeros(1, 2), 3)
    neighbors.add(torch.zeros(0, 2), 0)
    assert neighbors.indices.tolist() == [[-1, -1, -1]]
    neighbors.add(torch.tensor([[3.0, 4.0]]), torch.tensor([1007]))
    assert neighbors.indices.tolist() == [[1007, -1, -1]]
    assert neighbors.distances[0, 0] == 5
    with pytest.raises(ValueError, match="groups for the queries and for every block"):
        neighbors.add(torch.zeros(1, 2), 0, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1"):
        StreamingNeighbors(torch.zeros(1, 2), 0)


@pytest.mark.parametrize("groups", [True, False])
def test_cosine_equals_scikit_learn(groups: bool) -> None:
    x = torch.randn(200, 6) * torch.rand(200, 1) * 100
    mine = {"query_groups": torch.full((200,), -1), "reference_groups": torch.full((200,), -1)} if groups else {}
    distances, indices = knn(x, x, 5, exclude_self=True, metric="cosine", **mine)
    peer = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(x.double())
    expected, where = peer.kneighbors(x.double())
    np.testing.assert_allclose(distances, expected[:, 1:], rtol=1e-6, atol=2e-6)
    assert (indices.numpy() == where[:, 1:]).mean() > 0.999


def test_rows_without_a_direction_have_no_cosine_and_are_nobodys_neighbours() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    distances, indices = knn(x, x, 3, exclude_self=True, metric="cosine")
    assert indices.tolist() == [[-1, -1, -1], [2, -1, -1], [1, -1, -1], [-1, -1, -1]]
    torch.testing.assert_close(distances[1, 0], torch.tensor(1.0, dtype=torch.float64))
    assert knn(x, x[:1], 1, metric="cosine")[1].tolist() == [[-1]] * 4


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.randn(5, 2)
    y = x.clone()
    y[2, 1] = bad
    for queries, reference in ((x, y), (y, x)):
        with pytest.raises(ValueError, match="NaN or infinity"):
            knn(queries, reference, 1)


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="'euclidean' or 'cosine', got 'l1'"):
        knn(torch.randn(2, 2), torch.randn(2, 2), 1, metric="l1")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_rows_that_may_be_their_own_neighbours_are(metric: str) -> None:
    x = torch.randn(50, 4)
    mine = {"query_groups": torch.full((50,), -1), "reference_groups": torch.full((50,), -1)}
    for groups in ({}, mine):
        own, copied = knn(x, x, 3, metric=metric, **groups), knn(x, x.clone(), 3, metric=metric, **groups)
        assert own[1][:, 0].tolist() == list(range(50))
        assert torch.equal(own[1], copied[1])
    neighbors = StreamingNeighbors(x, 1)
    neighbors.add(x, 0)
    assert neighbors.indices.squeeze(1).tolist() == list(range(50))


def test_self_is_excluded_under_cosine_too_when_groups_differ() -> None:
    x = torch.randn(9, 3)
    groups = {"query_groups": torch.arange(9), "reference_groups": torch.arange(9) + 100}
    for metric in ("euclidean", "cosine"):
        assert not (knn(x, x, 1, True, metric=metric, **groups)[1].squeeze(1) == torch.arange(9)).any()


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_cosine_does_not_depend_on_the_rows_scale(scale: float) -> None:
    x = scale * torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(knn(x, x, 2, metric="cosine")[0], torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64))


def test_among_many_copies_ties_go_to_the_lower_index() -> None:
    x = torch.zeros(200, 300)
    x[0] = 1
    assert knn(x, x, 3, exclude_self=True)[1][1:4].tolist() == [[2, 3, 4], [1, 3, 4], [1, 2, 4]]
    for y in (torch.randn(1, 17).expand(400, 17) + 0, torch.ones(400, 1)):  # one row, 400 times, on its own centre
        assert knn(y, y, 3, exclude_self=True)[1][:2].tolist() == [[1, 2, 3], [0, 2, 3]]


def test_gradients_end_at_a_search() -> None:
    x = torch.randn(20, 3, requires_grad=True)
    assert not knn(x, x, 2)[0].requires_grad


def test_autocast_changes_nothing() -> None:
    x = torch.randn(3000, 2) + 3
    plain = knn(x, x, 3, exclude_self=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = knn(x, x, 3, exclude_self=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_bad_shapes_and_types_are_refused_by_name() -> None:
    x = torch.randn(4, 2)
    for bad, says in (
        ((torch.arange(4)[:, None], None), "queries must be floating-point rows.*int64"),
        ((x[0], None), r"queries must be .*shape \(2,\)"),
        ((x, torch.arange(3)), r"4 queries, but groups of shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=says):
            _check_rows("queries", *bad)
    with pytest.raises(ValueError, match=r"span -.* rescale them"):
        knn(x.double(), torch.tensor([[1.7e308, -1.7e308]], dtype=torch.float64), 1)
    with pytest.raises(ValueError, match="4 rows, but numbers"):
        StreamingNeighbors(x, 1).add(x, torch.arange(3))


@pytest.mark.parametrize("plain", [True, False], ids=["plain torch", "as built"])
@pytest.mark.parametrize("precision", [BF16, F32, F64])
@pytest.mark.parametrize("measure", [True, False])
@pytest.mark.parametrize(("n", "d", "k", "parts"), [(500, 24, 20, 3), (150, 5, 200, 2), (700, 40, 7, 5), (3, 4, 2, 4)])
def test_shares_of_the_pairs_make_the_whole(
    n: int, d: int, k: int, parts: int, measure: bool, precision: int, plain: bool
) -> None:
    x = torch.randn(n, d)
    x = x if precision != F64 else x.double()
    ids = torch.arange(n, dtype=torch.int32) // 2  # pairs of one sample
    frame = x[: n // 2 + 1].double().mean(dim=0), 2.0**-5
    source = plain_scan if plain else scan_ops
    gather, settle, scan = source.candidates, source.settle, source.scan
    width = plain_scan.shared_width(k, precision, n - 1, parts)
    shares = [gather(x, ids, *frame, width, precision, 2.0, part, parts) for part in range(parts)]
    values, indices = (torch.cat([share[i] for share in shares], dim=1) for i in (0, 1))
    limits = torch.stack([share[2] for share in shares]).amin(dim=0)
    for row in indices.tolist():  # no pair is looked at twice
        found = [i for i in row if i >= 0]
        assert len(found) == len(set(found))
    whole = scan(x, None, ids, None, *frame, k, True, F64 if precision == F64 else F32, 2.0)
    assert bool(whole[2].all())
    first, rows = n // 3, n - n // 3
    part = values[first:].contiguous(), indices[first:].contiguous(), limits[first:].contiguous()
    distances, found, certain = settle(x, first, *part, shares[0][5], *frame, k, measure, precision)
    assert distances.shape == (rows, k)
    truth = whole[1][first:][certain]
    assert torch.equal(found[certain].sort(dim=1).values, truth.sort(dim=1).values)
    if measure or plain:
        assert torch.equal(found[certain], truth)
        assert torch.equal(distances[certain], whole[0][first:][certain])
    if precision != BF16:
        assert bool(certain.all())
        sums = torch.stack([share[3] for share in shares]).sum(dim=0)
        torch.testing.assert_close(sums, whole[3], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 3, 4, 6])
def test_many_copies_of_rows_of_any_type_and_width(dtype: torch.dtype, d: int) -> None:
    x = torch.randn(4, d).to(dtype)[torch.arange(200) % 4]
    distances, indices = search.knn(x, x, 60, None, None, True, 0.0)[:2]
    theirs, where = search.knn(x.double(), x.double(), 60, None, None, True, 0.0)[:2]
    assert torch.equal(indices, where)
    torch.testing.assert_close(distances, theirs, rtol=1e-12, atol=0)
    assert bool((distances[:, :49] == 0).all())  # the other 49 copies


@pytest.mark.parametrize("kind", ["classes", "periodic", "copies", "far away", "groups"])
def test_many_neighbours_are_exact_whatever_a_sample_of_the_rows_says(kind: str) -> None:
    n, d, k = 2400, 12, 100
    generator = torch.Generator().manual_seed(0)
    x, groups = torch.randn(n, d, generator=generator), torch.full((n,), -1)
    if kind == "classes":
        x += 20 * torch.randn(60, d, generator=generator)[torch.arange(n) // 40]  # fewer of a class than neighbours
    elif kind == "periodic":
        x += 20 * torch.randn(12, d, generator=generator)[torch.arange(n) % 12]
    elif kind == "copies":
        x[::2] = x[0]
    elif kind == "far away":
        x[:150] += 1e4
    else:
        groups = torch.arange(n) // 1150  # most rows are not to be found
    found = self_neighbors(x, k, groups, torch.ones(n, dtype=torch.bool), k, 0.0)
    barred = (groups[:, None] == groups) & (groups[:, None] >= 0) | torch.eye(n, dtype=torch.bool)
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    for rows, distances, tolerance in ((x.double(), found.distances, 1e-9), (unit, found.chords, 2e-6)):
        peer = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").masked_fill_(barred, torch.inf)
        expected = peer.sort(dim=1).values[:, :k]
        torch.testing.assert_close(distances.square(), expected.square(), rtol=tolerance, atol=tolerance)
    assert not (barred.gather(1, found.voted) | barred.gather(1, found.indices)).any()
    assert all(len(set(row)) == k for row in found.voted.tolist())
