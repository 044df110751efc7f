"""Regression: have the features collapsed to the targets' dimension, or below it?

Andriopoulos et al. (2024), "The Prevalence of Neural Collapse in Neural Multivariate Regression" (arXiv 2409.04180);
"Geometric Properties of Neural Multivariate Regression" (2025, arXiv 2510.01105).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.diffusion import squared_distances
from lightning_featgeo.metrics.functional.dimension import id_two_nn
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor

MOST_ROWS = 1024  # whose distances to each other are taken


def nrc1(
    rows_with_target: Float[Tensor, "n d"],
    targets: Float[Tensor, "n t"],
    mean: Float[Tensor, " d"],
    principal_directions: Float[Tensor, "d r"],
) -> Estimate:
    """NRC1: mean squared residual of centred, L2-normalised features outside their first t principal directions, in
    [0, 1].

    t is the dimension of the targets; 0 means that features have collapsed to as many directions as there are targets.

    Args:
        rows_with_target: features.
        targets: only their number of columns t counts.
        mean: of all features.
        principal_directions: eigenvectors of the covariance as columns, largest eigenvalue first; the first t count.

    Returns:
        The mean, its standard error over rows, and the number of rows (those on the mean are left out).

    Raises:
        Undefined: if t ≥ d, or with fewer than two rows off the mean.
    """
    t, d = targets.shape[1], rows_with_target.shape[1]
    if t >= d:
        raise Undefined(f"targets have {t} dimensions and features {d}: nothing lies outside")
    centred = rows_with_target.double() - mean
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    off = length.squeeze(1) > 0
    n = int(off.sum())
    if n < 2:
        raise Undefined("fewer than 2 rows lie off the mean")
    unit, inside = centred[off] / length[off], principal_directions[:, :t]
    residual = (unit - (unit @ inside) @ inside.T).square().sum(dim=1)
    return Estimate(residual.mean(), residual.std() / n**0.5, n)


def id_ratio(target_local_distances: Float[Tensor, "n k"], target_distances: Float[Tensor, "n j"]) -> Estimate:
    """Intrinsic dimension of the features divided by that of the targets, by TwoNN on the same rows;
    below 1 the model is over-compressed.

    Args:
        target_local_distances: of the features, to the nearest neighbours among rows that have a target.
        target_distances: of the targets, between the same rows.

    Returns:
        The ratio, its standard error from both, and the number of rows behind the features' dimension.

    Raises:
        Undefined: where either dimension is (discrete targets have no second distinct neighbour).
    """
    features = id_two_nn(target_local_distances)
    try:
        targets = id_two_nn(target_distances)
    except Undefined as reason:
        raise Undefined(f"the targets' dimension is undefined: {reason}") from None
    ratio = features.value / targets.value
    assert features.standard_error is not None
    assert targets.standard_error is not None
    relative = (features.standard_error / features.value) ** 2 + (targets.standard_error / targets.value) ** 2
    return Estimate(ratio, ratio * relative**0.5, features.n)


def distance_correlation(rows_with_target: Float[Tensor, "n d"], targets: Float[Tensor, "n t"]) -> Float[Tensor, ""]:
    """Distance correlation of features and targets, in [0, 1]; 0 only if they are independent. Of at most 1,024 rows.

    Source: Székely, Rizzo & Bakirov (2007), "Measuring and Testing Dependence by Correlation of Distances".

    Args:
        rows_with_target: features.
        targets: of the same rows.

    Raises:
        Undefined: with fewer than four rows, or if features or targets are all the same.
    """
    n = min(len(targets), MOST_ROWS)
    if n < 4:
        raise Undefined(f"needs 4 rows with a target, got {n}")

    def centred(points: Tensor) -> Tensor:
        distances = squared_distances(points[:n]).sqrt()
        return distances - distances.mean(dim=0) - distances.mean(dim=1, keepdim=True) + distances.mean()

    x, y = centred(rows_with_target), centred(targets)
    scale = torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)
    if not scale > 0:
        raise Undefined("the features, or the targets, are all the same")
    return ((x * y).sum() / scale).clamp(0, 1).sqrt()
