"""Leading directions of rows of low rank: none of them is round-off, whatever the rows' type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from lightning_featgeo import GeometryMetric


def drift(a: Tensor, b: Tensor) -> float:
    metric = GeometryMetric(["subspace_drift"])
    for x in (a, b):
        metric.reset()
        metric.update(x, sample_index=torch.arange(len(x)))
        found = metric.window()
    return float(found.values["subspace_drift"])


def planes(rank: int, n: int = 300, d: int = 40) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(rank)
    shape = {"generator": g, "dtype": torch.float64}
    rows = [torch.randn(n, rank, **shape) for _ in range(2)]
    maps = [torch.randn(rank, d, **shape) for _ in range(2)]
    return rows[0] @ maps[0], rows[1] @ maps[0], rows[1] @ maps[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_same_plane_has_not_moved_and_another_one_has(rank: int, dtype: torch.dtype) -> None:
    one, same, other = (x.to(dtype) for x in planes(rank))
    assert drift(one, same) == pytest.approx(0, abs=1e-6)
    angles = subspace_angles(
        *(np.linalg.svd((x - x.mean(0)).numpy())[2][:rank].T for x in (one.double(), other.double()))
    )
    assert drift(one, other) == pytest.approx(float(np.sin(angles).mean()), rel=1e-5)
