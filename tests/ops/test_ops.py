import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lightning_featgeo.cuda_ext import backend_info, knn
from lightning_featgeo.cuda_ext.ops import NAMESPACE, SCHEMAS, hash_priority, knn_with_kernel, reservoir_slots
from lightning_featgeo.cuda_ext.reference import EMPTY_PRIORITY


def arguments(name: str) -> tuple:
    x, keep = torch.randn(12, 5), torch.ones(12, dtype=torch.bool)
    groups = torch.arange(12) % 4
    f64 = {"dtype": torch.float64}
    return {
        "hash_priority": (torch.arange(9), 3),
        "reservoir_slots": (torch.randint(0, 99, (8,)), torch.randint(0, 99, (4,))),
        "scatter_": (
            x, groups, torch.zeros(4, 5), torch.zeros(4, **f64), torch.zeros(4, 5, **f64), torch.zeros(4, **f64),
            torch.zeros(2, 5, 5, **f64), 3, True,
        ),
        "direction_sums_": (x, keep, torch.zeros(2, **f64), torch.zeros(5, **f64), torch.zeros(5, **f64)),
        "unit_stats_": (
            x, keep, torch.zeros(5, **f64), torch.full((5,), torch.inf, **f64), torch.full((5,), -torch.inf, **f64)
        ),
        "knn": (x, x, 3, groups, groups, True, 2.0),
        "self_neighbors": (x, 3, groups, keep, 4, 2.0),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_op_passes_opcheck(name: str) -> None:
    # autograd registration is not tested: no op is differentiable, and all take detached tensors
    torch.library.opcheck(
        getattr(torch.ops, NAMESPACE).__getattr__(name).default,
        arguments(name),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_backend_info_says_what_runs() -> None:
    assert backend_info()["backend"] == "reference"
    assert "knn" in backend_info()["ops"]


@pytest.mark.parametrize(("n", "m", "d", "k"), [(7, 7, 1, 3), (40, 300, 16, 10), (300, 40, 3, 40), (1500, 1500, 8, 5)])
def test_knn_equals_scikit_learn(n: int, m: int, d: int, k: int) -> None:
    q, b = torch.randn(n, d), torch.randn(m, d)
    distances, indices = knn(q, b, k)
    expected, where = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(b.double()).kneighbors(q.double())
    np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=1e-12)
    assert (indices.numpy() == where).mean() > 0.999


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
    np.testing.assert_allclose(sums, exact.sum(1), rtol=1e-12)
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


def test_hash_is_splitmix64_uniform_and_sensitive_to_the_seed() -> None:
    def reference(index: int, seed: int) -> int:
        mask = 2**64 - 1
        z = (index * 0x9E3779B97F4A7C15 + seed) & mask
        for _ in range(2):
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            z ^= z >> 31
        return z >> 2

    index = torch.arange(-50, 5000)
    assert hash_priority(index, 7).tolist() == [reference(i, 7) for i in index.tolist()]
    share = hash_priority(torch.arange(100_000), 1).double() / 2**62
    assert abs(float(share.mean()) - 0.5) < 0.005
    assert abs(float(((share[1:] - 0.5) * (share[:-1] - 0.5)).mean())) < 0.001
    assert not torch.equal(hash_priority(index, 1), hash_priority(index, 2))


def test_reservoir_slots_keep_the_smallest() -> None:
    priorities = torch.full((10,), EMPTY_PRIORITY)
    offered = torch.randint(0, 1000, (64,))
    for part in offered.split(7):
        slots, sources, accepted = reservoir_slots(priorities, part)
        assert slots.unique().numel() == len(slots)
        priorities[slots[accepted]] = part[sources[accepted]]
    assert priorities.sort().values.tolist() == offered.sort().values[:10].tolist()


@pytest.mark.cuda
@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_op_gives_the_same_on_cuda(name: str) -> None:
    torch.manual_seed(0)
    args = arguments(name)
    on_device = [a.cuda() if isinstance(a, torch.Tensor) else a for a in args]
    op = getattr(torch.ops, NAMESPACE).__getattr__(name)
    results, on_cpu = op(*on_device), op(*args)
    for a, b in zip(
        [*on_device, *(results or ())] if not isinstance(results, torch.Tensor) else [results],
        [*args, *(on_cpu or ())] if not isinstance(on_cpu, torch.Tensor) else [on_cpu],
        strict=True,
    ):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-9)
