"""One set of features against another: precision and recall, density and coverage, Fréchet distance, kernel MMD.

Kynkäänniemi et al. (2019), "Improved Precision and Recall Metric for Assessing Generative Models" (arXiv 1904.06991);
Naeem et al. (2020), "Reliable Fidelity and Diversity Metrics for Generative Models" (arXiv 2002.09797);
Khayatkhoei & AbdAlmageed (2023), "Emergent Asymmetry of Precision and Recall" (arXiv 2306.09618);
Heusel et al. (2017) and Bińkowski et al. (2018) for the last two.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor

_TILE_ELEMENTS = 2**23


def _squared_radii(rows: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th other row, by subtraction, as rows on the edge are measured later."""
    n = rows.shape[0]
    if n <= k:
        raise Undefined(f"balls to the {k}-th other row need more than {k} rows, got {n}")
    _, indices = ops.knn(rows, rows, k, exclude_self=True)
    return _squares(rows, rows[indices[:, -1]])


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().sum(dim=1)


def _balls(points: Tensor, centres: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """For each point, how many balls hold it; for each ball, how many points it holds. Tile by tile.

    Inside means strictly nearer than the radius; a ball of radius zero (duplicates) holds the points on its centre, so
    that two identical constant sets match.
    """
    origin = centres.double().mean(dim=0)
    p, c = points.double() - origin, centres.double() - origin
    c_norm = c.square().sum(dim=1)
    by_point = torch.zeros(len(p), dtype=torch.int64, device=p.device)
    by_ball = torch.zeros(len(c), dtype=torch.int64, device=p.device)
    step = max(1, _TILE_ELEMENTS // max(1, len(c)))
    for start in range(0, len(p), step):
        q = p[start : start + step]
        norms = q.square().sum(dim=1)[:, None] + c_norm[None, :]
        squared = norms.clone().addmm_(q, c.T, alpha=-2.0)
        at, ball = ((squared < 1e-4 * norms) | ((squared - limit).abs() < 1e-9 * norms)).nonzero(as_tuple=True)
        for i in range(0, at.numel(), step):  # near ones, and those on the edge, by subtraction
            a, b = at[i : i + step], ball[i : i + step]
            squared[a, b] = _squares(points[start + a], centres[b])
        inside = (squared < limit) | ((limit == 0) & (squared == 0))
        by_point[start : start + step] = inside.sum(dim=1)
        by_ball += inside.sum(dim=0)
    return by_point, by_ball


def prdc(real: Float[Tensor, "n d"], fake: Float[Tensor, "m e"], k: int = 5) -> dict[str, Tensor]:
    """Precision, recall, density, coverage, and the symmetric precision and recall, of ``fake`` against ``real``.

    With r_i the distance of a row to its k-th other row of the same set, and its ball the open ball of that radius:

    - precision: share of fake rows in some real ball; recall: share of real rows in some fake ball;
    - density: mean number of real balls a fake row is in, over k (about 1 for equal distributions; not bounded by 1);
    - coverage: share of real balls that hold a fake row (about 1 − 2^−k for equal distributions);
    - sym_precision: min(precision, coverage with the roles swapped); sym_recall: min(recall, coverage).

    Args:
        real: reference rows, more than k.
        fake: rows to judge, more than k.
        k: which neighbour sets a row's radius.

    Returns:
        0-d float64 tensors by name.

    Raises:
        ValueError: if the dimensions differ or k < 1.
        Undefined: if a set has no more than k rows.
    """
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real rows have {real.shape[1]} dimensions, fake rows {fake.shape[1]}")
    in_real, real_holds = _balls(fake, real, _squared_radii(real, k))
    in_fake, fake_holds = _balls(real, fake, _squared_radii(fake, k))
    precision, recall = (in_real > 0).double().mean(), (in_fake > 0).double().mean()
    coverage, swapped = (real_holds > 0).double().mean(), (fake_holds > 0).double().mean()
    return {
        "precision": precision,
        "recall": recall,
        "density": in_real.double().mean() / k,
        "coverage": coverage,
        "sym_precision": torch.minimum(precision, swapped),
        "sym_recall": torch.minimum(recall, coverage),
    }


def frechet_distance(
    mean: Float[Tensor, " d"],
    covariance: Float[Tensor, "d d"],
    other_mean: Float[Tensor, " d"],
    other_covariance: Float[Tensor, "d d"],
) -> Float[Tensor, ""]:
    """Squared Fréchet distance of two Gaussians: ‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), ≥ 0, in squared feature units.

    tr(C₁C₂)^½ is the nuclear norm of C₁^½C₂^½, which needs no root of a matrix that isn't symmetric. Biased upwards at
    small n: compare at fixed n.
    """

    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix.double())
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    overlap = torch.linalg.matrix_norm(root(covariance) @ root(other_covariance), ord="nuc")
    gap = (mean.double() - other_mean.double()).square().sum()
    traces = covariance.double().diagonal().sum() + other_covariance.double().diagonal().sum()
    return (gap + traces - 2 * overlap).clamp(min=0)


def frechet_distance_to_reference(
    mean: Float[Tensor, " d"],
    reference_mean: Float[Tensor, " d"],
    sample_covariances: tuple[Tensor, Tensor],
) -> Float[Tensor, ""]:
    """Squared Fréchet distance of this window's Gaussian to the reference's: ‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), ≥ 0.

    Source: Heusel et al. (2017). In squared feature units: at one layer and one scale only.

    Raises:
        Undefined: if the window or the reference has fewer than two rows, or another dimension.
    """
    return frechet_distance(mean, sample_covariances[0], reference_mean, sample_covariances[1])


def kernel_mmd(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y/d + 1)³ (the kernel inception distance's).

    Around 0 for equal distributions, and below it by chance.

    Raises:
        Undefined: if a set has fewer than 2 rows.
    """
    n, m, d = real.shape[0], fake.shape[0], real.shape[1]
    if min(n, m) < 2:
        raise Undefined(f"needs 2 rows in each set, got {n} and {m}")

    def kernel_sum(a: Tensor, b: Tensor) -> Tensor:
        step = max(1, _TILE_ELEMENTS // max(1, len(b)))
        parts = [(part @ b.T / d + 1).pow(3).sum() for part in a.split(step)]
        return torch.stack(parts).sum()

    x, y = real.double(), fake.double()
    own = [((v.square().sum(dim=1) / d + 1).pow(3)).sum() for v in (x, y)]
    within = (kernel_sum(x, x) - own[0]) / (n * (n - 1)) + (kernel_sum(y, y) - own[1]) / (m * (m - 1))
    return within - 2 * kernel_sum(x, y) / (n * m)


# --- prdc one by one, for the catalogue -----------------------------------------------------------------------------


def precision(prdc: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Share of rows inside the ball of some reference row, which reaches to that row's 5th neighbour, in [0, 1].

    Raises:
        Undefined: if either bank has 5 rows or fewer.
    """
    return prdc["precision"]


def recall(prdc: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Share of reference rows inside the ball of some row, which reaches to that row's 5th neighbour, in [0, 1].

    Raises:
        Undefined: if either bank has 5 rows or fewer.
    """
    return prdc["recall"]


def density(prdc: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Mean number of reference balls (to the 5th neighbour) that a row is in, over 5; about 1 for equal distributions.

    Raises:
        Undefined: if either bank has 5 rows or fewer.
    """
    return prdc["density"]


def coverage(prdc: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Share of reference rows whose ball (to the 5th neighbour) holds a row, in [0, 1]; 1−2⁻⁵ for equal distributions.

    Raises:
        Undefined: if either bank has 5 rows or fewer.
    """
    return prdc["coverage"]


def sym_precision(prdc: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The smaller of precision and the coverage with the roles swapped, in [0, 1].

    Raises:
        Undefined: if either bank has 5 rows or fewer.
    """
    return prdc["sym_precision"]


def sym_recall(prdc: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The smaller of recall and coverage, in [0, 1].

    Raises:
        Undefined: if either bank has 5 rows or fewer.
    """
    return prdc["sym_recall"]


def authenticity(reference_rows: Float[Tensor, "m d"], rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Share of rows that are further from their nearest reference row than that one is from its own nearest, in [0, 1].

    It falls where rows are copies of reference rows (generated from memory, or a leak into validation). What it is
    without copies depends on the features' dimension: of Gaussians, one third in one dimension, one half in five, 0.85
    in 64. So compare windows, not with one half. Source: Alaa et al. (2022), "How Faithful is your Synthetic Data?"
    (arXiv 2102.08921). Of banks: copies whose original isn't in the reference's bank are not seen.

    Raises:
        Undefined: without rows, or if the reference's bank has fewer than two.
    """
    if len(reference_rows) < 2 or not len(rows):
        raise Undefined(
            f"needs 2 rows in the reference's bank and a row here, got {len(reference_rows)} and {len(rows)}"
        )
    _, nearest = ops.knn(rows, reference_rows, 1)
    near, own = ops.knn(reference_rows, reference_rows, min(5, len(reference_rows) - 1), exclude_self=True)
    first = (near > 0).double().argmax(dim=1)  # copies within the reference are no neighbours
    other = own.gather(1, first[:, None]).squeeze(1)
    there = reference_rows[nearest[:, 0]]
    return (_squares(rows, there) > _squares(there, reference_rows[other][nearest[:, 0]])).double().mean()
