"""Neural collapse beyond the simplex: without bias, with classes of different sizes, of many classes, of outliers.

With a regularised squared loss and no bias, w_k and μ_k of a class are parallel at the optimum, and ‖w_k‖/‖μ_k‖ grows
as √n_k (Dang et al., 2023, "Neural Collapse in Deep Linear Networks", arXiv 2301.00437). ``nc3`` centres the means and
not the weights: it is far from 0 there.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.neural_collapse import MIN_ROWS
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

LEAST_RATIO = 1.5  # of the largest class to the smallest: below, sizes tell no slope


def nc3_orthogonal(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], head_weight: Float[Tensor, "h e"]
) -> Float[Tensor, ""]:
    """NC3 against the orthogonal target: mean over classes of 1 − cos(w_k, μ_k), **uncentred**, in [0, 2].

    Args:
        class_means: μ_c.
        class_counts: rows a class; classes without rows are left out.
        head_weight: the classifier's weight, (C, d).

    Raises:
        Undefined: if the head's shape is another, a mean or a weight is zero, or fewer than two classes have rows.
    """
    means, weight = _both(class_means, class_counts, head_weight)
    lengths = torch.linalg.vector_norm(means, dim=1) * torch.linalg.vector_norm(weight, dim=1)
    return (1 - (means * weight).sum(dim=1) / lengths).mean()


def nc_count_slope(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], head_weight: Float[Tensor, "h e"]
) -> Estimate:
    """Slope of ln(‖w_k‖/‖μ_k‖) on ln n_k over classes: 0.5 where weights and means follow the classes' sizes.

    Args: as :func:`nc3_orthogonal`.

    Returns:
        The least-squares slope, its standard error, and the number of classes.

    Raises:
        Undefined: as there; with fewer than three classes; or if the largest has less than 1.5 times the rows of the
            smallest.
    """
    means, weight = _both(class_means, class_counts, head_weight)
    counts = class_counts[class_counts > 0].double()
    if len(counts) < 3 or not counts.max() >= LEAST_RATIO * counts.min():
        raise Undefined(
            f"needs three classes of different sizes, the largest {LEAST_RATIO} times the smallest: got "
            f"{len(counts)} with {int(counts.min())} to {int(counts.max())} rows"
        )
    y = (torch.linalg.vector_norm(weight, dim=1) / torch.linalg.vector_norm(means, dim=1)).log()
    x = counts.log()
    away, up = x - x.mean(), y - y.mean()
    slope = (away * up).sum() / away.square().sum()
    left = (up - slope * away).square().sum() / (len(x) - 2)
    return Estimate(slope, (left / away.square().sum()).sqrt(), len(x))


def _both(means: Tensor, counts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Means and weights of the classes that have rows, none of them zero."""
    if weight.shape != means.shape:
        raise Undefined(f"the head's weight is {tuple(weight.shape)}, the class means are {tuple(means.shape)}")
    there = counts > 0
    if int(there.sum()) < 2:
        raise Undefined("needs two classes with rows")
    means, weight = means[there].double(), weight[there].double()
    if not bool((means != 0).any(dim=1).all() & (weight != 0).any(dim=1).all()):
        raise Undefined("a class mean or a class's weight is zero: it has no direction")
    return means, weight


def nc5(mean: Float[Tensor, " d"], reference_class_means: Float[Tensor, "c d"]) -> Float[Tensor, ""]:
    """NC5: mean over the reference's classes of |cos(μ_c, m)|, m the mean of this window's rows, in [0, 1].

    Of outliers it falls to 0 under neural collapse: Ammar et al. (2024), "NECO" (arXiv 2310.06823). Nothing is centred.

    Args:
        mean: of this window, taken for outliers.
        reference_class_means: of classes with rows.

    Raises:
        Undefined: if a mean is zero, or without classes in the reference.
    """
    lengths = torch.linalg.vector_norm(reference_class_means, dim=1) * torch.linalg.vector_norm(mean)
    if not lengths.numel() or not bool((lengths > 0).all()):
        raise Undefined("the mean of this window, or of a class of the reference, is zero")
    return (reference_class_means @ mean / lengths).abs().mean()


def nc3_uniform(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], head_weight: Float[Tensor, "c d"]
) -> Float[Tensor, ""]:
    """Uniform duality: variance over classes of cos(w_c, μ_c − m), m the mean of class means, in [0, 2]; 0 if all agree
    as much.

    Source: Wu & Papyan (2024), "Linguistic Collapse" (arXiv 2405.17767). Where there are more classes than dimensions,
    self-duality can't hold, and this can.

    Args:
        class_means: μ_c.
        class_counts: rows a class.
        head_weight: W.

    Raises:
        Undefined: with fewer than two usable classes, if a weight or a centred mean is zero, or if the head's shape is
            another.
    """
    if head_weight.shape != class_means.shape:
        raise Undefined(
            f"the head's weight is {tuple(head_weight.shape)}, the class means are {tuple(class_means.shape)}"
        )
    used = class_counts >= MIN_ROWS
    if int(used.sum()) < 2:
        raise Undefined(f"needs 2 classes with at least {MIN_ROWS} rows each, found {int(used.sum())}")
    centred = class_means[used] - class_means[used].mean(dim=0)
    weight = head_weight[used].double()
    lengths = torch.linalg.vector_norm(centred, dim=1) * torch.linalg.vector_norm(weight, dim=1)
    if bool((lengths == 0).any()):
        raise Undefined("a class mean lies on the centre of the class means, or a weight is zero")
    return ((centred * weight).sum(dim=1) / lengths).var()
