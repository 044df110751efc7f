"""At which bandwidth a kernel density of these rows is one of many rows, and no more of the nearest one.

Biroli & Mézard (2023), "Kernel Density Estimators in Large Dimensions" (arXiv 2308.06047): with few rows for the
dimensions there is a bandwidth below which a single row carries the sum, and the estimate says only how near it is.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor

KDE_ROWS = 512  # that are compared with each other
CARRIED_BY = 10  # rows that a density should rest on
_WIDEST, _NARROWEST = 4.0, 2.0**-12  # times the median distance
_HALVINGS = 45


def kde_bandwidth(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Smallest bandwidth of a Gaussian kernel, over the median distance of two rows, at which densities mean something.

    That is: at which half of the rows have a density that rests on 10 others, (Σw)²/Σw² of the kernel's terms; in
    (0, 4]. With narrower kernels each row sees its nearest ones only. Of the bank's first 512 rows.

    Raises:
        Undefined: with fewer than 22 rows, or if half of the distances are 0.
    """
    x = rows[:KDE_ROWS].double()
    n = len(x)
    if n < 2 * CARRIED_BY + 2:
        raise Undefined(f"needs {2 * CARRIED_BY + 2} rows, got {n}")
    x = x - x.mean(dim=0)
    distances = torch.pdist(x)
    middle = distances.sort().values[(len(distances) - 1) // 2]  # a median is no deterministic op on a GPU
    if not 0 < middle < torch.inf:
        raise Undefined("half of the rows are the same, or not finite: their distances give no bandwidth")
    square = torch.zeros(n, n, dtype=torch.float64, device=x.device)
    upper = torch.triu_indices(n, n, 1, device=x.device)
    square[upper[0], upper[1]] = (distances / middle).square()
    square = square + square.T
    square.fill_diagonal_(torch.inf)
    square = square - square.amin(dim=1, keepdim=True)  # the nearest row has weight 1: nothing underflows to 0/0
    low, high = torch.tensor(_NARROWEST).double().log(), torch.tensor(_WIDEST).double().log()
    if _carried_by(square, low) >= CARRIED_BY:
        return low.exp()
    for _ in range(_HALVINGS):
        at = (low + high) / 2
        low, high = (low, at) if _carried_by(square, at) >= CARRIED_BY else (at, high)
    return high.exp()


def _carried_by(square: Tensor, bandwidth: Tensor) -> float:
    """Median over rows of how many others carry its density; ``bandwidth``: its logarithm."""
    w = torch.exp(-square / (2 * (2 * bandwidth).exp()))
    return float((w.sum(dim=1).square() / w.square().sum(dim=1)).quantile(0.5))
