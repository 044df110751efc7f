"""Intrinsic dimension from neighbour distances. Rows at distance zero (duplicates) are never fatal.

TwoNN: Facco et al. (2017), "Estimating the intrinsic dimension of datasets by a minimal neighborhood information".
MLE: Levina & Bickel (2004), combined as MacKay & Ghahramani (2005) propose.
Both read low in high dimension (TwoNN 17.5, MLE 16.0 for a Gaussian of dimension 20 at n = 5000): they are
trends at fixed n, not measurements of a true dimension.
"""

from __future__ import annotations

import torch

from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor, Undefined

TWO_NN_KEEP = 0.9


def id_two_nn(distances: Float[Tensor, "n k"]) -> Estimate:
    """TwoNN: slope through the origin of −ln(1−F) on ln μ, μ = r₂/r₁, over the smallest 90 % of μ.

    Args:
        distances: to the nearest neighbours, ascending, k ≥ 2; inf where there is none.

    Returns:
        The dimension, its asymptotic standard error d/√N, and N, the points that count: those with r₁ > 0.
        F_i = i/N for i = 1…N, of which the ⌊0.9·N⌋ smallest enter the fit.

    Raises:
        Undefined: with fewer than 3 points left, or if every kept ratio is 1 (points on a lattice).
    """
    if distances.shape[1] < 2:
        raise Undefined("needs 2 neighbours a row")
    r1, r2 = distances[:, 0].double(), distances[:, 1].double()
    mu = (r2 / r1)[(r1 > 0) & r2.isfinite()]
    n = mu.numel()
    kept = int(n * TWO_NN_KEEP)
    if kept < 2:
        raise Undefined(f"needs 3 rows with 2 distinct neighbours, {n} of {len(distances)} rows have them")
    log_mu = mu.log().sort().values[:kept]
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=torch.float64, device=mu.device) / n)
    power = log_mu.square().sum()
    if not power > 0:
        raise Undefined("every row has its first two neighbours at the same distance")
    d = (log_mu * y).sum() / power
    return Estimate(d, d / n**0.5, n)


def inverse_local_dimensions(distances: Float[Tensor, "n k"]) -> Float[Tensor, " v"]:
    """1/d_i of Levina & Bickel for each row that has one: mean over j < k of ln(r_k/r_j), zero distances left out.

    A row whose k neighbours are not all there, or of which fewer than two are distinct from it, has none.
    """
    r = distances.double()
    if r.shape[1] < 2:
        raise Undefined("needs at least 2 neighbours a row")
    last = r[:, -1]
    apart = r > 0
    count = apart.sum(dim=1)
    usable = last.isfinite() & (count >= 2)
    r, apart, count, last = r[usable], apart[usable], count[usable], last[usable]
    logs = torch.where(apart, (last[:, None] / torch.where(apart, r, 1.0)).log(), 0.0)
    return logs.sum(dim=1) / (count - 1)


def local_dimensions(distances: Float[Tensor, "n k"]) -> Float[Tensor, " v"]:
    """Local intrinsic dimension d_i of each row that has one (its k neighbours not all equally far)."""
    inverse = inverse_local_dimensions(distances)
    return 1.0 / inverse[inverse > 0]


def id_mle(distances: Float[Tensor, "n k"]) -> Estimate:
    """Maximum-likelihood intrinsic dimension: 1 / mean(1/d_i), d_i = (k−1)/Σ_{j<k} ln(r_k/r_j).

    The inverse average is MacKay & Ghahramani's; dividing by k−2 as well would correct twice.

    Args:
        distances: to the k nearest neighbours, ascending; inf where there are fewer.

    Returns:
        The dimension, its standard error by the delta method, and the number of rows behind it.

    Raises:
        Undefined: if fewer than 2 rows have k neighbours of which two are distinct, or all are equally far.
    """
    inverse = inverse_local_dimensions(distances)
    n = inverse.numel()
    if n < 2:
        raise Undefined(
            f"needs rows with {distances.shape[1]} neighbours of which two are distinct, {n} of {len(distances)} have"
        )
    mean = inverse.mean()
    if not mean > 0:
        raise Undefined("every row has all its neighbours at the same distance")
    return Estimate(1 / mean, inverse.std() / n**0.5 / mean.square(), n)
