"""Spectra of few rows and of wide features: from the rows instead of a d×d scatter, with the same numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_featgeo import ConfigurationError, GeometryMetric, Neighbors
from lightning_featgeo.metrics.functional.neural_collapse import ClassDeviations, nc1
from lightning_featgeo.metrics.plan import AUTO_SPECTRUM_ROWS, spectrum_limit
from tests._helpers.typed import unchecked

SPECTRAL = [
    "effective_rank", "rankme", "participation_ratio", "stable_rank", "top_eigenvalue_share", "numerical_rank",
    "alpha_req", "alpha_req_r2", "spectral_spread", "outlier_dims", "nc1",
]  # fmt: skip


def rows(n: int, d: int, seed: int = 0, mean: float = 3.0) -> torch.Tensor:
    torch.manual_seed(seed)
    decay = torch.arange(1, d + 1).float().pow(-0.7)
    return (torch.randn(n, d) + torch.randn(7, d).repeat(math.ceil(n / 7), 1)[:n]) * decay + mean


def oracle(x: torch.Tensor) -> dict[str, float]:
    """By NumPy's singular values of the rows, in float64."""
    a = x.double().numpy()
    centred = np.linalg.svd(a - a.mean(axis=0), compute_uv=False)[: min(len(a) - 1, a.shape[1])]
    raw = np.linalg.svd(a, compute_uv=False)
    p, q = centred / centred.sum(), raw / raw.sum() + 1e-7
    power = a.var(axis=0) + a.mean(axis=0) ** 2
    return {
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "rankme": float(np.exp(-(q * np.log(q)).sum())),
        "participation_ratio": float((centred**2).sum() ** 2 / (centred**4).sum()),
        "top_eigenvalue_share": float(centred[0] ** 2 / (centred**2).sum()),
        "outlier_dims": float(np.sqrt(power.max() / power.mean())),
    }


def window(x: torch.Tensor, signals: list[str], batch: int = 32, **settings: Any) -> tuple[Any, Any]:
    metric = GeometryMetric(signals, num_classes=7, **settings)
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        metric.update(part, torch.arange(start, start + len(part)) % 7)
    return metric, metric.window()


def test_fewer_rows_than_dimensions_give_the_scatters_numbers_from_the_rows() -> None:
    x = rows(60, 200)
    _, by_rows = window(x, [*SPECTRAL, "id_two_nn"])  # the bank is there, and holds every row
    _, by_scatter = window(x, SPECTRAL)
    for name in SPECTRAL:
        assert by_rows.values[name] == pytest.approx(by_scatter.values[name], rel=1e-9), name
    for name, value in oracle(x).items():
        assert by_rows.values[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("limit", [80, 2000])
def test_wide_features_have_all_spectra_of_all_rows_while_these_are_few(limit: int) -> None:
    x = rows(80, 300)
    metric, found = window(x, SPECTRAL, spectrum_rows=limit)
    _, exact = window(x, SPECTRAL, spectrum_rows="all")
    assert set(found.gaps) == set(exact.gaps)
    for name in SPECTRAL:
        assert found.values[name] == pytest.approx(exact.values[name], rel=1e-9), name
    assert "spectrum_rows" not in found.counts
    assert not len(metric.accumulators["moments"].scatter)


@pytest.mark.parametrize("d", [40, 150])
def test_of_more_rows_spectra_are_of_the_banks_first_ones_and_say_so(d: int) -> None:
    x = rows(500, d)
    metric, found = window(x, [*SPECTRAL, "id_two_nn"], spectrum_rows=100, neighbors=Neighbors(bank_size=300))
    bank = metric.accumulators["bank"].compute()
    assert len(bank.rows) == 300
    for name, value in oracle(bank.rows[:100]).items():
        if name != "outlier_dims":  # its mean is that of all rows
            assert found.values[name] == pytest.approx(value, rel=1e-6), name
    assert found.counts["spectrum_rows"] == 100
    assert found.ceilings["effective_rank"] == min(99, d)
    assert len(metric._statistics().eigenvalues) == min(99, d)
    (note,) = (note for note in found.notes if "drawn from 500" in note)
    assert f"100 rows for {d} dimensions" in note
    assert "14%" in note  # √(2/100)


def test_a_within_scatter_told_by_rows_is_that_of_all_where_these_are_all() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(90, 5) + 100, torch.arange(90) % 3
    means = torch.stack([x[labels == c].double().mean(dim=0) for c in range(3)])
    off = x.double() - means[labels]
    counts = torch.full((3,), 30)
    told = ClassDeviations(x, labels, means, 90)
    assert float(nc1(means, counts, told)) == pytest.approx(float(nc1(means, counts, off.T @ off)), rel=1e-12)
    half = ClassDeviations(x[:45], labels[:45], means, 90)  # so many stand for all
    assert float(nc1(means, counts, half)) == pytest.approx(float(nc1(means, counts, told)), rel=0.5)


def test_a_sample_of_rows_misses_the_truth_by_what_the_note_says() -> None:
    """The largest eigenvalue of 100 among 3,000 rows, 20 draws: off by about √(2/100), not by ten times that."""
    x = rows(3000, 30, mean=0.0)
    _, exact = window(x, ["top_eigenvalue_share"], batch=500, spectrum_rows="all")
    misses = []
    for seed in range(20):
        _, found = window(
            x, ["top_eigenvalue_share"], batch=500, spectrum_rows=100, neighbors=Neighbors(bank_size=100, seed=seed)
        )
        misses.append(found.values["top_eigenvalue_share"] / exact.values["top_eigenvalue_share"] - 1)
    assert np.sqrt(np.mean(np.square(misses))) < 2 * math.sqrt(2 / 100)


def test_wide_features_cost_no_scatter_by_default() -> None:
    d = 9216  # a usual small network: 64 × 12 × 12 maps, flattened
    metric, found = window(rows(64, d), ["effective_rank", "nc1", "knn_accuracy", "cdnv"])
    assert metric.memory_bytes < 80 * 2**20
    assert metric.closing_bytes < 400 * 2**20  # if the bank were full
    assert not found.gaps
    assert found.values["effective_rank"] == pytest.approx(oracle(rows(64, d))["effective_rank"], rel=1e-6)
    assert spectrum_limit("auto", d) == AUTO_SPECTRUM_ROWS
    assert spectrum_limit("auto", 4096) is None
    assert spectrum_limit("all", d) is None


def test_what_needs_the_whole_covariance_is_a_gap_with_the_remedy() -> None:
    signals = ["gaussian_log_density", "chi2_fraction", "effective_rank"]
    reference = GeometryMetric(signals, has_reference=False, serve=signals, spectrum_rows=50)
    metric = GeometryMetric(signals, has_reference=True, spectrum_rows=50)
    for one, seed in ((reference, 1), (metric, 2)):
        one.update(rows(120, 10, seed))
    found = metric.window(reference)
    assert set(found.values) == {"effective_rank", "n_samples"}
    assert 'spectrum_rows="all"' in found.gaps["gaussian_log_density"]


def test_what_it_may_be() -> None:
    wrong: Any
    for wrong in (1, 0, -3, 2.5, "most", True, None):
        with unchecked(), pytest.raises(ConfigurationError, match='choose "auto", "all"'):
            GeometryMetric(["effective_rank"], spectrum_rows=wrong)


def test_parts_with_other_spectra_are_not_merged() -> None:
    parts = [GeometryMetric(["effective_rank"], spectrum_rows=rows_) for rows_ in (50, 60)]
    for part in parts:
        part.update(torch.randn(20, 4))
    with pytest.raises(ValueError, match="cannot merge"):
        parts[0].merge_state(parts[1])


def test_copies_of_a_dimension_take_no_second_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(300, 20, dtype=torch.float64).repeat(1, 2)  # half of the directions are missing, and none is lost
    monkeypatch.setattr(torch.linalg, "svdvals", lambda rows: 1 / 0)
    _, found = window(x, ["rankme", "stable_rank"])
    s = np.linalg.svd(x.numpy(), compute_uv=False)[:20]
    p = s / s.sum() + 1e-7
    assert found.values["rankme"] == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(600, 24), (40, 64)])
@pytest.mark.parametrize("spread", [1e-4, 1e-9])
def test_uncentred_ranks_near_total_collapse_keep_their_tail(n: int, d: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1 + spread * torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 3] = 0.0  # a unit that is dead
    _, found = window(x, ["rankme", "stable_rank"])
    s = np.linalg.svd(x.numpy(), compute_uv=False)
    p = s / s.sum() + 1e-7
    assert found.values["rankme"] == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-7)
