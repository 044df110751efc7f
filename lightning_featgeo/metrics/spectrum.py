"""Spectrum signals: how many directions the features use, and whether they still differ at all.

Effective rank: exp of the entropy of normalised singular values. Roy & Vetterli (2007), "The effective rank: a
measure of effective dimensionality" (centred here); Garrido et al. (2023), "RankMe" (uncentred, arXiv 2210.02885).
Two collapses exist and no one signal sees both: a subspace shows in the centred rank, a constant plus noise
only in the uncentred ones (``rankme``, ``feature_std``, ``mean_resultant``).
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.types import Float, Tensor, Undefined

RANKME_EPSILON = 1e-7


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
    if singular_values.numel() == 0 or not total > 0:
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


def participation_ratio(covariance: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Participation ratio (Σλ)²/Σλ² = tr(C)²/‖C‖²_F, between 1 and min(n−1, d). Biased low at small n.

    Source: Gao et al. (2017), "A theory of multineuronal dimensionality, dynamics and measurement".

    Raises:
        Undefined: if the covariance is zero.
    """
    power = covariance.square().sum()
    if not power > 0:
        raise Undefined("the features have no spread at all: their covariance is zero")
    return covariance.diagonal().sum().square() / power


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


def feature_std(
    row_count: int, direction_sums: Float[Tensor, " d"], direction_squares: Float[Tensor, " d"]
) -> Float[Tensor, ""]:
    """Mean over dimensions of the standard deviation of L2-normalised features, times √d.

    1 for features spread over the sphere, 0 for a constant: the monitor of Chen & He (2021), "Exploring Simple
    Siamese Representation Learning" (arXiv 2011.10566), scaled by √d. Zero rows stay zero, as in
    ``torch.nn.functional.normalize``; the standard deviation is the sample one (n−1).

    Args:
        row_count: n, zero rows included.
        direction_sums: Σ x/‖x‖ per dimension.
        direction_squares: Σ (x/‖x‖)² per dimension.

    Raises:
        Undefined: with fewer than two rows.
    """
    if row_count < 2:
        raise Undefined(f"a standard deviation needs at least 2 rows, got {row_count}")
    mean = direction_sums / row_count
    variance = (direction_squares - row_count * mean.square()).clamp(min=0) / (row_count - 1)
    return variance.sqrt().mean() * math.sqrt(direction_sums.numel())


def mean_resultant(nonzero_count: int, direction_sums: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """‖mean of L2-normalised features‖², in [0, 1]: 0 spread in all directions, 1 one direction.

    Source: the mean resultant length, squared, of directional statistics (Mardia & Jupp, 2000). Zero rows have no
    direction and don't count. A random spread reads about 1/n.

    Raises:
        Undefined: if every row is zero.
    """
    if nonzero_count < 1:
        raise Undefined("every row is zero: no row has a direction")
    return (direction_sums / nonzero_count).square().sum()
