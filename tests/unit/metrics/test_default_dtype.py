"""``torch.set_default_dtype`` is the user's: it changes no number of ours. Every signal, its error, gap and curve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.adapters import FeatureWatch
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.results import WindowResult
from lightning_featgeo.metrics.settings import Policy
from tests._helpers.typed import unchecked

N, D, C = 300, 60, 9
ROWS = torch.tensor([90, 70, 50, 25, 20, 15, 12, 10, 8])  # a class


@pytest.fixture(autouse=True)
def _float32_again() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


_OTHERS = {"targets", "mixtures", "places", "layers", "anchor"}  # that other metrics have


def every_signal() -> dict[str, WindowResult]:
    """Two windows of a metric of classes, views, groups and a reference, and one of targets."""
    y, group = torch.repeat_interleave(torch.arange(C), ROWS), torch.arange(N) % 3
    x = 0.5 * rows(0, C, D)[y] + rows(1, N, D)
    x[:5] = x[5:10] + 1e-6 * rows(2, 5, D)
    head = nn.Linear(D, C, dtype=torch.float32)
    head.load_state_dict({"weight": rows(3, C, D), "bias": rows(4, C)})
    asked: dict[str, Any] = {"num_classes": C, "neighbors": Neighbors(k=17, knn_k=30), "head": head}
    policy = Policy(strict=True, details=Details(rows=20))
    unlabelled = [name for name, row in CATALOG.items() if not row.requires & _OTHERS]
    reference = GeometryMetric(unlabelled, **asked)
    metric = GeometryMetric(unlabelled, **asked, policy=policy)
    index = torch.arange(N)
    for view in (0, 1):
        reference.update(1.1 * x + 0.1 * rows(5 + view, N, D), y, index, view, groups=group)
    for window in (0, 1):
        metric.reset()
        for part in index.split(64):
            for view in (0, 1):
                seen = x + 0.3 * rows(7 + view + 2 * window, N, D) * (torch.arange(N) > 9)[:, None]
                metric.update(seen[part], y[part], part, view, groups=group[part])
        found = metric.window(reference=reference)
        metric.last_was_best()
    targets, others = (GeometryMetric(["regression", "linear_probe_r2"], policy=policy) for _ in range(2))
    tokens = GeometryMetric("positions", policy=policy)
    tokens.update(x, sample_index=index // 5)
    targets.update(x, x[:, :2] + 0.1 * rows(11, N, 2), index)
    others.update(x + rows(12, N, D), x[:, :2] + 0.1 * rows(13, N, 2), index)
    mixed = GeometryMetric("mixed", head=head, policy=policy)
    share = rows(14, N, 1).sigmoid()
    classes = torch.eye(C, dtype=torch.float32)
    mixed.update(x, mixtures=share * classes[y] + (1 - share) * classes[y.flip(0)])
    return {
        "classes": found, "targets": targets.window(reference=others), "tokens": tokens.window(),
        "mixed": mixed.window(),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.slow
def test_every_signal_is_the_same_under_every_default(dtype: torch.dtype) -> None:
    with unchecked():
        expected = every_signal()
        torch.set_default_dtype(dtype)
        found = every_signal()
    of_layers = {name for name, row in CATALOG.items() if row.requires & {"layers", "anchor"}}  # of two metrics
    assert {name for part in expected.values() for name in part.values} == set(CATALOG) - of_layers
    assert expected["classes"].counts["near_duplicates"] == 10
    for kind, theirs in expected.items():
        ours = found[kind]
        assert ours.values == theirs.values
        assert ours.standard_errors == theirs.standard_errors
        assert ours.ceilings == theirs.ceilings
        assert ours.gaps == theirs.gaps
        assert ours.counts == theirs.counts
        assert ours.curves.keys() == theirs.curves.keys()
        for name, curve in theirs.curves.items():
            assert ours.curves[name].dtype == curve.dtype, name
            torch.testing.assert_close(ours.curves[name], curve, rtol=0, atol=0, equal_nan=True)


def watched() -> dict[str, float]:
    """Pooled tokens of which some are masked, through the whole pipeline."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, dtype=torch.float32), nn.ReLU(), nn.Linear(16, 3, dtype=torch.float32))
    watch = FeatureWatch(model, signals=["effective_rank", "id_two_nn", "nc1"], pool="mean", on_error="raise")
    watch.open("val")
    for i in range(4):
        batch = {"x": rows(i, 50, 6, 8), "labels": torch.arange(50) % 3, "attention_mask": rows(9 + i, 50, 6) > -0.5}
        with torch.no_grad(), watch.batch(batch):
            model(batch["x"])
    return watch.close()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_pipeline_is_the_same_under_every_default(dtype: torch.dtype) -> None:
    expected = watched()
    assert len(expected) == 3
    torch.set_default_dtype(dtype)
    assert watched() == expected
