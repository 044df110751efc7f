"""The compiled kernels against their references: proofs, random shapes, types and strides."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_featgeo.cuda_ext import certified, library, ops, reference, scan_ops, search, self_search
from lightning_featgeo.cuda_ext.proof import BF16, F32, F64
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors

needs_kernels = pytest.mark.skipif("cpu" not in library.libraries, reason=f"no kernels: {library.reasons.get('cpu')}")


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def rows_of(kind: str, n: int, d: int) -> torch.Tensor:
    x = torch.randn(n, d)
    return {
        "gaussian": lambda: x,
        "relu": lambda: torch.relu(x),
        "clusters": lambda: 1e-3 * x + torch.randn(5, d)[torch.arange(n) % 5],
        "far": lambda: x + 1000,
        "copies": lambda: x[torch.arange(n) // 7],
        "all equal": lambda: torch.ones(n, d),
        "lattice": lambda: torch.randint(0, 3, (n, d)).float(),
        "decades": lambda: x * 10 ** torch.linspace(-9, 9, n)[:, None],
        "specks": lambda: x * 1e-30,
        "giants": lambda: x * 1e18,
    }[kind]()


KINDS = ["gaussian", "relu", "clusters", "far", "copies", "all equal", "lattice", "decades", "specks", "giants"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [BF16, F32, F64])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scan", [pytest.param(scan_ops.scan, marks=needs_kernels, id="compiled"), reference.scan])
def test_rows_that_a_scan_calls_certain_are_right(kind: str, precision: int, shared: bool, scan: Callable) -> None:
    x = rows_of(kind, 500, 19)
    q = x if shared else x[:77] * 1.01
    ids = torch.arange(500, dtype=torch.int32)
    query_ids = ids if shared else torch.full((77,), -1, dtype=torch.int32)
    frame = certified.Problem(q, ids, x, ids, 9, True, 0.0).frame
    distances, indices, certain, _, _ = scan(
        q, None if shared else x, query_ids, None if shared else ids, *frame, 9, True, precision, 0.0
    )
    exact, where = search.knn(q, x, 9, None, None, shared, 0.0)[:2]
    torch.testing.assert_close(distances[certain], exact[certain], rtol=1e-11, atol=0)
    agree = (indices[certain] == where[certain]).all(dim=1)
    ties = (exact[certain].diff(dim=1) <= 1e-11 * exact[certain][:, 1:]).any(dim=1)  # of equal truth, unequal rounding
    assert bool((agree | ties).all())
    if kind in ("gaussian", "relu"):
        assert certain.double().mean() > (0.9 if precision else 0.5)
    if kind == "all equal":
        assert not bool(certain.any())  # ties reach beyond the candidates: nothing is certain


@needs_kernels
def test_without_the_proof_bf16_would_be_wrong() -> None:
    x = rows_of("clusters", 2000, 64)
    ids = torch.arange(2000, dtype=torch.int32)
    frame = certified.Problem(x, ids, None, None, 10, True, 0.0).frame
    _, indices, certain, _, _ = scan_ops.scan(x, None, ids, None, *frame, 10, True, BF16, 0.0)
    truth = search.knn(x, x, 10, None, None, True, 0.0)[1]
    wrong = (indices.sort(dim=1).values != truth.sort(dim=1).values).any(dim=1)
    assert wrong.double().mean() > 0.1  # what a scan in low precision alone gets wrong
    assert not bool((wrong & certain).any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_kernels), False])
def test_the_certified_search_is_the_exact_one(kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "_WORTH_A_SAMPLE", 0)  # bf16 too is tried on these few rows
    monkeypatch.setattr(certified, "bf16_devices", {"cpu"})
    if not compiled:  # what runs on a GPU, over the plain-torch scan
        monkeypatch.setattr(scan_ops, "scan", reference.scan)
    x = rows_of(kind, 700, 24)
    groups = torch.arange(700) // 3
    groups[::50] = -1
    found = certified.knn(x, x, 12, groups, groups, True, 0.0)
    truth = search.knn(x, x, 12, groups, groups, True, 0.0)
    torch.testing.assert_close(found[0], truth[0], rtol=1e-11, atol=0)
    ties = (truth[0].diff(dim=1) <= 1e-11 * truth[0][:, 1:]).any(dim=1)
    assert bool(((found[1] == truth[1]).all(dim=1) | ties).all())
    if kind not in ("decades", "giants", "specks"):
        assert torch.equal(found[1], truth[1])
    everyone = torch.ones(700, dtype=torch.bool)
    ours = SelfNeighbors(*self_search.self_neighbors(x, 12, groups, everyone, 40, 2.0))
    theirs = SelfNeighbors(*search.self_neighbors(x, 12, groups, everyone, 40, 2.0))
    torch.testing.assert_close(ours.chords.square(), theirs.chords.square(), rtol=0, atol=2e-6)
    torch.testing.assert_close(ours.kernel_sums, theirs.kernel_sums, rtol=1e-5, atol=0)
    assert torch.equal(ours.kernel_counts, theirs.kernel_counts)


def test_a_row_among_themselves_is_its_own_nearest_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_ops, "scan", reference.scan)
    x = torch.randn(50, 7)
    for groups in (None, torch.arange(50)):
        found = certified.knn(x, x, 3, groups, groups if groups is None else -1 - groups, False, 0.0)
        assert torch.equal(found[1], search.knn(x, x, 3, None, None, False, 0.0)[1])
        assert torch.equal(found[1][:, 0], torch.arange(50))


@needs_kernels
def test_every_row_is_counted_under_the_precision_that_settled_it() -> None:
    before = dict(certified.settled)
    x = torch.cat([torch.randn(300, 8), torch.zeros(200, 8), torch.randn(1, 8) + 1e-5 * torch.randn(300, 8)])
    ops.knn(x, x, 5, exclude_self=True)
    after = {name: count - before.get(name, 0) for name, count in certified.settled.items()}
    assert after["fp32"] > 250
    assert after["float64"] > 250  # the tight cluster
    assert after["subtraction"] >= 200  # the copies
    assert sum(after.values()) == len(x)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_knn_over_random_shapes_equals_the_reference(data: st.DataObject) -> None:
    n, m = data.draw(st.integers(0, 260)), data.draw(st.integers(0, 460))
    d, k = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 256))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    dtype = data.draw(st.sampled_from(DTYPES))
    q, b = torch.randn(n, 2 * d).to(dtype)[:, ::2], torch.randn(d, m).to(dtype).T  # neither is contiguous
    groups = data.draw(st.booleans())
    mine = (
        {"query_groups": torch.randint(-1, 9, (n,)), "reference_groups": torch.randint(-1, 9, (m,))} if groups else {}
    )
    distances, indices = ops.knn(q, b, k, **mine)
    exact, where = search.knn(q, b, k, mine.get("query_groups"), mine.get("reference_groups"), False, 0.0)[:2]
    torch.testing.assert_close(distances, exact, rtol=1e-11, atol=0)
    assert (indices == where).double().mean() > 0.99 or indices.numel() == 0  # bf16 rows tie now and then
    assert torch.equal(indices < 0, where < 0)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_streaming_ops_over_random_shapes_equal_their_references(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 230))
    groups = data.draw(st.sampled_from([1, 4, 37]))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    dtype, buckets = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from([0, 1, 2]))
    offset, extremes = data.draw(st.sampled_from([0.0, 300.0])), data.draw(st.booleans())
    f64 = {"dtype": torch.float64}
    states = [
        (
            torch.zeros(groups, d), torch.zeros(groups, **f64), torch.zeros(groups, d, **f64),
            torch.zeros(groups, **f64), torch.zeros(buckets, d, d, **f64) if buckets else None,
        )
        for _ in range(2)
    ]  # fmt: skip
    units = [
        (torch.zeros(d, **f64), torch.full((d,), torch.inf, **f64), torch.full((d,), -torch.inf, **f64))[
            : 3 if extremes else 1
        ]
        for _ in range(2)
    ]
    sums = [(torch.zeros(2, **f64), torch.zeros(d, **f64), torch.zeros(d, **f64)) for _ in range(2)]
    for _ in range(2):
        rows = (torch.randn(n, 2 * d) + offset).to(dtype)[:, ::2]
        ids, keep = torch.randint(-1, groups, (n,)), torch.rand(n) > 0.2
        labelled = max(groups - 1, 0) if buckets == 2 else groups
        for state, scatter in zip(states, (ops.scatter_, reference.scatter_), strict=True):
            scatter(rows, ids, *state, labelled)
        for unit, stats in zip(units, (ops.unit_stats_, reference.unit_stats_), strict=True):
            stats(rows, keep, *unit)
        for total, add in zip(sums, (ops.direction_sums_, reference.direction_sums_), strict=True):
            add(rows, keep, *total)
    for ours, theirs in zip(states[0], states[1], strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)
    for ours, theirs in zip((*units[0], *sums[0]), (*units[1], *sums[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@needs_kernels
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_reservoir_slots_are_those_of_the_reference(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 300))
    n, high = data.draw(st.integers(0, capacity)), data.draw(st.sampled_from([5, 400, 2**62]))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    priorities, offered = torch.randint(0, high, (capacity,)), torch.randint(0, high, (n,))
    for x in (priorities, offered):
        x[torch.rand(len(x)) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))] = reference.EMPTY_PRIORITY
    for ours, theirs in zip(
        ops.reservoir_slots(priorities, offered), reference.reservoir_slots(priorities, offered), strict=True
    ):
        assert torch.equal(ours, theirs)


@needs_kernels
def test_results_are_the_same_bits_every_time_and_with_any_number_of_threads() -> None:
    x, before = torch.relu(torch.randn(1500, 40)), torch.get_num_threads()
    groups, voters = torch.arange(1500), torch.ones(1500, dtype=torch.bool)
    ids = torch.arange(1500) % 7
    results = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            f64 = {"dtype": torch.float64}
            state = (
                torch.zeros(7, 40), torch.zeros(7, **f64), torch.zeros(7, 40, **f64), torch.zeros(7, **f64),
                torch.zeros(1, 40, 40, **f64),
            )  # fmt: skip
            ops.scatter_(x, ids, *state, 7)
            results.append([*ops.self_neighbors(x, 9, groups, voters, 60, 2.0), *ops.knn(x[:99], x, 9), *state])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
def test_more_than_2_to_the_31_products() -> None:
    n = 47_000  # n² > 2³¹
    x = torch.randperm(n)[:, None].float()
    distances, indices = ops.knn(x, x, 1, exclude_self=True)
    assert torch.equal(distances, torch.ones(n, 1, dtype=torch.float64))
    assert torch.equal((x[indices.squeeze(1)] - x).abs(), torch.ones(n, 1))


@needs_kernels
def test_a_group_out_of_range_is_refused_before_anything_is_written() -> None:
    state = [torch.zeros(2, 3), *(torch.zeros(s, dtype=torch.float64) for s in ((2,), (2, 3), (2,)))]
    with pytest.raises(RuntimeError, match="group 5 of row 1, but there are 2"):
        ops.scatter_(torch.ones(2, 3), torch.tensor([0, 5]), *state, None, 2)
    assert all(not s.any() for s in state)
