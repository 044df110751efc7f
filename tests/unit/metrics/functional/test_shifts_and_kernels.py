"""Which units have shifted against a reference, groups in a table, and bandwidths at which densities mean something."""

import pytest
import torch

from lightning_featgeo import GeometryMetric
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.functional.diffusion import distances_of
from lightning_featgeo.metrics.functional.kde import kde_bandwidth
from lightning_featgeo.metrics.functional.shifts import unit_shifts
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.sinks import tables
from tests._helpers.oracles import others


def correlated(seed: int, n: int = 3000) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    mixed = torch.randn(20, 20, generator=g) / 4 + torch.eye(20)
    return torch.randn(n, 20, generator=torch.Generator().manual_seed(seed)) @ mixed


@pytest.mark.parametrize("unit", [3, 7, 11])
def test_the_unit_that_was_shifted_comes_first(unit: int) -> None:
    a, b = correlated(1), correlated(2)
    b[:, unit] += 2.0
    policy = Policy(details=Details())
    reference, metric = (GeometryMetric(["conditional_shift"], has_reference=True, policy=policy) for _ in (0, 1))
    reference.update(a)
    metric.update(b)
    window = metric.window(reference=reference)
    truth = others.conditional_shift(a.double().numpy(), b.double().numpy())
    assert window.values["conditional_shift"] == pytest.approx(truth, rel=1e-9)
    table = tables.shifted_units(window.curves)
    assert table is not None
    assert table.rows[0][1] == unit
    assert table.rows[0][2] > 1.5 * table.rows[1][2]
    assert table.rows[0][3] == pytest.approx(2 / float(a[:, unit].std()), rel=0.1)
    assert tables.shifted_units({}) is None


def test_nothing_has_shifted_where_moments_are_the_same() -> None:
    x = correlated(1).double()
    mean, spread = x.mean(dim=0), torch.cov(x.T)
    assert float(unit_shifts(mean, spread, mean, spread).max()) == pytest.approx(0, abs=1e-12)
    with pytest.raises(Undefined, match="no spread"):
        unit_shifts(mean, spread * 0, mean, spread * 0)


def test_groups_have_a_table_the_worst_first() -> None:
    x, y, group = correlated(1, 400), torch.arange(400) % 4, torch.arange(400) // 4 % 5
    x = x + 4 * torch.nn.functional.one_hot(y, 20)
    x[group == 2] += 3 * torch.randn(80, 20, generator=torch.Generator().manual_seed(5))  # one site's noise
    metric = GeometryMetric(["macro_std"], num_classes=4, policy=Policy(details=Details()))
    metric.update(x, y, groups=torch.where(group == 4, -1, group))
    table = tables.group_table(metric.window().curves)
    assert table is not None
    assert table.rows[0][0] == 2
    assert [row[1] for row in table.rows] == [80] * 4
    assert table.rows[0][2] < min(row[2] for row in table.rows[1:])
    assert tables.group_table({}) is None


@pytest.mark.parametrize("d", [2, 10, 100])
def test_the_bandwidth_is_where_ten_rows_carry_a_density(d: int) -> None:
    x = torch.randn(600, d, generator=torch.Generator().manual_seed(d))
    found = float(kde_bandwidth(distances_of(x)))
    assert found == pytest.approx(others.kde_bandwidth(x.double().numpy()), rel=1e-6)
    assert found == pytest.approx(float(kde_bandwidth(distances_of(50 * x + 1000))), rel=1e-3)  # of any scale and place


def test_a_bandwidth_needs_rows_that_differ() -> None:
    with pytest.raises(Undefined, match="needs 22 rows"):
        kde_bandwidth(distances_of(torch.randn(21, 4)))
    with pytest.raises(Undefined, match="half of the rows are the same"):
        kde_bandwidth(distances_of(torch.ones(50, 4)))
