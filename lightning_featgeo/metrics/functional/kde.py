"""At which bandwidth a kernel density of these rows is one of many rows, and no more of the nearest one.

Biroli & Mézard (2023), "Kernel Density Estimators in Large Dimensions" (arXiv 2308.06047): with few rows for the
dimensions there is a bandwidth below which a single row carries the sum, and the estimate says only how near it is.
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.diffusion import Diffusion
from lightning_featgeo.metrics.functional.ranks import lower_median
from lightning_featgeo.metrics.functional.roots import root
from lightning_featgeo.types import Float, Tensor

KDE_ROWS = 512  # that are compared with each other
CARRIED_BY = 10  # rows that a density should rest on
_WIDEST, _NARROWEST = 4.0, 2.0**-12  # times the median distance
_TOLERANCE = 1e-14  # of the bandwidth, as a ratio


def kde_bandwidth(diffusion: Diffusion) -> Float[Tensor, ""]:
    """Smallest bandwidth of a Gaussian kernel, over the median distance of two rows, at which densities mean something.

    That is: at which half of the rows have a density that rests on 10 others, (Σw)²/Σw² of the kernel's terms; in
    (0, 4]. With narrower kernels each row sees its nearest ones only. Of the bank's first 512 rows.

    Raises:
        Undefined: with fewer than 22 rows, or if half of the distances are 0.
    """
    squares = diffusion.squares[:KDE_ROWS, :KDE_ROWS]
    n = len(squares)
    if n < 2 * CARRIED_BY + 2:
        raise Undefined(f"needs {2 * CARRIED_BY + 2} rows, got {n}")
    middle = lower_median(squares[torch.ones_like(squares, dtype=torch.bool).triu(1)])
    if not 0 < middle < torch.inf:
        raise Undefined("half of the rows are the same, or not finite: their distances give no bandwidth")
    square = squares / middle
    square.fill_diagonal_(torch.inf)
    square = square - square.amin(dim=1, keepdim=True)  # the nearest row has weight 1: nothing underflows to 0/0
    low, high = math.log(_NARROWEST), math.log(_WIDEST)
    if _excess(square, low) >= 0:
        high = low
    elif _excess(square, high) > 0:
        high = root(lambda at: _excess(square, at), low, high, _TOLERANCE)
    return torch.tensor(high, dtype=torch.float64).exp()


def _excess(square: Tensor, bandwidth: float) -> float:
    """Logarithm of how many others carry a row's density, median over rows, over how many should.

    ``bandwidth``: its logarithm.
    """
    w = torch.exp(square * (-0.5 * math.exp(-2 * bandwidth)))
    return math.log(float((w.sum(dim=1).square() / w.square().sum(dim=1)).quantile(0.5)) / CARRIED_BY)
