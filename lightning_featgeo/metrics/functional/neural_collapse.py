"""Class structure: the four neural-collapse measures and class-distance normalised variance.

Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep learning training"
(arXiv 2008.08186). CDNV: Galanti, György & Hutter (2022), "On the Role of Neural Collapse in Transfer Learning"
(arXiv 2112.15121). Neural collapse is a training-set phenomenon, often a success; on validation data the same
numbers tell class separation. Classes with fewer than two rows are left out everywhere. Centre of the class means
is their unweighted average, so that Σ_B has rank C−1 also for unequal classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.pairs import mean_over_distances, mean_over_pairs
from lightning_featgeo.metrics.functional.segments import at_once
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

MIN_ROWS = 2


def _used(class_counts: Tensor, at_least: int = 2) -> Tensor:
    used = class_counts >= MIN_ROWS
    found = int(used.sum())
    if found < at_least:
        raise Undefined(f"needs {at_least} classes with at least {MIN_ROWS} rows each, found {found}")
    return used


def _centred_means(class_means: Tensor, class_counts: Tensor) -> Tensor:
    means = class_means[_used(class_counts)]
    return means - means.mean(dim=0)


@dataclass(frozen=True)
class ClassDeviations:
    """Rows that tell a within-class scatter which was not kept: a sample of ``of`` rows, and μ_c of them all."""

    rows: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    means: Float[Tensor, "c d"]
    of: int

    def along(self, directions: Float[Tensor, "r d"], block: int = 128) -> Float[Tensor, " r"]:
        """Σ over all rows of (v·(x−μ_c))², from those that are there."""
        total = directions.new_zeros(len(directions))
        for rows, labels in zip(self.rows.split(block), self.labels.split(block), strict=True):
            total += ((rows.double() - self.means[labels]) @ directions.T).square().sum(dim=0)
        return total * (self.of / max(len(self.rows), 1))


def nc1(
    class_means: Float[Tensor, "c d"],
    class_counts: Int64[Tensor, " c"],
    within_scatter: Float[Tensor, "d d"] | ClassDeviations,
    class_share: float = 1.0,
) -> Float[Tensor, ""]:
    """NC1, within-class variability collapse: tr(Σ_W Σ_B⁺)/C, never negative; 0 is full collapse.

    Σ_W is the average over rows, Σ_B over classes; Σ_B⁺ is truncated to rank C−1. Float64 throughout.

    Args:
        class_means: μ_c.
        class_counts: rows a class.
        within_scatter: Σ over rows of (x−μ_c)(x−μ_c)ᵀ, or rows that tell it.
        class_share: the share of all classes that are here, where they were drawn: the others are taken for alike.

    Raises:
        Undefined: with fewer than two usable classes, or if all class means coincide.
    """
    used = _used(class_counts)
    centred = _centred_means(class_means, class_counts)
    classes = centred.shape[0]
    _, s, vt = torch.linalg.svd(centred, full_matrices=False)
    s, vt = s[: classes - 1], vt[: classes - 1]
    real = s > max(centred.shape) * torch.finfo(torch.float64).eps * s[:1]
    if not bool(real.any()):
        raise Undefined("all class means coincide: there is no between-class scatter to compare with")
    s, vt = s[real], vt[real]
    if isinstance(within_scatter, ClassDeviations):
        along = within_scatter.along(vt)
    else:
        along = ((vt @ within_scatter) * vt).sum(dim=1).clamp(min=0)
    spread = along / class_counts[used].sum()
    # Σ_B⁺ = C Σ v vᵀ/s², and the C cancels with the 1/C in front, if all classes are here
    return (spread / s.square()).sum() * class_share


def nc1_ratio(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], class_variances: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """The cheap form of NC1: trΣ_W/trΣ_B, ≥ 0.

    Args:
        class_means: μ_c.
        class_counts: rows a class.
        class_variances: mean squared distance of a class's rows to its mean.

    Raises:
        Undefined: with fewer than two usable classes, or if all class means coincide.
    """
    used = _used(class_counts)
    between = _centred_means(class_means, class_counts).square().sum(dim=1).mean()
    if not between > 0:
        raise Undefined("all class means coincide: there is no between-class scatter to compare with")
    n = class_counts[used].double()
    return (n * class_variances[used]).sum() / n.sum() / between


def nc2_equinorm(class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """NC2, equal lengths: std/mean over classes of ‖μ_c−μ‖ (sample std), ≥ 0; 0 when all are equally long.

    Raises:
        Undefined: with fewer than two usable classes, or if all class means coincide.
    """
    norms = torch.linalg.vector_norm(_centred_means(class_means, class_counts), dim=1)
    if not norms.mean() > 0:
        raise Undefined("all class means coincide: their centred lengths are zero")
    deviation: Tensor = norms.std()
    return deviation / norms.mean()


def nc2_equiangle(class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """NC2, equal angles: mean over pairs of |cos(μ_c−μ, μ_c'−μ) + 1/(C−1)|, ≥ 0; 0 for a simplex ETF.

    Raises:
        Undefined: with fewer than two usable classes, or if a class mean lies on the centre of all.
    """
    centred = _centred_means(class_means, class_counts)
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise Undefined("a class mean lies exactly on the centre of all classes: it has no angle")
    unit = centred / norms
    classes = unit.shape[0]
    return mean_over_pairs(unit, lambda cosine: (cosine + 1 / (classes - 1)).abs())


def nc2_equinorm_orthogonal(class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """NC2 against the orthogonal target, equal lengths: std/mean of ‖μ_c‖, **uncentred** (sample std), ≥ 0.

    Without bias, with MSE, or with unequal classes the limit is an orthogonal frame, whose lengths follow the class
    counts (Dang et al., 2023, "Neural Collapse in Deep Linear Networks", arXiv 2301.00437).

    Raises:
        Undefined: with fewer than two usable classes, or if all class means are zero.
    """
    norms = torch.linalg.vector_norm(class_means[_used(class_counts)], dim=1)
    if not norms.mean() > 0:
        raise Undefined("all class means are zero")
    return norms.std() / norms.mean()


def nc2_equiangle_orthogonal(class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """NC2 against the orthogonal target: mean over pairs of |cos(μ_c, μ_c')|, **uncentred**, in [0, 1].

    Raises:
        Undefined: with fewer than two usable classes, or if a class mean is zero.
    """
    means = class_means[_used(class_counts)]
    norms = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise Undefined("a class mean is zero: it has no angle")
    return mean_over_pairs(means / norms, torch.abs)


def gnc2(class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """Hyperspherical uniformity of class means: mean over pairs of ln(1/‖u_i−u_j‖), u normalised centred means.

    Source: Liu et al. (2023), "Generalizing and Decoupling Neural Collapse via Hyperspherical Uniformity Gap"
    (arXiv 2303.06484). Defined also for more classes than dimensions, where no simplex fits. ≥ −ln 2.

    Raises:
        Undefined: with fewer than two usable classes, or if two means have the same direction or none.
    """
    centred = _centred_means(class_means, class_counts)
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise Undefined("a class mean lies exactly on the centre of all classes: it has no direction")
    return mean_over_distances(
        centred / norms,
        lambda squares, rows, columns: -0.5 * squares.log(),
        lambda: Undefined("two class means have the same direction"),
    )


def nc3(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], head_weight: Float[Tensor, "h e"]
) -> Float[Tensor, ""]:
    """NC3, self-duality: ‖Wᵀ/‖W‖_F − M/‖M‖_F‖_F, in [0, 2]; 0 when weights and centred means are aligned.

    Args:
        class_means: μ_c.
        class_counts: rows a class; classes left out drop their row of W too.
        head_weight: the classifier's weight, (C, d).

    Raises:
        Undefined: if the head's shape is another, a matrix is zero, or fewer than two classes are usable.
    """
    if head_weight.shape != class_means.shape:
        raise Undefined(
            f"the head's weight is {tuple(head_weight.shape)}, the class means are {tuple(class_means.shape)}"
        )
    centred = _centred_means(class_means, class_counts)
    weight = head_weight[_used(class_counts)].to(centred.dtype)
    length, weight_length = torch.linalg.matrix_norm(centred), torch.linalg.matrix_norm(weight)
    if not (length > 0 and weight_length > 0):
        raise Undefined("the class means coincide or the head's weight is zero: there is no direction to compare")
    return torch.linalg.matrix_norm(weight / weight_length - centred / length)


def nc4(
    labelled_rows: Float[Tensor, "n d"],
    class_means: Float[Tensor, "c d"],
    class_counts: Int64[Tensor, " c"],
    head_weight: Float[Tensor, "h e"],
    head_bias: Float[Tensor, " h"],
) -> Estimate:
    """NC4: share of rows on which the classifier and the nearest class mean disagree, in [0, 1].

    Args:
        labelled_rows: features to classify (the bank's labelled rows).
        class_means: the final μ_c.
        class_counts: rows a class.
        head_weight: W, (C, d).
        head_bias: b, (C,).

    Returns:
        The share, its binomial standard error, and the number of rows.

    Raises:
        Undefined: without rows or two usable classes, or if the head's shape is another.
    """
    if head_weight.shape != class_means.shape:
        raise Undefined(
            f"the head's weight is {tuple(head_weight.shape)}, the class means are {tuple(class_means.shape)}"
        )
    used = _used(class_counts)
    n = labelled_rows.shape[0]
    if n == 0:
        raise Undefined("no labelled row is in the bank")
    origin = class_means[used].mean(dim=0)
    means, weight = class_means - origin, head_weight.double()
    both, bias = torch.cat([weight, means]).T, weight @ origin + head_bias.double()
    differ = torch.zeros((), dtype=torch.int64, device=means.device)
    for rows in labelled_rows.split(at_once(max(both.shape))):
        scores, products = ((rows.double() - origin) @ both).split(len(means), dim=1)  # one pass over the rows
        predicted = (scores + bias).argmax(dim=1)
        squared = means.square().sum(dim=1) - 2 * products  # ‖x‖² is the same for every class
        differ += (predicted != squared.masked_fill(~used, torch.inf).argmin(dim=1)).sum()
    share = differ.double() / n
    return Estimate(share, (share * (1 - share) / n).sqrt(), n)


def cdnv(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], class_variances: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Class-distance normalised variance: mean over pairs of (v_i+v_j)/(2‖μ_i−μ_j‖²), ≥ 0; 0 is full separation.

    Args:
        class_means: μ_c.
        class_counts: rows a class.
        class_variances: v_c, mean squared distance of a class's rows to its mean.

    Raises:
        Undefined: with fewer than two usable classes, or if two class means coincide.
    """
    used = _used(class_counts)
    means, v = _centred_means(class_means, class_counts), class_variances[used]
    return mean_over_distances(
        means,
        lambda squares, rows, columns: (v[rows, None] + v[None, columns]) / (2 * squares),
        lambda: Undefined("two class means coincide: their distance is zero"),
    )
