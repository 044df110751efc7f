"""Density and neighbourhood signals: how crowded features are and whether neighbours share a class.

Loftsgaarden & Quesenberry (1965); Wang & Isola (2020, arXiv 2005.10242).
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.duplicates import apart
from lightning_featgeo.metrics.functional.same_samples import paired
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

UNIFORMITY_SCALE = 2.0


def log_unit_ball_volume(dim: int) -> float:
    """ln of the volume of the unit ball in R^dim."""
    return 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)


def log_densities(distances: Float[Tensor, "n k"], dim: int) -> Float[Tensor, " v"]:
    """ln p̂(x_i) = ln(k−1) − ln(n−1) − ln V_d − d·ln r_k in nats, leave-one-out.

    Rows with r_k = inf have none, nor have those whose k neighbours are all duplicates or near-duplicates.

    Args:
        distances: to the k nearest other rows, ascending; k ≥ 2.
        dim: d, the dimension of the space (or an intrinsic one, for a density on the manifold).
    """
    n, k = distances.shape
    if k < 2:
        raise Undefined("needs at least 2 neighbours a row")
    return log_density_at(_radii(distances), n, k, dim)


def _radii(distances: Tensor) -> Tensor:
    """r_k of the rows whose k-th neighbour there is, and is no (near-)duplicate."""
    return distances[:, -1].double()[apart(distances)[:, -1] & distances[:, -1].isfinite()]


def log_density_at(radius: Float[Tensor, " v"], n: int, k: int, dim: int) -> Float[Tensor, " v"]:
    """ln p̂ in nats where the k-th of n−1 neighbours is that far."""
    return math.log(k - 1) - math.log(max(n - 1, 1)) - log_unit_ball_volume(dim) - dim * radius.log()


def _defined(log_density: Tensor) -> Tensor:
    if log_density.numel() < 2:
        raise Undefined("fewer than 2 rows have k neighbours at a distance above zero")
    return log_density


def knn_log_density(log_density: Float[Tensor, " v"]) -> Estimate:
    """Mean log density over rows, in nats; the standard error takes rows as independent (they share neighbours).

    Raises:
        Undefined: if fewer than 2 rows have a density (fewer rows than k, or duplicates only).
    """
    values = _defined(log_density)
    return Estimate(values.mean(), values.std() / values.numel() ** 0.5, values.numel())


def knn_log_density_q05(log_density: Float[Tensor, " v"]) -> Float[Tensor, ""]:
    """5 % quantile of the log density: the sparse fringe."""
    return _defined(log_density).quantile(0.05)


def knn_log_density_q50(log_density: Float[Tensor, " v"]) -> Float[Tensor, ""]:
    """Median log density."""
    return _defined(log_density).quantile(0.5)


def knn_log_density_q95(log_density: Float[Tensor, " v"]) -> Float[Tensor, ""]:
    """95 % quantile of the log density: the crowded core."""
    return _defined(log_density).quantile(0.95)


def knn_entropy(distances: Float[Tensor, "n k"], dim: int) -> Estimate:
    """Kozachenko–Leonenko entropy in nats: ψ(n) − ψ(k) + ln V_d + d·mean ln r_k, k the number of columns.

    Source: Kozachenko & Leonenko (1987). Rows whose k neighbours are all (near-)duplicates are left out.

    Raises:
        Undefined: if fewer than 2 rows have k neighbours at a distance above zero.
    """
    n, k = distances.shape
    logs = _defined(_radii(distances).log())
    digamma = torch.special.digamma(torch.tensor([float(n), float(k)], dtype=torch.float64))
    value = float(digamma[0] - digamma[1]) + log_unit_ball_volume(dim) + dim * logs.mean()
    return Estimate(value, dim * logs.std() / logs.numel() ** 0.5, logs.numel())


def hubness(neighbor_indices: Int64[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Skewness of the k-occurrence counts: 0 when all rows are neighbours equally often, large with hubs.

    Source: Radovanović, Nanopoulos & Ivanović (2010), "Hubs in Space".

    Args:
        neighbor_indices: neighbours of each row, −1 where there is none.

    Raises:
        Undefined: with fewer than 2 rows, or if every row occurs equally often.
    """
    n = neighbor_indices.shape[0]
    found = neighbor_indices[neighbor_indices >= 0]
    if n < 2 or found.numel() == 0:
        raise Undefined(f"needs at least 2 rows with neighbours, got {n}")
    counts = torch.bincount(found, minlength=n).double()
    away = counts - counts.mean()
    deviation = away.square().mean().sqrt()
    if not deviation > 0:
        raise Undefined("every row is a neighbour equally often: the counts have no spread")
    return (away / deviation).pow(3).mean()


def uniformity(kernel_sums: Float[Tensor, " n"], kernel_counts: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """ln of the mean over pairs of exp(−2‖x−y‖²) on L2-normalised rows: 0 is one point, lower is more uniform.

    Bounded below by about −4 (the sphere in high dimension); rows of one sample form no pair.

    Args:
        kernel_sums: Σ_j exp(−2‖x_i−x_j‖²) per row, itself left out.
        kernel_counts: the number of terms in each.

    Raises:
        Undefined: if there is no pair.
    """
    pairs = kernel_counts.sum()
    if not pairs > 0:
        raise Undefined("needs two rows of different samples that are not zero")
    return (kernel_sums.sum() / pairs).log()


def effective_kde_points(
    kernel_sums: Float[Tensor, " n"], kernel_squares: Float[Tensor, " n"], kernel_counts: Int64[Tensor, " n"]
) -> Estimate:
    """Effective number of rows behind a kernel density, 1/Σw², of uniformity's kernel; mean over rows, in [1, n−1].

    w_j ∝ exp(−2‖x_i−x_j‖²) over the L2-normalised rows of other samples. Near 1: a density at x_i is its nearest
    neighbour's alone.

    Source: Biroli & Mézard (2024), "Kernel Density Estimators in Large Dimensions" (arXiv 2408.05807).

    Args:
        kernel_sums: Σ_j of the kernel per row.
        kernel_squares: Σ_j of its square.
        kernel_counts: the number of terms in each.

    Raises:
        Undefined: if there is no pair.
    """
    real = kernel_counts > 0
    n = int(real.sum())
    if n < 2:
        raise Undefined("needs two rows of different samples that are not zero")
    points = kernel_sums[real].square() / kernel_squares[real]
    return Estimate(points.mean(), points.std() / n**0.5, n)


def robustness_index(
    neighbor_indices: Int64[Tensor, "n k"], bank_labels: Int64[Tensor, " n"], bank_groups: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Neighbours of the same class and another group over those of another class and the same group; > 1 is good.

    Groups are what should not matter: hospital, scanner, speaker, source. Source: de Jong, Marcus & Teuwen (2025),
    "Current Pathology Foundation Models are unrobust to Medical Center Differences" (arXiv 2501.18055).

    Args:
        neighbor_indices: neighbours of each row, −1 where there is none.
        bank_labels: class of each row, −1 where unknown.
        bank_groups: group of each row, −1 where unknown.

    Raises:
        Undefined: if no neighbour has another class and the same group, or no row has both class and group.
    """
    there = neighbor_indices >= 0
    at = neighbor_indices.clamp(min=0)
    known = (bank_labels >= 0) & (bank_groups >= 0)
    there &= known[:, None] & known[at]
    if not bool(there.any()):
        raise Undefined("no two neighbours have both a class and a group")
    same_class = bank_labels[:, None] == bank_labels[at]
    same_group = bank_groups[:, None] == bank_groups[at]
    confounded = (there & ~same_class & same_group).sum()
    if not confounded > 0:
        raise Undefined("no neighbour of another class is of the same group: the ratio has no bound")
    return (there & same_class & ~same_group).sum().double() / confounded


def neighbor_churn(
    neighbor_samples: Int64[Tensor, "n k"], samples: Int64[Tensor, " n"], earlier: tuple[Tensor, Tensor]
) -> Estimate:
    """1 − share of a row's k neighbours that were its neighbours in the window before, in [0, 1]; noisy at small k.

    Rows are matched by their sample. Both windows must hold the same samples (99 % of them): neighbours that were not
    there before would count as changed.

    Args:
        neighbor_samples: samples of each row's neighbours, −1 where there are fewer.
        samples: sample of each row, unique.
        earlier: the same two of the window before.

    Returns:
        The mean over rows, its standard error, and the number of rows found in both windows.

    Raises:
        Undefined: in the first window, if other samples are there, or if samples have several rows each.
    """
    then_neighbors, then_samples = (t.to(samples.device) for t in earlier)
    now_at, then_at = paired(samples, then_samples)
    if neighbor_samples.shape[1] != then_neighbors.shape[1]:
        raise Undefined(f"{then_neighbors.shape[1]} neighbours were searched then, {neighbor_samples.shape[1]} now")
    now, then, n = neighbor_samples[now_at], then_neighbors[then_at], len(now_at)
    there = now >= 0
    kept = ((now[:, :, None] == then[:, None, :]).any(dim=2) & there).sum(dim=1)
    churn = 1 - kept.double() / there.sum(dim=1).clamp(min=1)
    return Estimate(churn.mean(), churn.std() / n**0.5, n)


def neighbor_purity(neighbor_indices: Int64[Tensor, "n k"], bank_labels: Int64[Tensor, " n"]) -> Estimate:
    """Mean share of a labelled row's k neighbours, by distance, that are of its class, in [0, 1].

    Args:
        neighbor_indices: which rows are each row's neighbours; −1 where there are fewer.
        bank_labels: class of each row; −1 where unknown: such neighbours don't count.

    Returns:
        The mean, its standard error, and the number of rows.

    Raises:
        Undefined: without a labelled row that has a labelled neighbour.
    """
    there = neighbor_indices >= 0
    labels = torch.where(there, bank_labels[neighbor_indices.clamp(min=0)], -1)
    counts = (labels >= 0).sum(dim=1)
    usable = (bank_labels >= 0) & (counts > 0)
    n = int(usable.sum())
    if not n:
        raise Undefined("no labelled row has a labelled neighbour")
    shares = (labels == bank_labels[:, None])[usable].sum(dim=1).double() / counts[usable]
    return Estimate(shares.mean(), shares.std() / n**0.5 if n > 1 else None, n)
