"""What a linear read-out finds in the features, in closed form: nothing is trained, and no gradient is taken.

A ridge classifier (targets +1 for a row's class, −1 for the others) depends on the training rows only through class
counts, class means and the scatter of all of them: those are streamed, exactly and on any number of processes.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

_BLOCK = 512  # rows at a time, of which a cache holds many numbers
RIDGE = 1e-3  # of the scatter's average eigenvalue

Probe = tuple[Tensor, Tensor]  # (C, d) weight and (C,) bias; a bias of −inf where the class has no row


def ridge_classifier(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], within_scatter: Float[Tensor, "d d"]
) -> Probe:
    """argmin Σ_i ‖W(x_i − m) + t̄ − t_i‖² + λ‖W‖², t_i = 2·onehot − 1, λ = 1e-3 · tr(S)/d, S the scatter about m.

    Args:
        class_means: of the training rows.
        class_counts: of them.
        within_scatter: Σ (x − μ_c)(x − μ_c)ᵀ over them.

    Raises:
        Undefined: with fewer than two classes, or without any spread.
    """
    there, counts = class_counts > 0, class_counts.double()
    if int(there.sum()) < 2:
        raise Undefined(f"a classifier needs two classes, the reference has rows of {int(there.sum())}")
    n = counts.sum()
    mean = (counts @ class_means) / n
    apart = class_means - mean
    scatter = within_scatter + (apart * counts[:, None]).T @ apart
    ridge = RIDGE * scatter.diagonal().mean()
    if not ridge > 0:
        raise Undefined("the features of the reference have no spread")
    scatter.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(scatter)
    weight = torch.cholesky_solve((2 * counts[:, None] * apart).T, factor).T
    bias = 2 * counts / n - 1 - weight @ mean
    return weight, torch.where(there, bias, -torch.inf)


def linear_probe_accuracy(
    classified_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"], reference_probe: Probe
) -> Estimate:
    """Accuracy on the bank's labelled rows of a ridge classifier fitted to all rows of the reference, in [0, 1].

    Args:
        classified_rows: labelled rows of this window's bank.
        labelled_row_labels: their classes.
        reference_probe: the classifier, of the same classes.

    Returns:
        The share, its standard error √(p(1−p)/n), and n.

    Raises:
        Undefined: without labelled rows, a reference that keeps a covariance, two classes in it, or spread.
    """
    weight, bias = reference_probe
    scores = [rows.to(weight) @ weight.T + bias for rows in classified_rows.split(_BLOCK)]
    return _share(torch.cat([part.argmax(dim=1) for part in scores]) if scores else None, labelled_row_labels)


def nearest_mean_accuracy(
    classified_rows: Float[Tensor, "n d"],
    labelled_row_labels: Int64[Tensor, " n"],
    class_means: Float[Tensor, "c d"],
    class_counts: Int64[Tensor, " c"],
) -> Estimate:
    """Share of the bank's labelled rows whose nearest class mean, by Euclidean distance, is that of their own class.

    Means are of all rows of the window, the row itself among them. No head is read.

    Args:
        classified_rows: labelled rows of the bank.
        labelled_row_labels: their classes.
        class_means: of the window.
        class_counts: rows of each.

    Returns:
        The share, its standard error √(p(1−p)/n), and n.

    Raises:
        Undefined: without labelled rows, or with fewer than two classes.
    """
    if int((class_counts > 0).sum()) < 2:
        raise Undefined("needs two classes with rows")
    centre = class_means[class_counts > 0].mean(dim=0)  # distances of rows far from the origin keep their digits
    means = class_means - centre
    bias = torch.where(class_counts > 0, -means.square().sum(dim=1) / 2, -torch.inf)
    scores = [(rows.to(means) - centre) @ means.T + bias for rows in classified_rows.split(_BLOCK)]
    return _share(torch.cat([part.argmax(dim=1) for part in scores]) if scores else None, labelled_row_labels)


def _share(found: Tensor | None, labels: Tensor) -> Estimate:
    n = len(labels)
    if found is None or not n:
        raise Undefined("no row has a label")
    share = (found == labels).double().mean()
    return Estimate(share, (share * (1 - share) / n).sqrt(), n)


def linear_probe_r2(
    rows_with_target: Float[Tensor, "n d"],
    targets: Float[Tensor, "n t"],
    reference_rows_with_target: Float[Tensor, "m d"],
    reference_targets: Float[Tensor, "m t"],
) -> Float[Tensor, ""]:
    """R² on the bank's rows of a ridge regression of the targets on the features of the reference's bank, ≤ 1.

    λ = 1e-3 of the scatter's average eigenvalue. The mean over targets that vary.

    Args:
        rows_with_target: of this window's bank.
        targets: their targets.
        reference_rows_with_target: of the reference's bank.
        reference_targets: their targets.

    Raises:
        Undefined: without two rows with a target here and there, or if no feature or no target varies.
    """
    x, y = reference_rows_with_target.double(), reference_targets.double()
    if min(len(x), len(targets)) < 2:
        raise Undefined("needs two rows with a target, in this window and in the reference")
    mean, level = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean, y - level
    wide = x.shape[1] > x.shape[0]
    product = x @ x.T if wide else x.T @ x
    ridge = RIDGE * product.trace() / x.shape[1]
    if not ridge > 0:
        raise Undefined("the features of the reference have no spread")
    product.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(product)
    weight = x.T @ torch.cholesky_solve(y, factor) if wide else torch.cholesky_solve(x.T @ y, factor)
    here = targets.double()
    left = (here - level - (rows_with_target.double() - mean) @ weight).square().sum(dim=0)
    spread = (here - here.mean(dim=0)).square().sum(dim=0)
    varies = spread > 1e-20 * here.square().sum(dim=0)
    if not bool(varies.any()):
        raise Undefined("no target varies in this window")
    return (1 - left[varies] / spread[varies]).mean()
