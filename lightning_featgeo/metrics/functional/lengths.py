"""Lengths of rows, and how near rows point to their class: what scores of normalised features don't see."""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.segments import at_once
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor


def feature_norm(rows: Float[Tensor, "n d"]) -> Estimate:
    """Mean Euclidean length of the bank's rows, ≥ 0, in the features' own units.

    Returns:
        The mean, its standard error, and the number of rows.

    Raises:
        Undefined: without rows.
    """
    length = _lengths(rows, 1)
    n = len(length)
    return Estimate(length.mean(), length.std() / n**0.5 if n > 1 else None, n)


def feature_norm_cv(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Standard deviation of the rows' lengths over their mean (the coefficient of variation), ≥ 0.

    Raises:
        Undefined: with fewer than two rows, or if every row is zero.
    """
    length = _lengths(rows, 2)
    if not length.max() > 0:
        raise Undefined("every row is zero")
    return length.std() / length.mean()


def _lengths(rows: Tensor, least: int) -> Tensor:
    if len(rows) < least:
        raise Undefined(f"needs {least} rows, got {len(rows)}")
    parts = rows.split(at_once(rows.shape[1]))
    return torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in parts])


def own_class_cosine(
    classified_rows: Float[Tensor, "n d"],
    labelled_row_labels: Int64[Tensor, " n"],
    class_means: Float[Tensor, "c d"],
    class_counts: Int64[Tensor, " c"],
) -> Estimate:
    """Mean cosine of a row with the mean of its class, both from the mean of all classes, in [−1, 1]; 1 if collapsed.

    Args:
        classified_rows: labelled rows of the bank.
        labelled_row_labels: their classes.
        class_means: of the window.
        class_counts: rows of each; classes of fewer than two are left out.

    Returns:
        The mean, its standard error, and the number of rows (those on the centre have no direction).

    Raises:
        Undefined: with fewer than two classes of two rows, or if no such row is off the centre.
    """
    used = class_counts >= 2
    if int(used.sum()) < 2:
        raise Undefined(f"needs 2 classes with at least 2 rows each, found {int(used.sum())}")
    centre = class_means[used].mean(dim=0)
    means = class_means - centre
    mean_lengths = torch.linalg.vector_norm(means, dim=1)
    cosines = [torch.zeros(0, dtype=torch.float64, device=means.device)]
    step = at_once(means.shape[1])
    for rows, labels in zip(classified_rows.split(step), labelled_row_labels.split(step), strict=True):
        row = rows.double() - centre
        lengths = torch.linalg.vector_norm(row, dim=1) * mean_lengths[labels]
        there = used[labels] & (lengths > 0)
        cosines.append(((row * means[labels]).sum(dim=1)[there] / lengths[there]).clamp(-1, 1))
    cosine = torch.cat(cosines)
    n = len(cosine)
    if not n:
        raise Undefined("no labelled row, or no class mean, is off the centre of the classes")
    return Estimate(cosine.mean(), cosine.std() / n**0.5 if n > 1 else None, n)
