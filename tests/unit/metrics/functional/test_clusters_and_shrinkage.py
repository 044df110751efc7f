"""Clusters without labels, collision entropy and a shrunk covariance: planted cases, and what is said without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from lightning_featgeo import GeometryMetric, _compat
from lightning_featgeo.metrics.functional.shrinkage import shrunk


def blobs(count: int, n: int = 600, d: int = 20, apart: float = 8.0) -> Tensor:
    g = torch.Generator().manual_seed(count)
    return apart * torch.randn(count, d, generator=g)[torch.arange(n) % count] + torch.randn(n, d, generator=g)


def values(x: Tensor, *signals: str) -> dict[str, float]:
    metric = GeometryMetric(list(signals))
    metric.update(x)
    return dict(metric.window().values)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_planted_clusters_are_counted(count: int) -> None:
    found = values(blobs(count), "cluster_count", "cluster_noise")
    assert found["cluster_count"] == count
    assert found["cluster_noise"] < 0.1


def test_one_cloud_is_no_cluster_and_copies_are_one() -> None:
    assert values(blobs(1), "cluster_count")["cluster_count"] == 0
    assert values(torch.ones(100, 4), "cluster_noise")["cluster_noise"] in (0, 1)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compat, "is_installed", lambda *_: False)
    metric = GeometryMetric(["cluster_count", "dse"])
    metric.update(blobs(3))
    found = metric.window()
    assert "pip install scikit-learn" in str(found.gaps["cluster_count"])
    assert found.values["dse"] > 0


def test_collision_entropy_is_below_shannons_and_counts_states() -> None:
    x = blobs(4, n=800, apart=200.0)
    found = values(x, "dse", "dse_collision")
    assert 0 < found["dse_collision"] <= found["dse"]
    assert values(torch.ones(50, 3), "dse_collision")["dse_collision"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(40, 100), (300, 30), (2000, 10)])
def test_the_covariance_is_shrunk_as_scikit_learn_does(n: int, d: int) -> None:
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.linspace(0.1, 3, d) + 5
    theirs = LedoitWolf().fit(x.numpy())
    mean, covariance = shrunk(x)
    np.testing.assert_allclose(mean.numpy(), theirs.location_, rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), theirs.covariance_, rtol=1e-10, atol=1e-12)


def test_it_has_a_value_where_the_covariance_is_singular() -> None:
    g = torch.Generator().manual_seed(0)
    reference, metric = (GeometryMetric("ood", has_reference=True, num_classes=2) for _ in range(2))
    reference.update(torch.randn(60, 100, generator=g), torch.arange(60) % 2)
    metric.update(3 * torch.randn(80, 100, generator=g), torch.arange(80) % 2)
    found = metric.window(reference=reference)
    assert found.values["gaussian_auroc_shrunk"] > 0.95
    assert "gaussian_auroc" in found.gaps
