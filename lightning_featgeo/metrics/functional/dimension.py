"""Intrinsic dimension from neighbour distances. Rows at distance zero (duplicates) or nearly so are never fatal.

TwoNN: Facco et al. (2017), "Estimating the intrinsic dimension of datasets by a minimal neighborhood information".
MLE: Levina & Bickel (2004), combined as MacKay & Ghahramani (2005) propose.
Both read low in high dimension (TwoNN 17.5, MLE 16.0 for a Gaussian of dimension 20 at n = 5000): they are
trends at fixed n, not measurements of a true dimension.
Near-duplicates are left out as duplicates are (see ``duplicates``): ratios have no bound as two rows come together.
"""

from __future__ import annotations

import functools

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.duplicates import apart
from lightning_featgeo.metrics.functional.ranks import ascending
from lightning_featgeo.metrics.functional.roots import root
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor

TWO_NN_KEEP = 0.9


def id_two_nn(distances: Float[Tensor, "n k"]) -> Estimate:
    """TwoNN: slope through the origin of −ln(1−F) on ln μ, μ = r₂/r₁, over the smallest 90 % of μ.

    Args:
        distances: to the nearest neighbours, ascending, k ≥ 2; inf where there is none.

    Returns:
        The dimension, its asymptotic standard error d/√N, and N, the points that count: those without a duplicate or
        near-duplicate.
        F_i = i/N for i = 1…N, of which the ⌊0.9·N⌋ smallest enter the fit.

    Raises:
        Undefined: with fewer than 3 points left, or if every kept ratio is 1 (points on a lattice).
    """
    log_mu, n = _log_ratios(distances)
    kept = log_mu.numel()
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=torch.float64, device=log_mu.device) / n)
    power = log_mu.square().sum()
    if not power > 0:
        raise Undefined("every row has its first two neighbours at the same distance")
    d = (log_mu * y).sum() / power
    return Estimate(d, d / n**0.5, n)


def id_two_nn_mle(distances: Float[Tensor, "n k"]) -> Estimate:
    """TwoNN by maximum likelihood: the smallest 90 % of ln μ exactly, the rest as right-censored.

    d = m / (Σ_{i≤m} ln μ_(i) + (N−m) ln μ_(m)), times (m−1)/m against its bias; m = ⌊0.9·N⌋. Denti et al. (2022).

    Args:
        distances: to the nearest neighbours, ascending, k ≥ 2; inf where there is none.

    Returns:
        The dimension, its asymptotic standard error d/√m, and N.

    Raises:
        Undefined: with fewer than 3 points left, or if every kept ratio is 1.
    """
    log_mu, n = _log_ratios(distances)
    m = log_mu.numel()
    total = log_mu.sum() + (n - m) * log_mu[-1]
    if not total > 0:
        raise Undefined("every row has its first two neighbours at the same distance")
    d = (m - 1) / total
    return Estimate(d, d / m**0.5, n)


def _log_ratios(distances: Tensor) -> tuple[Tensor, int]:
    """The ⌊0.9·N⌋ smallest ln(r₂/r₁), ascending, and N, the points whose first neighbour is no (near-)duplicate."""
    if distances.shape[1] < 2:
        raise Undefined("needs 2 neighbours a row")
    r1, r2 = distances[:, 0].double(), distances[:, 1].double()
    mu = (r2 / r1)[apart(distances)[:, 0] & r2.isfinite()]
    n = mu.numel()
    kept = int(n * TWO_NN_KEEP)
    if kept < 2:
        raise Undefined(
            f"needs 3 rows with 2 distinct neighbours (near-duplicates are not), {n} of {len(distances)} rows have them"
        )
    return ascending(mu.log())[:kept], n


def inverse_local_dimensions(distances: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """1/d_i of Levina & Bickel for each row: mean over j < k of ln(r_k/r_j), (near-)duplicates left out; NaN for none.

    A row whose k neighbours are not all there, or of which fewer than two are distinct from it, has none.
    """
    r = distances.double()
    if r.shape[1] < 2:
        raise Undefined("needs at least 2 neighbours a row")
    last = r[:, -1]
    counted = apart(r)
    count = counted.sum(dim=1)
    usable = last.isfinite() & (count >= 2)
    r, counted, count, last = r[usable], counted[usable], count[usable], last[usable]
    logs = torch.where(counted, (last[:, None] / torch.where(counted, r, 1.0)).log(), 0.0)
    found = r.new_full((len(distances),), torch.nan)
    found[usable] = logs.sum(dim=1) / (count - 1)
    return found


def local_dimensions(distances: Float[Tensor, "n k"]) -> Float[Tensor, " v"]:
    """Local intrinsic dimension d_i of each row that has one (its k neighbours not all equally far)."""
    inverse = inverse_local_dimensions(distances)
    return 1.0 / inverse[inverse > 0]  # NaN is not


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
    inverse = inverse[~inverse.isnan()]
    n = inverse.numel()
    if n < 2:
        raise Undefined(
            f"needs rows with {distances.shape[1]} neighbours of which two are distinct (near-duplicates are not), "
            f"{n} of {len(distances)} have"
        )
    mean = inverse.mean()
    if not mean > 0:
        raise Undefined("every row has all its neighbours at the same distance")
    return Estimate(1 / mean, inverse.std() / n**0.5 / mean.square(), n)


def id_gride(distances: Float[Tensor, "n k"], n1: int) -> Estimate:
    """GRIDE at one scale: maximum likelihood of d from μ = r_{2n₁}/r_{n₁}. Larger n₁ looks at a coarser scale.

    Source: Denti, Doimo, Laio & Mira (2022), "The generalized ratios intrinsic dimension estimator". n₁ = 1 is TwoNN by
    maximum likelihood without the 10 % cut. A dimension that stays over scales can be trusted further than one that
    falls with n₁ (noise at the small scale) or rises. The first term of the score is (n−1)/d instead of n/d, which
    makes n₁ = 1 unbiased; DADApy does the same.

    Args:
        distances: to the nearest neighbours, ascending, at least 2·n₁ of them; inf where there is none.
        n1: the nearer neighbour, ≥ 1.

    Returns:
        The dimension, its standard error from the observed Fisher information, and the number of rows whose
        neighbour n₁ is no duplicate or near-duplicate.

    Raises:
        Undefined: with fewer than 2·n₁ neighbours or 3 usable rows, or if all ratios are 1.
    """
    n2 = 2 * n1
    if distances.shape[1] < n2:
        raise Undefined(f"needs {n2} neighbours a row, the table has {distances.shape[1]} (k=)")
    near, far = distances[:, n1 - 1].double(), distances[:, n2 - 1].double()
    log_mu = (far / near)[apart(distances)[:, n1 - 1] & far.isfinite()].log()
    n = log_mu.numel()
    if n < 3:
        raise Undefined(
            f"needs 3 rows with {n2} neighbours, from number {n1} on distinct (near-duplicates are not), "
            f"{n} of {len(distances)} rows have them"
        )
    if not log_mu.sum() > 0:
        raise Undefined(f"every row has its neighbours {n1} and {n2} at the same distance")
    between = n2 - n1 - 1

    def score(d: float) -> float:
        # L/(1−e^{−dL}) → 1/d as L → 0: ties need no special case beyond the limit
        decay = -torch.expm1(-d * log_mu)
        term = torch.where(log_mu > 0, log_mu / torch.where(decay > 0, decay, 1.0), 1.0 / d)
        return float((n - 1) / d + between * term.sum() - (n2 - 1) * log_mu.sum())

    low, high = 1e-4, 1.0
    while score(high) > 0 and high < 1e8:
        low, high = high, 2 * high
    d = high if score(high) > 0 else root(lambda at: -score(at), low, high, 1e-14 * high)
    growth = torch.expm1(d * log_mu)
    curvature = torch.where(
        log_mu > 0, log_mu.square() * torch.exp(d * log_mu) / torch.where(growth > 0, growth, 1.0).square(), 1.0 / d**2
    )
    information = n / d**2 + between * curvature.sum()
    return Estimate(torch.tensor(d, dtype=torch.float64), information.rsqrt().to("cpu"), n)


id_gride_1 = functools.partial(id_gride, n1=1)
id_gride_2 = functools.partial(id_gride, n1=2)
id_gride_4 = functools.partial(id_gride, n1=4)
id_gride_8 = functools.partial(id_gride, n1=8)


def _quantile(local_dimension: Tensor, q: float) -> Tensor:
    if not local_dimension.numel():
        raise Undefined("no row has a local dimension")
    return torch.quantile(local_dimension, q)


def local_dimension_q50(local_dimension: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Median over rows of the intrinsic dimension around each (``id_mle`` of one row), > 0.

    Raises:
        Undefined: if no row has one.
    """
    return _quantile(local_dimension, 0.5)


def local_dimension_q95(local_dimension: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """95 % quantile of the intrinsic dimension around each row, > 0: whether some rows lie where many directions open.

    Raises:
        Undefined: if no row has one.
    """
    return _quantile(local_dimension, 0.95)
