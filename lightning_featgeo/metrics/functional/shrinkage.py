"""A covariance that is shrunk towards the mean variance, for references of few rows.

Ledoit & Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices".
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc, mahalanobis_distances
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor


def shrunk(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean of rows, and (1 − s)·Σ + s·tr(Σ)/d·I with Ledoit and Wolf's share s of their covariance Σ (over n).

    Raises:
        Undefined: without rows, or without spread.
    """
    n, d = rows.shape
    if n < 2:
        raise Undefined(f"needs 2 rows in the reference, got {n}")
    mean = rows.double().mean(dim=0)
    x = rows.double() - mean
    covariance = x.T @ x / n
    size = covariance.diagonal().mean()
    if not size > 0:
        raise Undefined("the reference has no spread")
    spread = covariance.square().sum()
    noise, apart = (x.square().sum(dim=1).square().mean() - spread) / (d * n), spread / d - size.square()
    share = float((noise / apart).clamp(0, 1)) if apart > 0 else 1.0
    eye = torch.eye(d, dtype=torch.float64, device=rows.device)
    return mean, (1 - share) * covariance + share * size * eye


def gaussian_auroc_shrunk(rows: Float[Tensor, "n d"], reference_rows: Float[Tensor, "m d"]) -> Estimate:
    """``gaussian_auroc`` with the covariance of the reference's bank, shrunk as Ledoit and Wolf do: also of fewer rows
    than dimensions.

    Returns:
        The area, its standard error after Hanley & McNeil (1982), and the number of rows.

    Raises:
        Undefined: without a reference of two rows, or if it has no spread.
    """
    mean, covariance = shrunk(reference_rows)
    inside, outside = (mahalanobis_distances(one, mean, covariance) for one in (reference_rows, rows))
    return auroc(inside, outside)
