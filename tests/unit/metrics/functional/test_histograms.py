"""Histograms of units: SciPy's earth mover's distance, any split of the rows, what is shown of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.accumulators.histograms import (
    BINS,
    HistogramAccumulator,
    Histograms,
    bin_of,
    edges,
)
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.functional.histograms import quantiles, unit_distances, unit_drift, unit_moves
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.rows.rows import build_rows
from lightning_featgeo.sinks import pictures, tables

SIGNALS = ["unit_drift", "unit_drift_first"]


def rows(seed: int, n: int = 1200, d: int = 24) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.logspace(-2, 2, d, dtype=torch.float64)


def histograms(*parts: Tensor) -> Histograms:
    kept = HistogramAccumulator(parts[0].shape[1])
    for x in parts:
        kept.update(build_rows(x, None, None, None, None))
    return kept.compute()


def scipys(a: Tensor, b: Tensor) -> np.ndarray:
    return np.array([wasserstein_distance(x, y) for x, y in zip(a.T.numpy(), b.T.numpy(), strict=True)])


SAME_FORM = {  # the two distribution functions don't cross
    "shifted": lambda: (rows(0), rows(0) + 0.3),
    "far shifted": lambda: (rows(0), rows(0) + 1e4),
    "rectified": lambda: (rows(0).relu(), (rows(0) + 0.1).relu()),
    "of other sizes": lambda: (rows(0).abs(), 1.5 * torch.cat([rows(0), rows(0)]).abs()),
}


@pytest.mark.parametrize("case", SAME_FORM)
def test_it_is_scipys_distance_where_distributions_do_not_cross(case: str) -> None:
    a, b = SAME_FORM[case]()
    np.testing.assert_allclose(unit_distances(histograms(a), histograms(b)).numpy(), scipys(a, b), rtol=1e-9)


CROSSING = {
    "independent": lambda: (rows(0), rows(1)),
    "scaled": lambda: (rows(0), 1.3 * rows(1)),
    "another shape": lambda: (rows(0), rows(1).sign() * rows(1).abs().sqrt()),
    "heavy tails": lambda: (rows(0), rows(1) ** 3),
}


@pytest.mark.parametrize("case", CROSSING)
def test_it_is_never_larger_and_a_little_smaller_where_they_cross(case: str) -> None:
    a, b = CROSSING[case]()
    ours, theirs = unit_distances(histograms(a), histograms(b)).numpy(), scipys(a, b)
    assert (ours <= theirs * (1 + 1e-9)).all()
    spread = torch.cat([a, b]).std(dim=0).numpy()
    assert (theirs - ours < 0.02 * spread).all()


def test_bins_hold_what_lies_between_their_edges() -> None:
    at = edges()
    values = torch.cat(
        [at, at.nextafter(torch.tensor(torch.inf)), rows(3).flatten(), torch.tensor([1e30, -1e30, 1e-30])]
    )
    values = torch.cat([values.float(), -values.float()])
    low, high = torch.cat([at.new_tensor([-torch.inf]), at]), torch.cat([at, at.new_tensor([torch.inf])])
    found = bin_of(values)
    assert len(at) == BINS - 1
    assert bool((at.diff() > 0).all())
    assert bool(((values >= low[found]) & (values <= high[found])).all())
    assert bool(torch.isin(torch.arange(BINS), found).all())
    assert torch.equal(bin_of(values.half().float()), bin_of(values.half()))


def test_parts_of_the_rows_make_the_same_histograms() -> None:
    x = rows(0)
    whole, parts = histograms(x), histograms(*x.split([1, 700, 499]))
    assert torch.equal(whole.counts, parts.counts)
    torch.testing.assert_close(whole.sums, parts.sums, rtol=1e-12, atol=1e-12)
    assert torch.equal(whole.counts.sum(dim=1), torch.full((24,), 1200.0).double())
    torch.testing.assert_close(whole.squares, x.square().sum(dim=0))


def test_windows_are_compared_over_their_spread() -> None:
    metric = GeometryMetric([*SIGNALS, "unit_shift"], has_reference=True)
    seen = [rows(seed, 400) * (1 + 0.3 * seed) for seed in range(3)]
    reference = GeometryMetric(["effective_rank"], serve=["unit_shift"])
    reference.update(seen[0] + 1)
    found = []
    for x in seen:
        metric.reset()
        metric.update(x.clone())
        found.append(metric.window(reference=reference))
    assert found[0].gaps.keys() == set(SIGNALS)
    assert found[1].values["unit_drift"] == found[1].values["unit_drift_first"]
    for name, earlier in (("unit_drift", seen[1]), ("unit_drift_first", seen[0]), ("unit_shift", seen[0] + 1)):
        spread = torch.cat([seen[2], earlier]).std(dim=0, correction=0).numpy()
        assert found[2].values[name] == pytest.approx((scipys(seen[2], earlier) / spread).mean(), rel=0.02)
    again = GeometryMetric(SIGNALS)
    again.update(seen[2])  # as after a resume
    again.merge_state({**metric.checkpoint(), "settings": again.checkpoint()["settings"]})
    assert again.earlier.histograms.keys() == {"previous", "first"}


def test_it_is_two_at_most_and_units_that_never_vary_count_nothing() -> None:
    one, other = torch.zeros(50, 3), torch.zeros(70, 3)
    assert float(unit_distances(histograms(one), histograms(other)).sum()) == 0
    other[:, 0] += 5.0
    moves = unit_moves(histograms(one), histograms(other))
    assert float(moves[0]) == pytest.approx(2)
    assert bool(moves[1:].isnan().all())
    assert float(unit_drift(moves)) == pytest.approx(2)
    metric = GeometryMetric(SIGNALS)
    for _ in range(2):
        metric.reset()
        metric.update(torch.full((9, 3), 0.1))
        gaps = metric.window().gaps
    assert "no unit varies" in str(gaps["unit_drift"])


def test_quantiles_are_within_their_bins() -> None:
    x = rows(0)
    ours = quantiles(histograms(x), (0.01, 0.5, 0.99)).numpy()
    theirs = np.quantile(x.numpy(), (0.01, 0.5, 0.99), axis=0).T
    spread = x.std(dim=0).numpy()[:, None]
    assert (np.abs(ours - theirs)[:18] < 0.2 * spread[:18]).all()  # the last ones reach the bin from 128 on
    far = torch.cat([300 * rows(1, 4000, 1) / 0.01, 1000 + 10 * rows(2, 4000, 1) / 0.01], dim=1)
    ours = quantiles(histograms(far), (0.01, 0.99)).numpy()
    np.testing.assert_allclose(ours, np.quantile(far.numpy(), (0.01, 0.99), axis=0).T, rtol=0.1)
    constant = quantiles(histograms(torch.full((7, 2), 3.25)), (0.0, 0.5, 1.0))
    torch.testing.assert_close(constant, torch.full((2, 3), 3.25).double())


def test_a_table_has_the_units_that_moved_most_and_a_picture_all_of_them() -> None:
    metric, x = GeometryMetric(SIGNALS, policy=Policy(details=Details())), rows(0, 300, 700)
    metric.update(x)
    first = tables.unit_table(metric.window().curves)  # those that vary least
    assert first is not None
    assert first.columns[:3] == ["unit", "mean", "spread"]
    assert first.rows[0][2] <= first.rows[-1][2]
    for window in range(2):
        metric.reset()
        metric.update(x + torch.nn.functional.one_hot(torch.tensor(123), 700) * 1.0 * window)
        result = metric.window()
    table = tables.unit_table(result.curves)
    assert table is not None
    assert table.columns[:3] == ["unit", "moved since the window before", "since the first"]
    assert table.rows[0][0] == 123
    assert len(table.rows) == 20
    chart = tables.unit_picture(result.curves, "val", 1.0)
    assert chart is not None
    assert chart.shares.shape == (350, BINS)
    torch.testing.assert_close(chart.shares.sum(dim=1), torch.ones(350))
    assert "700 units from low to high values, 2 a line" in chart.y
    assert pictures.drawn(chart).shape[2] == 3
    assert tables.unit_table({}) is None
    assert tables.unit_picture({}, "val", 1.0) is None


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    metric = GeometryMetric(["effective_rank"])
    metric.update(rows(0))
    assert "histograms" not in metric.accumulators
    with_reference = GeometryMetric(["unit_shift"], has_reference=True)
    with_reference.update(rows(0))
    alone = with_reference.memory_bytes
    over_time = GeometryMetric(SIGNALS)
    over_time.update(rows(0))
    assert over_time.memory_bytes == alone + 2 * 1032 * 24
