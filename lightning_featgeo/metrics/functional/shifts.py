"""Where a window differs from its reference: unit by unit, given all the others.

Kulinski, Bagchi & Inouye (2020), "Feature Shift Detection: Localizing Which Features Have Shifted via Conditional
Distribution Tests" (arXiv 2107.06929): two densities are compared by the gradients of their logarithms,
ψ(x) = ∇ ln p(x), of which component j depends on what unit j does given the others. Here both are Gaussian.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor

RIDGE = 1e-3  # of the mean variance, added to both covariances


def unit_shifts(
    mean: Float[Tensor, " d"],
    covariance: Float[Tensor, "d d"],
    reference_mean: Float[Tensor, " d"],
    reference_covariance: Float[Tensor, "d d"],
) -> Float[Tensor, " d"]:
    """E[(ψ_p − ψ_q)_j²] over what that gradient's own variance is, ≥ 0: 0 where unit j does what it did.

    The average over rows of both sides; 1e-3 of the mean variance is added to both covariances. A unit whose mean alone
    has shifted has the largest value; those that depend on a shifted one have some of it.

    Raises:
        Undefined: without any spread.
    """
    d = len(mean)
    size = (covariance.diagonal().sum() + reference_covariance.diagonal().sum()) / (2 * d)
    if not size > 0:
        raise Undefined("the features have no spread")
    ridge = RIDGE * size * torch.eye(d, dtype=torch.float64, device=mean.device)
    precisions = [torch.cholesky_inverse(torch.linalg.cholesky(one.double() + ridge)) for one in
                  (covariance, reference_covariance)]  # fmt: skip
    apart, gap = precisions[0] - precisions[1], (mean - reference_mean).double()
    between = (precisions[0] + precisions[1]) @ gap / 2
    total = torch.zeros(d, dtype=torch.float64, device=mean.device)
    for spread, side in ((covariance, 0.5), (reference_covariance, -0.5)):
        total += (between - side * (apart @ gap)).square() + ((apart @ spread.double()) * apart).sum(dim=1)
    return total / (precisions[0].diagonal() + precisions[1].diagonal())


def conditional_shift(unit_shift_scores: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Mean over units of how far each one's behaviour, given the others, has shifted against the reference, ≥ 0.

    0 for the same moments. Which units it is says the table of shifted units, the worst first.

    Raises:
        Undefined: without a reference, or without any spread.
    """
    return unit_shift_scores.mean()
