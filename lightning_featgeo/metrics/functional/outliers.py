"""Rows against a reference: how far out are they, and can they be told from it?

Sun et al. (2022), "Out-of-Distribution Detection with Deep Nearest Neighbors" (arXiv 2204.06507); Lee et al. (2018), "A
Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks" (arXiv 1807.03888).
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.ranks import ascending
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

OOD_K = 50
CHI2_LEVEL = 0.99
SINGULAR = "the reference's covariance is singular: fewer rows than dimensions, or dead directions"


def knn_ood_score(queries: Float[Tensor, "n d"], bank: Float[Tensor, "m d"], k: int = OOD_K) -> Float[Tensor, " n"]:
    """Distance of each query to its k-th nearest bank row, on L2-normalised features; larger is further out.

    Source: Sun et al. (2022), "Out-of-Distribution Detection with Deep Nearest Neighbors" (arXiv 2204.06507).

    Raises:
        Undefined: if the bank has fewer than k rows.
    """
    if bank.shape[0] < k:
        raise Undefined(f"needs {k} rows in the bank, got {bank.shape[0]}")
    distances, _ = ops.knn(normalised(queries), normalised(bank), k)
    return distances[:, -1]


def normalised(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1, of any scale; zero rows stay zero."""
    length = torch.linalg.vector_norm(rows.double(), dim=1, keepdim=True)
    return rows.double() / torch.where(length > 0, length, 1.0)


def mahalanobis_score(
    queries: Float[Tensor, "n d"],
    class_means: Float[Tensor, "c d"],
    class_counts: Int64[Tensor, " c"],
    within_scatter: Float[Tensor, "d d"],
) -> Float[Tensor, " n"]:
    """Squared Mahalanobis distance of each query to the nearest class, tied covariance; larger is further out.

    Source: Lee et al. (2018), "A Simple Unified Framework for Detecting Out-of-Distribution Samples", arXiv 1807.03888.
    For a Gaussian class it follows χ² with d degrees of freedom.

    Raises:
        Undefined: without a class, or if the tied covariance is singular (n − C < d).
    """
    used = class_counts > 0
    rows = int(class_counts.sum())
    if rows == 0:
        raise Undefined("no class has a row")
    means = class_means[used].double()
    centre = means.mean(dim=0)
    q, _ = _whiten(queries.double() - centre, within_scatter.double() / rows)
    m, _ = _whiten(means - centre, within_scatter.double() / rows)
    return torch.cdist(q, m, compute_mode="donot_use_mm_for_euclid_dist").square().amin(dim=1)


def _whiten(rows: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in units of the covariance, and the logarithm of its determinant."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    diagonal = factor.diagonal()
    if int(failed) or not bool(diagonal.min() > 1e-7 * diagonal.max()):
        raise Undefined(SINGULAR)
    return torch.linalg.solve_triangular(factor, rows.T, upper=False).T, 2 * diagonal.log().sum()


def mahalanobis_distances(
    rows: Float[Tensor, "n d"], mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """Squared Mahalanobis distance of each row to one Gaussian; χ² with d degrees of freedom if it came from it.

    Raises:
        Undefined: if the covariance is singular.
    """
    return _whiten(rows.double() - mean.double(), covariance.double())[0].square().sum(dim=1)


def gaussian_log_density(
    gaussian_distances: Float[Tensor, " n"], reference_covariance: Float[Tensor, "d d"]
) -> Estimate:
    """Mean log density of the rows under the reference's Gaussian, in nats: −½(m² + ln det Σ + d·ln 2π).

    Args:
        gaussian_distances: squared Mahalanobis distances m² of the rows to it.
        reference_covariance: Σ.

    Raises:
        Undefined: if the reference's covariance is singular.
    """
    d, n = reference_covariance.shape[0], gaussian_distances.numel()
    _, log_determinant = _whiten(reference_covariance.new_zeros(0, d), reference_covariance)
    values = -0.5 * (gaussian_distances + log_determinant + d * math.log(2 * math.pi))
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)


def chi2_fraction(gaussian_distances: Float[Tensor, " n"], dim: int) -> Estimate:
    """Share of rows beyond the 99 % quantile of χ²_d under the reference's Gaussian, in [0, 1]; 0.01 if Gaussian.

    Low-variance directions count as much as others: that is where outliers often show.

    Raises:
        Undefined: if the reference's covariance is singular.
    """
    half = torch.full_like(gaussian_distances, dim / 2)
    share = (torch.special.gammaincc(half, gaussian_distances / 2) < 1 - CHI2_LEVEL).double().mean()
    n = gaussian_distances.numel()
    return Estimate(share, (share * (1 - share) / n).sqrt(), n)


def mean_mahalanobis(class_gaussian_distances: Float[Tensor, " n"], dim: int) -> Estimate:
    """Mean squared Mahalanobis distance to the reference's nearest class, tied covariance, over d; ≥ 0, about 1 inside.

    Source: Lee et al. (2018), arXiv 1807.03888.

    Raises:
        Undefined: if the reference has no classes, or its tied covariance is singular (n − C < d).
    """
    values = class_gaussian_distances / dim
    n = values.numel()
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)


def mean_ood_distance(ood_distances: Float[Tensor, " n"]) -> Estimate:
    """Mean distance to the 50th nearest row of the reference's bank, on L2-normalised features, in [0, 2].

    Source: Sun et al. (2022), arXiv 2204.06507.

    Raises:
        Undefined: if the reference's bank has 50 rows or fewer.
    """
    n = ood_distances.numel()
    return Estimate(ood_distances.mean(), ood_distances.std() / n**0.5 if n > 1 else None, n)


def knn_ood_auroc(reference_ood_distances: Float[Tensor, " m"], ood_distances: Float[Tensor, " n"]) -> Estimate:
    """AUROC of the distance to the 50th nearest reference row: this window's as outliers, its own as inliers.

    0.5 when they can't be told apart. The reference's rows are scored leave-one-out. On a loader of known outliers this
    is the detector's AUROC; on validation data it is a measure of shift.

    Raises:
        Undefined: if the reference's bank has 50 rows or fewer.
    """
    return auroc(reference_ood_distances, ood_distances)


def mahalanobis_auroc(
    reference_class_gaussian_distances: Float[Tensor, " m"], class_gaussian_distances: Float[Tensor, " n"]
) -> Estimate:
    """AUROC of the Mahalanobis score: this window's rows as outliers, the reference's own as inliers.

    Raises:
        Undefined: if the reference has no classes, or its tied covariance is singular (n − C < d).
    """
    return auroc(reference_class_gaussian_distances, class_gaussian_distances)


def auroc(inside_scores: Float[Tensor, " n"], outside_scores: Float[Tensor, " m"]) -> Estimate:
    """Area under the ROC curve of a score that should be larger outside: P(out > in) + ½P(out = in), in [0, 1].

    Returns:
        The area, its standard error after Hanley & McNeil (1982), and the number of scores.

    Raises:
        Undefined: if a set is empty.
    """
    n, m = inside_scores.numel(), outside_scores.numel()
    if not (n and m):
        raise Undefined(f"needs scores inside and outside, got {n} and {m}")
    few, many = (inside_scores, outside_scores) if n <= m else (outside_scores, inside_scores)
    few, many = ascending(few), ascending(many)
    below, up_to = (torch.searchsorted(many, few, right=right) for right in (False, True))  # of the many
    twice = (below + up_to).sum()
    area = (2 * n * m - twice if n <= m else twice).double() / 2 / (n * m)
    q1, q2 = area / (2 - area), 2 * area.square() / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (q1 - area.square()) + (n - 1) * (q2 - area.square())) / (n * m)
    return Estimate(area, variance.clamp(min=0).sqrt(), n + m)


def gaussian_auroc(
    reference_gaussian_distances: Float[Tensor, " m"], gaussian_distances: Float[Tensor, " n"]
) -> Estimate:
    """AUROC of the Mahalanobis distance to one Gaussian of the reference, no labels: this window's rows as outliers.

    Raises:
        Undefined: if the reference's covariance is singular.
    """
    return auroc(reference_gaussian_distances, gaussian_distances)


def gaussian_low_variance_share(
    rows: Float[Tensor, "n d"], reference_mean: Float[Tensor, " d"], reference_covariance: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """Share of the rows' squared Mahalanobis distance that lies in the half of the reference's principal directions
    with the least variance, in [0, 1]; one half for the reference's own distribution (of an even d).

    Source: Kamoi & Kobayashi (2020), "Why is the Mahalanobis Distance Effective for Anomaly Detection?" (arXiv
    2003.00402).

    Raises:
        Undefined: if the reference's covariance is singular, it has one dimension, or all rows lie on its mean.
    """
    d = len(reference_mean)
    if d < 2:
        raise Undefined("one dimension has no halves")
    values, vectors = torch.linalg.eigh(reference_covariance.double())
    if not bool(values[0] > 1e-10 * values[-1]):  # below, what is divided by is round-off in its sixth digit
        raise Undefined(SINGULAR)
    squares = ((rows.double() - reference_mean.double()) @ vectors).square().sum(dim=0) / values
    if not squares.sum() > 0:
        raise Undefined("all rows lie on the reference's mean")
    return squares[: d // 2].sum() / squares.sum()


def mixture_log_density(rows: Float[Tensor, "n d"], reference_classes: tuple[Tensor, Tensor, Tensor]) -> Estimate:
    """Mean log density of the rows under the reference's class Gaussians, one covariance, mixed by frequency, in nats.

    ln Σ_c π_c N(x; μ_c, Σ), the prior density of Lafon et al. (2023), "Hybrid Energy Based Model in the Feature Space"
    (arXiv 2305.16966). A density: it moves with the features' unit.

    Args:
        rows: of this window's bank.
        reference_classes: (C, d) means, (C,) rows a class, and (d, d) scatter within classes.

    Raises:
        Undefined: if the reference has no classes, or its tied covariance is singular (n − C < d).
    """
    means, counts, scatter = (each.double() for each in reference_classes)
    used = counts > 0
    if not bool(used.any()):
        raise Undefined("no class has a row")
    n, d, means = len(rows), rows.shape[1], means[used]
    centre = means.mean(dim=0)
    q, log_determinant = _whiten(rows.double() - centre, scatter / counts.sum())
    m, _ = _whiten(means - centre, scatter / counts.sum())
    squared = torch.cdist(q, m, compute_mode="donot_use_mm_for_euclid_dist").square()
    prior = (counts[used] / counts.sum()).log()
    values = (prior - squared / 2).logsumexp(dim=1) - (log_determinant + d * math.log(2 * math.pi)) / 2
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)
