"""Near-duplicates count as exact ones do wherever ratios are read; data without any stays as it is, bitwise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.cuda_ext import knn
from lightning_featgeo.errors import NoteKind
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.functional import density, dimension, duplicates
from lightning_featgeo.metrics.results import Estimate, WindowResult
from lightning_featgeo.metrics.settings import Policy
from tests._helpers import oracles
from tests._helpers.data import curved_manifold, digits, heavy_duplicates, long_tailed, nearly_collapsed, rank_five
from tests._helpers.processes import on_ranks

DIMENSIONS = ["id_two_nn", "id_two_nn_mle", "id_mle", "id_gride_1", "id_gride_2", "id_gride_4", "id_gride_8"]
N, D = 1200, 256


def rows(seed: int = 0, n: int = N, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def copies(size: int = 2, clusters: int = 40, noise: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Rows, ``clusters`` of which come ``size`` times, not quite the same; and which row each of them was."""
    source = torch.arange(N)
    for i in range(1, size):
        source[i * clusters : (i + 1) * clusters] = source[:clusters]
    return rows()[source] + noise * rows(1), source


def half(kind: torch.dtype, noise: float = 1e-5) -> Callable[[], tuple[Tensor, Tensor]]:
    """Pairs that half precision has rounded apart, or together."""

    def made() -> tuple[Tensor, Tensor]:
        x, source = copies(noise=noise)
        return x.to(kind).float(), source

    return made


def window(x: Tensor, signals: list[str] = DIMENSIONS, k: int = 20, details: Details | None = None) -> WindowResult:
    metric = GeometryMetric(signals, neighbors=Neighbors(k=k), policy=Policy(strict=True, details=details))
    for part in x.split(100):
        metric.update(part)
    return metric.window()


KINDS = {
    "pairs": copies,
    "clusters of five": lambda: copies(size=5),
    "fp16": half(torch.float16),
    "bf16": half(torch.bfloat16),
    "computed in fp16": lambda: copies(noise=5e-4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_dimensions_are_those_of_known_copies(kind: str) -> None:
    x, source = KINDS[kind]()
    truth = oracles.dimensions(oracles.among_known_copies(x.double().numpy(), source.numpy(), 20))
    streamed = window(x)
    r, _ = knn(x, x, 20, exclude_self=True)
    for name, value in truth.items():
        assert streamed.values[name] == pytest.approx(value, rel=1e-6), name
        function = CATALOG[name].function
        assert float(function(r).value) == pytest.approx(streamed.values[name], rel=1e-12)
    several = N - int((torch.bincount(source)[source] == 1).sum())
    assert streamed.counts["near_duplicates"] + streamed.counts["duplicates"] == several
    (note,) = [note for note in streamed.notes if note.kind is NoteKind.NEAR_DUPLICATES]
    assert note.startswith(f"{streamed.counts['near_duplicates']} of {N} rows almost lie on a row of another sample")


def test_without_the_rule_pairs_decide_a_dimension() -> None:
    x, _ = copies()
    alone = window(rows()).values
    r = oracles.distances(x.double().numpy(), 20)
    assert 1 / np.log(r[:, 1] / r[:, 0]).mean() < 0.1 * alone["id_gride_1"]  # its formula
    assert window(x).values["id_gride_1"] == pytest.approx(alone["id_gride_1"], rel=0.1)
    assert window(x).values["id_mle"] == pytest.approx(alone["id_mle"], rel=0.05)


@pytest.mark.parametrize("k", [3, 4])
def test_a_cluster_of_more_rows_than_neighbours(k: int) -> None:
    x, source = copies(size=5)
    names = ["id_two_nn", "id_mle", "id_gride_1", "knn_log_density", "knn_entropy"]
    found, alone = window(x, names, k), window(rows(), names, k)
    assert found.counts["near_duplicates"] == 200
    for name in names:
        assert found.values[name] == pytest.approx(alone.values[name], rel=0.15), name
    r = oracles.among_known_copies(x.double().numpy(), source.numpy(), k)
    logs = np.log(r[r[:, -1] > 0, -1])
    r_ours, _ = knn(x, x, k, exclude_self=True)
    assert density.log_densities(r_ours, D).numel() == len(logs) == N - 200
    entropy = density.knn_entropy(r_ours, D)
    assert entropy.n == len(logs)
    shift = float(entropy.value) - D * logs.mean()
    assert shift == pytest.approx(alone.values["knn_entropy"] - D * _mean_log_radius(rows(), k), rel=1e-6)


def _mean_log_radius(x: Tensor, k: int) -> float:
    return float(np.log(oracles.distances(x.double().numpy(), k)[:, -1]).mean())


@pytest.mark.parametrize(("size", "k"), [(2, 20), (2, 2), (20, 20), (4, 3)])
def test_near_duplicates_only_are_gaps_with_a_reason(size: int, k: int) -> None:
    x = rows()[torch.arange(N) % (N // size)] + 1e-7 * rows(1)
    found = window(x, k=k)
    assert set(found.values) | set(found.gaps) == {*DIMENSIONS, "n_samples"}
    assert all(np.isfinite(value) for value in found.values.values())
    if size <= k:  # else no row has a neighbour that is no copy: the table knows nothing else
        assert found.counts["near_duplicates"] == N
        assert "near-duplicates are not" in found.gaps["id_two_nn"]
        assert "near-duplicates are not" in found.gaps["id_gride_1"]
    if size == k:
        assert "near-duplicates are not" in found.gaps["id_mle"]


def line(n: int = 1000, d: int = 1) -> tuple[Tensor, Tensor]:
    return rows(3, n, d), torch.zeros(n)


@pytest.mark.parametrize(
    "make",
    [digits, curved_manifold, heavy_duplicates, long_tailed, nearly_collapsed, rank_five, line, lambda: line(d=2),
     lambda: (rows(4), None)],
)  # fmt: skip
def test_ordinary_data_is_left_as_it_is(make: Callable[[], tuple[Tensor, Tensor]], monkeypatch) -> None:
    x = make()[0][:2000]
    names = [*DIMENSIONS, "knn_log_density", "knn_entropy", "hubness"]
    found = window(x, names, details=Details())
    assert found.counts["near_duplicates"] == 0
    assert not [note for note in found.notes if note.kind is NoteKind.NEAR_DUPLICATES]
    for module in (dimension, density):
        monkeypatch.setattr(module, "apart", lambda r: r > 0)
    plain = window(x, names, details=Details())
    assert found.values == plain.values
    assert found.standard_errors == plain.standard_errors
    assert found.gaps == plain.gaps
    for name, curve in plain.curves.items():
        torch.testing.assert_close(found.curves[name], curve, rtol=0, atol=0, equal_nan=True)


def test_chance_is_no_near_duplicate_in_few_dimensions_and_too_near_is_one() -> None:
    for seed in range(5):
        x = torch.rand(2000, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        r, _ = knn(x, x, 20, exclude_self=True)
        assert float((r[:, 0] / r[:, -1]).min()) < 1e-3  # and still
        assert not bool(duplicates.near_duplicates(r).any())
    r[0, 0] = 1e-9 * r[0, -1]
    assert duplicates.near_duplicates(r).nonzero().tolist() == [[0, 0]]


def test_tables_of_few_or_no_neighbours() -> None:
    inf = torch.inf
    for r in ([[inf, inf], [inf, inf]], [[0.0, 0.0], [0.0, 0.0]]):
        assert not bool(duplicates.near_duplicates(torch.tensor(r)).any())
    assert duplicates.near_duplicates(torch.zeros(0, 3)).shape == (0, 3)
    assert duplicates.near_duplicates(torch.zeros(4, 0)).shape == (4, 0)
    assert not bool(duplicates.near_duplicates(torch.ones(4, 1)).any())
    few = torch.tensor([[1e-9, 1.0, inf], [1e-9, 1.0, inf], [0.9, 1.0, inf], [0.8, 1.0, inf]], dtype=torch.float64)
    assert duplicates.near_duplicates(few).nonzero().tolist() == [[0, 0], [1, 0]]  # their farthest there is counts


def test_the_ratio_to_targets_leaves_them_out_too() -> None:
    x, source = copies()
    y = rows(5, N, 3)[source]
    metric = GeometryMetric(["id_ratio"])
    metric.update(x, y)
    features, targets = (
        oracles.two_nn(oracles.among_known_copies(t.double().numpy(), source.numpy(), 20)) for t in (x, y)
    )
    assert metric.window().values["id_ratio"] == pytest.approx(features / targets, rel=1e-9)


def test_the_least_dense_rows_have_the_dimension_without_them() -> None:
    x, source = copies()
    x[:40] *= 3  # the loneliest, each with a copy
    x[40:80] *= 3
    found = window(x, ["knn_log_density", "id_mle"], details=Details()).curves
    r = oracles.among_known_copies(x.double().numpy(), source.numpy(), 20)
    for sample, local in zip(found["low_samples"].tolist(), found["low_dimension"].tolist(), strict=True):
        apart = r[sample][r[sample] > 0]
        assert local == pytest.approx((len(apart) - 1) / np.log(apart[-1] / apart[:-1]).sum(), rel=1e-6)


def merged(size: int) -> tuple[dict[str, float], dict[str, int], tuple[str, ...]]:
    """This rank's share of the rows, and what all of them make."""
    rank = 0
    if size > 1:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    x, _ = copies(size=3)
    index = torch.arange(N)[rank::size]
    metric = GeometryMetric([*DIMENSIONS, "knn_log_density"])
    metric.update(x[index], sample_index=index)
    found = metric.window()
    return dict(found.values), dict(found.counts), tuple(map(str, found.notes))


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.slow
def test_the_same_on_several_processes(size: int) -> None:
    values, counts, notes = merged(1)
    assert counts["near_duplicates"] == 120
    for theirs, their_counts, their_notes in on_ranks(size, merged, size):
        assert theirs == pytest.approx(values, rel=1e-9)
        assert their_counts == counts
        assert their_notes == notes


def test_estimates_say_how_many_rows_count() -> None:
    x, _ = copies()
    r, _ = knn(x, x, 20, exclude_self=True)
    estimate: Estimate = dimension.id_two_nn(r)
    assert estimate.n == N - 80
    assert dimension.id_gride_2(r).n == dimension.id_mle(r).n == N
