"""Spectrum signals: how many directions the features use, and whether they still differ at all.

Effective rank: exp of the entropy of normalised singular values. Roy & Vetterli (2007), "The effective rank: a
measure of effective dimensionality" (centred here); Garrido et al. (2023), "RankMe" (uncentred, arXiv 2210.02885).
Two collapses exist and no one signal sees both: a subspace shows in the centred rank, a constant plus noise
only in uncentred ones (``rankme``, and those in ``spread``).
"""

from __future__ import annotations

import itertools

import torch

from lightning_featgeo.cuda_ext.distances import mean_row
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor

RANKME_EPSILON = 1e-7
ALPHA_RANKS = (6, 50)  # the range over which the decay is fitted, capped by the number of positive eigenvalues
ALPHA_LEAST = 10


def centred_ceiling(n: int, d: int) -> float:
    """The largest rank that n centred rows of d dimensions can have."""
    return float(min(n - 1, d))


def uncentred_ceiling(n: int, d: int) -> float:
    """The largest rank of n rows as they are."""
    return float(min(n, d))


def null_small_eigenvalues(eigenvalues: Float[Tensor, " d"], rank_limit: int) -> Float[Tensor, " r"]:
    """Eigenvalues of a covariance from d×d products, descending, cut to ``rank_limit``, round-off set to zero.

    σ = √λ turns a round-off of 1e-16·λ₁ into a floor of 1e-8·σ₁, which thousands of null directions add up to a
    wrong entropy. Below d·eps·λ₁ an eigenvalue can't be told from zero, so it is zero.
    """
    descending = eigenvalues.flip(0) if eigenvalues.numel() > 1 else eigenvalues
    descending = descending.sort(descending=True).values[: max(rank_limit, 0)]
    if descending.numel() == 0:
        return descending
    floor = eigenvalues.numel() * torch.finfo(torch.float64).eps * descending[0].clamp(min=0)
    return torch.where(descending > floor, descending, 0.0)


def _entropy_rank(singular_values: Tensor, epsilon: float) -> Tensor:
    total = singular_values.sum()
    if singular_values.numel() == 0:
        raise Undefined("one row has no spread: two are needed")
    if not total > 0:
        raise Undefined("the features have no spread at all: every eigenvalue is zero")
    p = singular_values / total + epsilon
    return torch.exp(-torch.special.xlogy(p, p).sum())


def effective_rank(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """Effective rank of **centred** features: exp(−Σ p ln p), p = σ/Σσ, σ = √λ. Roy & Vetterli (2007).

    Args:
        eigenvalues: of the centred covariance, any scale, non-negative; at most min(n−1, d) of them.

    Returns:
        Between 1 and min(n−1, d). ``rankme`` is the same entropy on uncentred features.

    Raises:
        Undefined: if all eigenvalues are zero (identical rows, or fewer than two).

    >>> round(float(effective_rank(torch.tensor([4.0, 4.0, 4.0, 0.0]))), 3)
    3.0
    """
    return _entropy_rank(eigenvalues.clamp(min=0).sqrt(), 0.0)


def rankme(second_moment_eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """RankMe: exp(−Σ p ln p), p = σ/Σσ + 1e-7 on **uncentred** features. Garrido et al., arXiv 2210.02885.

    Args:
        second_moment_eigenvalues: of HᵀH/n, any scale; exactly min(n, d) of them, since ε counts for each.

    Returns:
        Between 1 and min(n, d), up to the ε of the definition.

    Raises:
        Undefined: if every row is zero.
    """
    return _entropy_rank(second_moment_eigenvalues.clamp(min=0).sqrt(), RANKME_EPSILON)


def participation_ratio(gram: Float[Tensor, "r r"]) -> Float[Tensor, ""]:
    """Participation ratio (Σλ)²/Σλ² = tr(C)²/‖C‖²_F, between 1 and min(n−1, d). Biased low at small n.

    Args:
        gram: the centred covariance, or the Gram matrix of the centred rows: any scale.

    Source: Gao et al. (2017), "A theory of multineuronal dimensionality, dynamics and measurement".

    Raises:
        Undefined: if the covariance is zero.
    """
    power = gram.square().sum()
    if not power > 0:
        raise Undefined("the features have no spread at all: their covariance is zero")
    return gram.diagonal().sum().square() / power


def stable_rank(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """Stable rank Σλ/λ₁ of centred features, between 1 and min(n−1, d). Rudelson & Vershynin (2007).

    Raises:
        Undefined: if all eigenvalues are zero.
    """
    return 1.0 / top_eigenvalue_share(eigenvalues)


def top_eigenvalue_share(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """Share of the variance in the first principal direction, λ₁/Σλ, in (0, 1]: 1 is a line.

    Raises:
        Undefined: if all eigenvalues are zero.
    """
    total = eigenvalues.sum()
    if eigenvalues.numel() == 0 or not total > 0:
        raise Undefined("the features have no spread at all: every eigenvalue is zero")
    return eigenvalues.max() / total


def pcs_90(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """Principal components that hold 90 % of the variance, the largest first; between 1 and min(n−1, d).

    Raises:
        Undefined: if all eigenvalues are zero.
    """
    return _components_of(eigenvalues, 0.9)


def pcs_99(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """Principal components that hold 99 % of the variance; see :func:`pcs_90`.

    Raises:
        Undefined: if all eigenvalues are zero.
    """
    return _components_of(eigenvalues, 0.99)


def _components_of(eigenvalues: Tensor, share: float) -> Tensor:
    """The smallest number of eigenvalues whose sum is that share of all, up to rounding."""
    top_eigenvalue_share(eigenvalues)  # for what is undefined
    # on the CPU: where algorithms must be deterministic, CUDA has no running sums
    held = torch.tensor(
        list(itertools.accumulate(eigenvalues.clamp(min=0).sort(descending=True).values.tolist())), dtype=torch.float64
    )
    return (held < share * held[-1] * (1 - 1e-12)).sum().to(eigenvalues.dtype) + 1


def numerical_rank(eigenvalues: Float[Tensor, " r"], sample_count: int, dim: int) -> Float[Tensor, ""]:
    """Numerical rank of centred float32 features: singular values above σ₁·max(n, d)·eps, eps of float32.

    The tolerance is that of ``torch.linalg.matrix_rank`` and NumPy. Between 0 and min(n−1, d).

    Raises:
        Undefined: with fewer than two rows.
    """
    if eigenvalues.numel() == 0:
        raise Undefined("a rank of centred features needs at least 2 rows")
    singular = eigenvalues.clamp(min=0).sqrt()
    floor = singular.max() * max(sample_count, dim) * torch.finfo(torch.float32).eps
    return (singular > floor).sum().double()


def condition_number(eigenvalues: Float[Tensor, " r"], dim: int) -> Float[Tensor, ""]:
    """Condition number λ₁/λ_min of the covariance, ≥ 1.

    Raises:
        Undefined: if the covariance is singular (n ≤ d, or a direction without spread).
    """
    if eigenvalues.numel() < dim or not eigenvalues.min() > 0:
        raise Undefined("the covariance is singular: its smallest eigenvalue is zero")
    return eigenvalues.max() / eigenvalues.min()


def _decay_fit(eigenvalues: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    first, last = ALPHA_RANKS
    positive = eigenvalues[eigenvalues > 0]
    y = positive[first - 1 : last].log()
    n = y.numel()
    if n < ALPHA_LEAST:
        raise Undefined(
            f"needs {first - 1 + ALPHA_LEAST} positive eigenvalues (ranks {first} to {last} are fitted), "
            f"found {positive.numel()}"
        )
    x = torch.arange(first, first + n, dtype=y.dtype, device=y.device).log()
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / x.square().sum()
    residual = (y - slope * x).square().sum()
    error = (residual / (n - 2) / x.square().sum()).sqrt()
    total = y.square().sum()
    r2 = 1 - residual / total if total > 0 else torch.ones_like(total)
    return -slope, error, r2, n


def alpha_req(eigenvalues: Float[Tensor, " r"]) -> Estimate:
    """Eigenspectrum decay α: λ_i ∝ i^−α, least squares of ln λ on ln rank over ranks 6 to 50 (or the last positive).

    Source: Agrawal et al. (2022), "α-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring
    eigenspectrum decay"; near 1 is reported as good. Unweighted; implementations that weight ranks by 1/rank differ.
    Read it beside ``alpha_req_r2``: where the spectrum is no power law, the slope means nothing.

    Raises:
        Undefined: with fewer than 15 positive eigenvalues.
    """
    slope, error, _, n = _decay_fit(eigenvalues)
    return Estimate(slope, error, n)


def alpha_req_r2(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """R² of the fit behind ``alpha_req``, in [0, 1].

    Raises:
        Undefined: with fewer than 15 positive eigenvalues.
    """
    return _decay_fit(eigenvalues)[2]


def spectral_spread(eigenvalues: Float[Tensor, " r"], dim: int) -> Float[Tensor, ""]:
    """Eigenvalue early enrichment: area between cumulative eigenvalue shares and the diagonal, over its maximum.

    0 when all directions carry the same variance, 1 when one carries all. Source: "Reliable Measures of Spread in High
    Dimensional Latent Spaces" (Marbut et al., 2023). Depends on n: isotropic data in 100 dimensions reads
    0.40 / 0.18 / 0.06 at n = 200 / 1,000 / 10,000; compare at fixed n only.

    Raises:
        Undefined: in one dimension, or if all eigenvalues are zero.
    """
    if dim < 2:
        raise Undefined("one dimension has no spread over directions")
    total = eigenvalues.sum()
    if eigenvalues.numel() == 0 or not total > 0:
        raise Undefined("the features have no spread at all: every eigenvalue is zero")
    # Share j (from 0) is in the cumulative shares j, j+1, …, dim−1: dim−j of them. The diagonal sums to (dim+1)/2.
    # (A cumsum of floats is an error on CUDA under torch.use_deterministic_algorithms(True).)
    times = torch.arange(dim, dim - eigenvalues.numel(), -1, dtype=eigenvalues.dtype, device=eigenvalues.device)
    return ((eigenvalues / total * times).sum() - (dim + 1) / 2) / ((dim - 1) / 2)


def gram_matrix(rows: Float[Tensor, "n d"], centre: Float[Tensor, " d"], block: int = 256) -> Float[Tensor, "n n"]:
    """(X − c)(X − c)ᵀ in float64, a block of columns at a time."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part, middle in zip(rows.split(block, dim=1), centre.double().split(block), strict=True):
        x = part.double() - middle
        total.addmm_(x, x.T)
    return total


def gram_power(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """‖XᵀX‖²_F of centred rows: the sum of their scatter's squared eigenvalues."""
    mean = mean_row(rows)
    if rows.shape[1] > rows.shape[0]:
        return gram_matrix(rows, mean).square().sum()
    x = rows.double() - mean
    return (x.T @ x).square().sum()


def participation_ratio_corrected(rows: Float[Tensor, "n d"], bank_gram_power: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Participation ratio with unbiased (trΣ)² and trΣ² (Himeno & Yamada, 2014), for any distribution with 4 moments.

    The plain ratio is biased low at small n (arXiv 2509.26560); this one is consistent from a few hundred
    rows on, computed on the bank's rows. It may exceed d by its own noise.

    Args:
        rows: the bank's.
        bank_gram_power: their :func:`gram_power`.

    Raises:
        Undefined: with fewer than 4 rows, or if the estimate of trΣ² is not positive.
    """
    n = rows.shape[0]
    if n < 4:
        raise Undefined(f"needs at least 4 rows, got {n}")
    mean = mean_row(rows)
    square = bank_gram_power / (n - 1) ** 2
    length = torch.cat([(part.double() - mean).square().sum(dim=1) for part in rows.split(256)])
    trace = length.sum() / (n - 1)
    fourth = length.square().sum() / (n - 1)
    factor = (n - 1) / (n * (n - 2) * (n - 3))
    below = factor * ((n - 1) * (n - 2) * square + trace.square() - n * fourth)
    above = factor * (2 * square + (n * n - 3 * n + 1) * trace.square() - n * fourth)
    if not (below > 0 and above > 0):
        raise Undefined("the rows have no spread, or too few rows to tell it from noise")
    return above / below
